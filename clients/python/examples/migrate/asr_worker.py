from services.common.locks import (
    SmartGpuLockManager,
    get_gpu_lock_status,
    gpu_lock,
)


class AsrTask:
    name = "asr"

    @gpu_lock(lock_key="gpu_lock:0", timeout=600, max_wait_time=300, event_driven=True)
    def run(self, file):
        status = get_gpu_lock_status("gpu_lock:0")
        print("holder:", status["lock_holder"].split(":")[0], "ttl:", status["ttl_seconds"])
        return f"text of {file}"


print(AsrTask().run("a.wav"))

config = {"max_wait_time": 1, "lock_timeout": 600, "poll_interval": 0.5}
manager = SmartGpuLockManager()
print("tts acquired:", manager.acquire_lock_with_smart_polling("tts", "gpu_lock:0", config))
other = SmartGpuLockManager()
print("llm acquired:", other.acquire_lock_with_smart_polling("llm", "gpu_lock:0", config))
print("llm released:", other.release_lock("llm", "gpu_lock:0"))
print("tts released:", manager.release_lock("tts", "gpu_lock:0", "normal"))
print("violations:", manager.get_exception_statistics()["ownership_violations"])

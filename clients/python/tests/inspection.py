"""Reads INSPECT and STATS from a server with the module, with field names as text."""

LOCK = "gpu_lock:0"


def _parse_map(reply):
    if isinstance(reply, list):
        reply = dict(zip(reply[::2], reply[1::2]))
    return {name.decode(): value for name, value in (reply or {}).items()}


def inspect(client, key=LOCK):
    return _parse_map(client.execute_command("GPULOCK.INSPECT", key))


def waiting(client, key=LOCK):
    return inspect(client, key).get("waiting", 0)


def stats(client):
    return _parse_map(client.execute_command("GPULOCK.STATS"))

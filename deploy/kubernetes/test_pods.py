"""Runs the pods of this folder without a cluster: each container as its manifest describes it.

Called by test.sh in a network namespace of its own, as root. Takes the command, the arguments, the
environment, the volumes, the user and the probes from the manifests. An image is replaced by the
file system of this machine, with the programs of GPULOCK and the server where the image has them. A
container gets its own mount and PID namespaces, in which its command is process 1.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request

import yaml

HERE = pathlib.Path(__file__).parent
TOP = HERE.parent.parent
PORT = 6379


def loopback_up():
    with socket.socket() as sock:
        request = struct.pack("16sH14x", b"lo", 1)  # IFF_UP
        fcntl.ioctl(sock, 0x8914, request)  # SIOCSIFFLAGS


def manifests(text):
    return [one for one in yaml.safe_load_all(text) if one]


def wait_until(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out after {seconds} s waiting for {what}")
        time.sleep(0.02)


class Cluster:
    """What the pods share: the folder of the volumes, the ConfigMaps, the Secrets, the images."""

    def __init__(self, folder, module, command, server, cli):
        self.folder = folder
        secrets = subprocess.check_output([HERE / "secrets.sh"], text=True)
        documents = manifests(secrets)
        for file in ("server.yaml", "worker.yaml"):
            documents += manifests((HERE / file).read_text())
        self.objects = {(one["kind"], one["metadata"]["name"]): one for one in documents}
        self.image = folder / "image"
        for path in ("data", "module", "gpulock", "etc/gpulock/server", "etc/gpulock/users",
                     "etc/gpulock/reader", "etc/gpulock/worker", "usr/lib/gpulock",
                     "usr/local/bin", "usr/bin"):
            (self.image / path).mkdir(parents=True, exist_ok=True)
        self.install(module, "usr/lib/gpulock/libgpulock.so")
        self.install(command, "usr/bin/gpulock")
        for name, program in (("redis-server", server), ("redis-cli", cli)):
            wrapper = self.image / "usr/local/bin" / name
            wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(program)} "$@"\n')
            wrapper.chmod(0o755)
        # A GPU: the stub of the driver's library, as the container toolkit would add the library.
        multiarch = subprocess.check_output(["cc", "-print-multiarch"], text=True).strip()
        libraries = self.image / "usr/lib" / multiarch
        libraries.mkdir(exist_ok=True)
        subprocess.check_call(["cc", "-shared", "-fPIC", "-o", libraries / "libnvidia-ml.so.1",
                               TOP / "cli/tests/run/nvml.c"])
        (self.image / "gpus").write_text("GPU-5a1c 1000\n")
        # The cluster's DNS.
        (self.image / "etc/hosts").write_text("127.0.0.1 localhost gpulock.gpulock.svc\n")

    def install(self, source, target):
        subprocess.check_call(["install", "-m", "755", source, self.image / target])

    def secret(self, name):
        return self.objects["Secret", name]["stringData"]


class Pod:
    """A pod of a template, with its volumes."""

    def __init__(self, cluster, name, spec, claims=()):
        self.cluster, self.name, self.spec = cluster, name, spec
        self.user = spec["securityContext"]
        self.running = {}
        self.volumes = {}
        for claim in claims:
            self.volumes[claim["metadata"]["name"]] = self.make_folder(claim["metadata"]["name"])
        for volume in spec["volumes"]:
            path = self.make_folder(volume["name"])
            self.volumes[volume["name"]] = path
            if "configMap" in volume:
                config = cluster.objects["ConfigMap", volume["configMap"]["name"]]
                self.fill(path, config["data"], 0o644)
            elif "secret" in volume:
                content = cluster.secret(volume["secret"]["secretName"])
                self.fill(path, content, volume["secret"]["defaultMode"])
            else:
                assert "emptyDir" in volume, volume

    def make_folder(self, name):
        path = self.cluster.folder / "volumes" / self.name / name
        path.mkdir(parents=True)
        os.chown(path, 0, self.user["fsGroup"])
        path.chmod(0o2775)
        return path

    def fill(self, folder, files, mode):
        for name, text in files.items():
            path = folder / name
            path.write_text(text)
            path.chmod(mode)
            os.chown(path, 0, self.user["fsGroup"])

    def container(self, name):
        all_of_them = self.spec["initContainers"] + self.spec["containers"]
        return next(one for one in all_of_them if one["name"] == name)

    def run_init_containers(self):
        for container in self.spec["initContainers"]:
            status = self.start(container["name"]).process.wait()
            assert status == 0, (container["name"], status, self.log(container["name"]))

    def start(self, name, **changes):
        started = Container(self, {**self.container(name), **changes})
        self.running[name] = started
        return started

    def log(self, name):
        return (self.cluster.folder / f"{self.name}-{name}.log").read_text()


class Container:
    """A running container. Its command is process 1 of a PID namespace."""

    def __init__(self, pod, manifest):
        self.pod, self.manifest = pod, manifest
        folder = pod.cluster.folder
        root = folder / "roots" / f"{pod.name}-{manifest['name']}"
        root.mkdir(parents=True, exist_ok=True)
        words = manifest["command"] + manifest.get("args", [])
        context = manifest["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["capabilities"]["drop"] == ["ALL"]
        assert not context["allowPrivilegeEscalation"]
        lines = ["set -e", f"root={shlex.quote(str(root))}",
                 # Two lower layers without an upper one: read-only.
                 f"mount -t overlay overlay -o lowerdir={pod.cluster.image}:/ $root",
                 "mount --rbind /dev $root/dev",
                 "mount -t proc -o nosuid,nodev,noexec proc $root/proc"]
        for mount in manifest.get("volumeMounts", []):
            at = f"$root{mount['mountPath']}"
            lines.append(f"mount --bind {pod.volumes[mount['name']]} {at}")
            if mount.get("readOnly"):
                lines.append(f"mount -o remount,bind,ro {at}")
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "STUB_GPUS": "/gpus"}
        variables |= {one["name"]: one["value"] for one in manifest.get("env", [])}
        env = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        lines.append("exec chroot $root " + shlex.join([*env, *self.as_user(), "--", *words]))
        with open(folder / f"{pod.name}-{manifest['name']}.log", "a") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c",
                 "\n".join(lines)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def as_user(self):
        user = self.pod.user
        return ["/usr/bin/setpriv", f"--reuid={user['runAsUser']}", f"--regid={user['runAsGroup']}",
                f"--groups={user['fsGroup']}", "--no-new-privs", "--inh-caps=-all",
                "--bounding-set=-all"]

    def pid(self):
        """Its process 1, as the kubelet sees it."""
        unshare = self.process.pid
        children = pathlib.Path(f"/proc/{unshare}/task/{unshare}/children")
        return int(wait_until("process 1", children.read_text))

    def signal(self, number):
        os.kill(self.pid(), number)

    def execute(self, command, timeout=None):
        """Its exit status, as of `kubectl exec` or an exec probe."""
        enter = ["nsenter", "--target", str(self.pid()), "--mount", "--pid", "--root", "--wd",
                 *self.as_user(), "--", *command]
        return subprocess.run(enter, timeout=timeout, capture_output=True, text=True,
                              env={"PATH": "/usr/local/bin:/usr/bin:/bin"})

    def probe(self, kind):
        """Whether a probe succeeds."""
        probe = self.manifest[kind]
        timeout = probe.get("timeoutSeconds", 1)
        if "exec" in probe:
            try:
                return self.execute(probe["exec"]["command"], timeout).returncode == 0
            except subprocess.TimeoutExpired:
                return False
        get = probe["httpGet"]
        port = next(one["containerPort"] for one in self.manifest["ports"]
                    if one["name"] == get["port"])
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{get['path']}", timeout=timeout):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def stop(self, seconds):
        """TERM, as before the end of a pod. Its exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds)


class Tests:
    def __init__(self, cluster):
        self.cluster = cluster
        server = cluster.objects["StatefulSet", "gpulock-server"]["spec"]
        self.server_pod = Pod(cluster, "server", server["template"]["spec"],
                              server["volumeClaimTemplates"])
        self.workers = 0

    def call(self, user, *words):
        """The reply to a command, as JSON."""
        password = self.cluster.secret(f"gpulock-{user}")["password"]
        cli = self.cluster.image / "usr/local/bin/redis-cli"
        reply = subprocess.run([cli, "-p", str(PORT), "--no-auth-warning", "-e", "--json", "--user",
                                user, "--pass", password, *words], capture_output=True, text=True)
        assert reply.returncode == 0, (words, reply.stdout, reply.stderr)
        return json.loads(reply.stdout)

    def holders(self):
        locks = self.call("watchdog", "GPULOCK.LIST")
        if locks and isinstance(locks[0], list):
            locks = [dict(zip(lock[::2], lock[1::2], strict=True)) for lock in locks]
        return {lock["key"]: lock["owner"] for lock in locks}

    def start_worker(self, script, **changes):
        """Starts the worker's pod with this script as its command."""
        self.workers += 1
        spec = self.cluster.objects["Job", "train"]["spec"]["template"]["spec"]
        pod = Pod(self.cluster, f"worker{self.workers}", spec)
        pod.run_init_containers()
        return pod, pod.start("train", args=["python3", "-u", "-c", script], **changes)

    def wait_log(self, pod, text):
        wait_until(f"{text!r} in the log of {pod.name}", lambda: text in pod.log("train"))

    def server_starts_and_its_probes_succeed(self):
        self.server_pod.run_init_containers()
        server = self.server_pod.start("server")
        wait_until("the startup probe", lambda: server.probe("startupProbe"))
        assert server.probe("readinessProbe") and server.probe("livenessProbe")
        assert (self.server_pod.volumes["data"] / "appendonlydir").is_dir()

    def probes_fail_while_the_server_hangs(self):
        server = self.server_pod.running["server"]
        server.signal(signal.SIGSTOP)
        assert not server.probe("livenessProbe")
        server.signal(signal.SIGCONT)
        wait_until("the liveness probe", lambda: server.probe("livenessProbe"))

    def the_command_shows_the_locks_as_the_readme_describes(self):
        listed = subprocess.run(
            [self.cluster.image / "usr/bin/gpulock", "ls", "--json"],
            env={"GPULOCK_URL": "redis://watchdog@127.0.0.1:6379",
                 "REDISCLI_AUTH": self.cluster.secret("gpulock-watchdog")["password"]},
            capture_output=True, text=True)
        assert listed.returncode == 0 and json.loads(listed.stdout) is not None, listed

    def users_are_separate(self):
        cli = self.cluster.image / "usr/local/bin/redis-cli"
        for words, error in (
            (["PING"], "NOAUTH"),
            (["--user", "probe", "--pass", "probe", "GPULOCK.LIST"], "NOPERM"),
        ):
            reply = subprocess.run([cli, "--no-auth-warning", "-e", *words], capture_output=True,
                                   text=True)
            assert reply.returncode != 0 and error in reply.stdout + reply.stderr, reply

    def exporter_is_ready_with_the_server_only(self):
        exporter = self.server_pod.start("exporter")
        wait_until("the readiness probe", lambda: exporter.probe("readinessProbe"))
        assert exporter.probe("livenessProbe")
        with urllib.request.urlopen("http://127.0.0.1:9877/metrics") as reply:
            metrics = reply.read().decode()
        for line in ("gpulock_up", "gpulock_module_loaded"):
            assert f'{line}{{instance="127.0.0.1:6379"}} 1' in metrics, metrics
        assert 'gpulock_may_evict{instance="127.0.0.1:6379"} 0' in metrics, metrics
        assert exporter.stop(10) == 0
        password = self.server_pod.volumes["reader"] / "password"
        right = password.read_text()
        password.write_text("wrong")
        exporter = self.server_pod.start("exporter")
        wait_until("the liveness probe", lambda: exporter.probe("livenessProbe"))
        wait_until("the reason", lambda: "WRONGPASS" in refusal("http://127.0.0.1:9877/-/ready"))
        assert not exporter.probe("readinessProbe")
        assert exporter.stop(10) == 0
        password.write_text(right)

    def worker_returns_the_status_of_its_command(self):
        script = "import os; print(os.getppid(), os.environ['CUDA_VISIBLE_DEVICES']); exit(7)"
        pod, worker = self.start_worker(script)
        assert worker.process.wait(timeout=60) == 7, pod.log("train")
        assert "1 GPU-5a1c" in pod.log("train"), pod.log("train")
        assert self.holders() == {}

    def term_reaches_the_command_and_releases_the_lock(self):
        script = ("import signal, sys\n"
                  "signal.signal(signal.SIGTERM, lambda *_: (print('checkpoint'), sys.exit(3)))\n"
                  "print('started'); signal.pause()")
        pod, worker = self.start_worker(script)
        self.wait_log(pod, "started")
        assert len(self.holders()) == 1
        assert worker.stop(30) == 3, pod.log("train")
        assert "checkpoint" in pod.log("train")
        assert self.holders() == {}

    def term_ends_a_command_without_a_handler(self):
        pod, worker = self.start_worker("import time; print('started'); time.sleep(600)")
        self.wait_log(pod, "started")
        assert worker.stop(30) == 128 + signal.SIGTERM, pod.log("train")
        assert self.holders() == {}

    def an_interrupted_run_ends_although_process_1_ignores_the_signal(self):
        pod, worker = self.start_worker("import time; print('started'); time.sleep(600)")
        self.wait_log(pod, "started")
        worker.signal(signal.SIGINT)
        assert worker.process.wait(timeout=30) == 128 + signal.SIGINT, pod.log("train")
        assert self.holders() == {}

    def term_ends_a_wait(self):
        first_pod, first = self.start_worker("import time; print('started'); time.sleep(600)")
        self.wait_log(first_pod, "started")
        pod, waiting = self.start_worker("print('started')")
        self.wait_log(pod, "waiting")
        assert waiting.stop(30) == 128 + signal.SIGTERM, pod.log("train")
        assert "started" not in pod.log("train")
        assert first.stop(30) == 128 + signal.SIGTERM

    def orphans_are_reaped(self):
        # A grandchild that ends after its parent, which process 1 adopts.
        script = ("import os, time\n"
                  "if os.fork() == 0:\n"
                  "    if os.fork() == 0: time.sleep(0.2)\n"
                  "    os._exit(0)\n"
                  "os.wait(); print('started'); time.sleep(600)")
        pod, worker = self.start_worker(script)
        self.wait_log(pod, "started")
        states = ["ps", "-A", "-o", "stat=", "-o", "comm="]
        wait_until("the orphan's end",
                   lambda: worker.execute(states).stdout.count("python3") == 1)
        listed = worker.execute(states).stdout
        assert not [line for line in listed.splitlines() if line.startswith("Z")], listed
        worker.stop(30)

    def kill_ends_everything_and_the_lock_after_the_grace_period(self):
        command = self.server_pod.cluster.objects["Job", "train"]["spec"]["template"]["spec"]
        words = command["containers"][0]["command"]
        short = [word.replace("--grace=2m", "--grace=1s") for word in words]
        assert short != words
        pod, worker = self.start_worker("import time; print('started'); time.sleep(600)",
                                        command=short)
        self.wait_log(pod, "started")
        namespace = os.readlink(f"/proc/{worker.pid()}/ns/pid")
        worker.signal(signal.SIGKILL)
        worker.process.wait(timeout=10)
        wait_until("the lock's end", lambda: self.holders() == {}, 30)
        assert namespace not in list(namespaces()), "processes of the container are left"

    def worker_outlives_a_restart_of_the_server(self):
        pod, worker = self.start_worker("import time; print('started'); time.sleep(600)")
        self.wait_log(pod, "started")
        held = self.holders()
        server = self.server_pod.running["server"]
        assert server.stop(30) == 0, self.server_pod.log("server")
        # Longer than the default grace period of 5 s.
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=8)
            raise AssertionError(pod.log("train"))
        server = self.server_pod.start("server")
        wait_until("the startup probe", lambda: server.probe("startupProbe"))
        wait_until("the holder's return", lambda: self.holders() == held)
        assert worker.process.poll() is None, pod.log("train")
        assert worker.stop(30) == 128 + signal.SIGTERM
        wait_until("the lock's release", lambda: self.holders() == {})

    def server_saves_its_data_on_term(self):
        server = self.server_pod.running["server"]
        seconds = self.server_pod.spec["terminationGracePeriodSeconds"]
        assert server.stop(seconds) == 0, self.server_pod.log("server")


def refusal(url):
    """The body of a reply with status 503."""
    try:
        urllib.request.urlopen(url)
    except urllib.error.HTTPError as error:
        assert error.code == 503, error
        return error.read().decode()
    raise AssertionError(f"{url} is ready")


def namespaces():
    for process in pathlib.Path("/proc").glob("[0-9]*/ns/pid"):
        with contextlib.suppress(OSError):
            yield os.readlink(process)


def main():
    folder, *programs = sys.argv[1:]
    loopback_up()
    tests = Tests(Cluster(pathlib.Path(folder), *programs))
    names = [name for name, value in vars(Tests).items()
             if callable(value) and name not in ("__init__", "call", "holders", "start_worker",
                                                 "wait_log")]
    for name in names:
        start = time.monotonic()
        try:
            getattr(tests, name)()
        except BaseException:
            for log in sorted(tests.cluster.folder.glob("*.log")):
                print(f"---- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
            raise
        print(f"{name.replace('_', ' ')}: ok ({time.monotonic() - start:.1f} s)")


main()

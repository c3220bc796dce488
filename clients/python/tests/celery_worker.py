"""Runs a real Celery worker for the tests."""

import os
import signal
import subprocess
import sys
import time

from servers import eventually

CELERY = [sys.executable, "-m", "celery"]
OPTIONS = ["-l", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]


class Worker:
    """A worker for the Celery project in the file ``project``, which logs to ``folder``."""

    def __init__(self, project, url, folder, *options, **environment):
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*CELERY, "-A", project.stem, "worker", *OPTIONS, *options],
                cwd=project.parent,
                env={**os.environ, "REDIS_URL": url, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually(lambda: self.process.poll() is not None or " ready." in self.text(), 60)
        assert self.process.poll() is None, self.text()

    def text(self):
        return self.log.read_text()

    def close(self):
        # Kills its children too: the process group started above.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

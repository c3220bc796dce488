"""The Python process of a session."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from . import terminal
from .terminal import NotFinishedError, Output

_PROGRAM = Path(__file__).with_name("python_program.py")


class PythonSession:
    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        replies, write = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), str(write)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            pass_fds=(write,),
            start_new_session=True,
        )
        os.close(write)
        assert self._process.stderr
        self._replies = Output(replies)
        self._errors = Output(self._process.stderr.fileno())

    def execute(self, source: str, name: str, mode: str) -> tuple[str, str | None]:
        """What it printed, and the traceback of its exception. `mode` is that of `compile`."""
        assert self._process.stdin
        request = json.dumps({"source": source, "name": name, "mode": mode})
        self._process.stdin.write(request.encode() + b"\n")
        self._process.stdin.flush()
        if not self._replies.wait(lambda text: "\n" in text, terminal.PATIENCE):
            raise NotFinishedError(self._errors.text())
        reply = json.loads(self._replies.take(re.compile("\n"))[0])
        return reply["printed"], reply["error"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

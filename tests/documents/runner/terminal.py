"""A terminal: a shell, and redis-cli."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# Seconds until a command must have ended.
PATIENCE = 20.0

_WIDTH = 500
_SETTINGS = Path(__file__).with_name("shell.bashrc")
_END = re.compile("\x1e(\\d+)\x1e")
EVERYTHING = re.compile(r"\Z")
# What an interactive shell prints about background jobs.
_JOB = re.compile(r"(?m)^\[\d+\](?: \d+|[-+ ] +(?:Done|Exit|Killed|Terminated)\b.*)\n")


class NotFinishedError(Exception):
    """A command did not end in time."""

    def __init__(self, output: str) -> None:
        super().__init__(f"not finished after {PATIENCE:g} s; it printed\n{output}")


class EndedError(Exception):
    """The shell has ended."""


class Output:
    """What a program prints, read by a thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._bytes = b""
        self._ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                more = os.read(self._descriptor, 65536)
            except OSError:  # the other end of the terminal is closed
                more = b""
            with self._changed:
                self._bytes += more
                self._ended = not more
                self._changed.notify_all()
                if self._ended:
                    return

    def _text(self) -> str:
        return self._bytes.decode(errors="replace").replace("\r", "")

    def text(self) -> str:
        with self._changed:
            return self._text()

    def wait(self, condition: Callable[[str], object], seconds: float) -> bool:
        """Waits until the condition holds for the text. False: it did not in time."""
        end = time.monotonic() + seconds
        with self._changed:
            while not condition(self._text()):
                if self._ended or not self._changed.wait(max(0.0, end - time.monotonic())):
                    return bool(condition(self._text()))
        return True

    def ended(self) -> bool:
        with self._changed:
            return self._ended

    def take(self, end: re.Pattern[str]) -> tuple[str, re.Match[str]]:
        """Removes the text up to the match of `end`, which it contains."""
        with self._changed:
            text = self._text()
            found = end.search(text)
            assert found
            self._bytes = text[found.end() :].encode()
            return text[: found.start()], found


class Shell:
    """An interactive bash on a pseudo terminal of its own."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._master, terminal = pty.openpty()
        size = struct.pack("HHHH", 50, _WIDTH, 0, 0)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
        shell = ["bash", "--noprofile", "--noediting", "--rcfile", str(_SETTINGS), "-i"]
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *shell],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=environment,
            cwd=folder,
        )
        os.close(terminal)
        descriptor, name = tempfile.mkstemp(prefix="gpulock-command-")
        os.close(descriptor)
        self._command = Path(name)
        self.output = Output(self._master)
        self._running = True
        self.finish()

    def send(self, command: str) -> None:
        """Executes a command as if it was typed. A terminal limits the length of a line."""
        self._command.write_text(command + "\n")
        self._running = True
        typed = f". {self._command}\n"
        self.type(typed)
        # The terminal prints what is typed.
        if not self.output.wait(lambda text: typed in text, PATIENCE):
            raise EndedError(self.output.text())
        self.output.take(re.compile(re.escape(typed)))

    def type(self, keys: str) -> None:
        """Types keys while a command runs."""
        os.write(self._master, keys.encode())

    def finish(self) -> tuple[str, int]:
        """The output and the status of the command. Both are empty if it has ended before."""
        if not self._running:
            return "", 0
        self._running = False
        if not self.output.wait(_END.search, PATIENCE):
            text = self.output.text()
            if self.output.ended():
                raise EndedError(text)
            self._interrupt()
            raise NotFinishedError(text)
        text, end = self.output.take(_END)
        return _JOB.sub("", text), int(end[1])

    def finished(self) -> bool:
        return bool(_END.search(self.output.text()))

    def wait_for_lines(self, lines: int) -> None:
        """Waits until the command has printed lines, or has ended."""
        self.output.wait(lambda text: text.count("\n") >= lines or _END.search(text), PATIENCE)

    def wait_for_job(self, output: str, lines: int) -> str:
        """The output of a job in the background, when it has printed lines."""
        missing = lines - output.count("\n")
        if missing > 0:
            self.output.wait(lambda text: text.count("\n") >= missing, PATIENCE)
            output += self.output.take(EVERYTHING)[0]
        return output

    def wait_for_question(self) -> None:
        self.output.wait(lambda text: text.endswith("[y/N] ") or _END.search(text), PATIENCE)

    def _interrupt(self) -> None:
        self.type("\x03")
        if self.output.wait(_END.search, 5):
            self.output.take(_END)

    def close(self) -> None:
        """Closes the terminal, as a window is closed."""
        self._process.kill()
        self._process.wait()
        self._command.unlink()


class RedisCli:
    """redis-cli. The end of a reply is marked by the reply of a second command."""

    def __init__(self, port: int, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["redis-cli", "-p", str(port), "--no-raw"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        assert self._process.stdout
        self.output = Output(self._process.stdout.fileno())
        self._number = 0
        self._running = False

    def send(self, command: str) -> None:
        assert self._process.stdin
        self._running = True
        self._number += 1
        self._process.stdin.write(f"{command}\nECHO end-{self._number}-of-reply\n".encode())
        self._process.stdin.flush()

    def _end(self) -> re.Pattern[str]:
        return re.compile(rf'"end-{self._number}-of-reply"\n')

    def finished(self) -> bool:
        return bool(self._end().search(self.output.text()))

    def finish(self) -> str:
        """The reply. It is empty if the command has ended before."""
        if not self._running:
            return ""
        self._running = False
        end = self._end()
        if not self.output.wait(end.search, PATIENCE):
            raise NotFinishedError(self.output.text())
        return self.output.take(end)[0]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

"""Consecutive blocks of a document: with their own server, terminals and Python process."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .blocks import REDIS_PROMPT, Block, DocumentError, Kind, Step, steps
from .compare import Identities, differences
from .python_session import PythonSession
from .server import REPOSITORY, Programs, Server, free_port, stop_processes_with
from .terminal import EVERYTHING, EndedError, NotFinishedError, RedisCli, Shell

# Seconds until a command that only shows the state must show the expected one.
SETTLE = 5.0

_STATUS = re.compile(r"\[exit status (\d+)\]")
_ELAPSED = re.compile(r"\(\d+\.\d\ds\)")
_PORT = re.compile(r"(?:(?<=127\.0\.0\.1:)|(?<=localhost:)|(?<=-p )|(?<=--port ))\d{4,5}\b")
_SHOWS_STATE = re.compile(
    r"\s*(?:gpulock (?:ls|inspect|queue|stats|log)\b(?!.* (?:-f|--follow)\b)|curl |cat |"
    r"(?:tail|head) |GPULOCK\.(?:INSPECT|LIST|STATS|LOG|METRICS)\b)",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"(.*\[y/N\] )(\S*)")
# redis-cli prints the time of a command that took half a second.
_SHOWN_ELAPSED = 0.5


@dataclass
class Failure:
    line: int
    message: str


def _started_on_time(shown: list[str], reply: str) -> str:
    """The reply of TTL as if it was called as early as in the document."""
    wanted, real = re.search(r"\d+", "".join(shown[:1])), re.search(r"\d+", reply)
    if wanted and real and 0 < int(wanted[0]) - int(real[0]) < SETTLE:
        return reply.replace(real[0], wanted[0])
    return reply


class _Terminal:
    def __init__(self) -> None:
        self.shell: Shell | None = None
        self.redis: RedisCli | None = None
        self.status = 0

    def close(self) -> None:
        for program in (self.shell, self.redis):
            if program:
                program.close()


class Session:
    def __init__(self, name: str, programs: Programs) -> None:
        self._name = name
        self._programs = programs
        self._temporary = tempfile.TemporaryDirectory(prefix="gpulock-document-")
        folder = Path(self._temporary.name)
        self._folder = folder / "work"
        for part in ("work", "home", "bin", "data", "device/proc/self/ns"):
            (folder / part).mkdir(parents=True)
        # As outside of containers, even if the test runs in one.
        (folder / "device/proc/self/ns/pid").symlink_to("pid:[4026531836]")
        (folder / "gpus").write_text("GPU-5a1c 81559\nGPU-9b7e 81559\n")
        self._server = Server(programs, folder / "data")
        self._ports = {"6379": str(self._server.port)}
        cli = folder / "bin/redis-cli"
        cli.write_text(f'#!/bin/sh\nexec "{programs.cli}" -p {self._server.port} "$@"\n')
        cli.chmod(0o755)
        self._mark = f"DOCUMENT_SESSION={uuid.uuid4()}"
        self._environment = {
            "PATH": os.pathsep.join(
                [
                    str(folder / "bin"),
                    str(programs.release),
                    str(Path(sys.executable).parent),
                    os.environ["PATH"],
                ]
            ),
            "HOME": str(folder / "home"),
            "BIN": str(folder / "bin"),
            "REPOSITORY": str(REPOSITORY),
            "REDIS_SERVER": str(programs.server),
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "GPULOCK_URL": f"redis://127.0.0.1:{self._server.port}",
            "LD_LIBRARY_PATH": str(programs.driver),
            "STUB_GPUS": str(folder / "gpus"),
            "GPULOCK_DEVICE_ROOT": str(folder / "device"),
            **dict([self._mark.split("=")]),
        }
        self._identities = Identities()
        self._terminals: dict[int, _Terminal] = {}
        self._python: PythonSession | None = None

    def run(self, blocks: list[Block]) -> list[Failure]:
        failures: list[Failure] = []
        for block in blocks:
            try:
                failures += self._block(block)
            except DocumentError as error:
                failures.append(Failure(error.line, str(error)))
            except EndedError as error:
                message = (
                    f"the shell has ended; the rest of the session was not executed\n{error}"
                )
                return [*failures, Failure(block.line, message)]
        return failures

    def close(self) -> None:
        for terminal in self._terminals.values():
            terminal.close()
        if self._python:
            self._python.close()
        stop_processes_with(self._mark)
        self._server.stop()
        self._temporary.cleanup()

    def _block(self, block: Block) -> Iterator[Failure]:
        if block.kind is Kind.TEXT or block.not_executed:
            return
        if block.kind is Kind.SCRIPT:
            yield from self._script(block)
        elif block.kind is Kind.PYTHON:
            _printed, error = self._execute_python(block.text, block.line, "exec")
            if error:
                yield Failure(block.line, error)
        else:
            all_steps = list(steps(block))
            for at, step in enumerate(all_steps):
                if step.closes and (closed := self._terminals.pop(step.closes, None)):
                    closed.close()
                yield from self._step(step, all_steps[at + 1 :])

    def _script(self, block: Block) -> Iterator[Failure]:
        shell = self._shell(1)
        shell.send(f"set -e\n{self._to_real(block.text)}\nset +e")
        try:
            shell.finish()
        except EndedError as error:
            message = f"a command of this block failed; it printed\n{error}"
            raise EndedError(message) from error
        except NotFinishedError as error:
            yield Failure(block.line, str(error))

    def _step(self, step: Step, later: list[Step]) -> Iterator[Failure]:
        terminal = self._terminals.setdefault(step.terminal, _Terminal())
        resumed = next((other for other in later if other.terminal == step.terminal), None)
        waits = (
            resumed if step.command is not None and resumed and not resumed.command else None
        )
        try:
            if step.prompt == ">>> ":
                problem = self._python_step(step)
            elif step.prompt == "$ ":
                problem = self._shell_step(step, terminal, waits, later)
            else:
                problem = self._redis_step(step, terminal, waits)
        except NotFinishedError as error:
            problem = str(error)
        if problem:
            yield Failure(step.line, problem)

    # Commands of each kind. They return what is wrong.

    def _shell_step(
        self, step: Step, terminal: _Terminal, waits: Step | None, later: list[Step]
    ) -> str | None:
        shell = self._shell(step.terminal)
        shown = list(step.output)
        while shown and not shown[-1].strip():
            shown.pop()
        wanted_status = None
        if shown and (status := _STATUS.fullmatch(shown[-1])):
            wanted_status = int(status[1])
            shown.pop()

        def attempt() -> str | None:
            if step.command is not None:
                shell.send(self._to_real(step.command))
            if waits:
                return self._waits(shell, shown)
            self._type(shell, shown)
            output, terminal.status = shell.finish()
            if step.command and step.command.rstrip().endswith("&"):
                output = shell.wait_for_job(output, len(shown))
            return self._compare(shown, output)

        problem = self._until_shown(step, attempt)
        if problem or waits:
            return problem
        following = next((other for other in later if other.terminal == step.terminal), None)
        used_next = following and following.command and "$?" in following.command
        if wanted_status is None and terminal.status and not used_next:
            return f"exit status {terminal.status}, which the document does not show"
        if wanted_status not in (None, terminal.status):
            return f"exit status {terminal.status}, not {wanted_status}"
        return None

    def _redis_step(self, step: Step, terminal: _Terminal, waits: Step | None) -> str | None:
        if not terminal.redis:
            prompt = REDIS_PROMPT.match(step.prompt)
            assert prompt
            terminal.redis = RedisCli(int(self._port(prompt[1])), self._environment)
        client = terminal.redis

        def attempt() -> str | None:
            blocked = self._server.blocked_clients()
            if step.command is not None:
                client.send(self._to_real(step.command))
            if not waits:
                lines = client.finish()
                if not any(_ELAPSED.fullmatch(line) for line in step.output):
                    lines = re.sub(rf"(?m)^{_ELAPSED.pattern}\n", "", lines)
                if step.command and step.command.startswith("TTL "):
                    lines = _started_on_time(step.output, lines)
                return self._compare(step.output, lines)
            if problem := self._blocks(client, blocked):
                return problem
            if any(_ELAPSED.fullmatch(line) for line in waits.output):
                time.sleep(_SHOWN_ELAPSED + 0.05)
            return self._compare(step.output, client.output.take(EVERYTHING)[0])

        return self._until_shown(step, attempt)

    def _python_step(self, step: Step) -> str | None:
        assert step.command is not None
        printed, error = self._execute_python(step.command + "\n", step.line, "single")
        shown = list(step.output)
        if error:
            if not any(line.startswith("Traceback ") for line in shown):
                return error
            # As in doctest, the frames are not compared.
            last = [line for line in shown if line and not line.startswith(" ")][-1]
            return self._compare([last], error.strip().splitlines()[-1])
        return self._compare(shown, printed)

    # Parts of these.

    def _until_shown(self, step: Step, attempt: Callable[[], str | None]) -> str | None:
        """A command that only shows the state is repeated until it shows the expected one."""
        end = time.monotonic() + SETTLE
        problem = attempt()
        while (
            problem
            and step.command is not None
            and _SHOWS_STATE.match(step.command)
            and time.monotonic() < end
        ):
            time.sleep(0.05)
            problem = attempt()
        return problem

    def _waits(self, shell: Shell, shown: list[str]) -> str | None:
        """A command whose end the document shows later."""
        shell.wait_for_lines(len(shown))
        if shell.finished():
            output, status = shell.finish()
            return f"does not wait: exit status {status}\n{output}"
        return self._compare(shown, shell.output.take(EVERYTHING)[0])

    def _blocks(self, client: RedisCli, before: int) -> str | None:
        end = time.monotonic() + SETTLE
        while time.monotonic() < end:
            if client.finished():
                return f"does not wait: {client.finish()}"
            if self._server.blocked_clients() > before:
                return None
            time.sleep(0.01)
        return "neither waits nor replies"

    def _type(self, shell: Shell, shown: list[str]) -> None:
        """Types the answers and the Control-C that the output contains, each in its turn."""
        for at, line in enumerate(shown):
            if line.startswith("^C"):
                shell.wait_for_lines(at)
                shell.type("\x03")
            elif question := _QUESTION.fullmatch(line):
                shell.wait_for_question()
                shell.type(question[2] + "\n")

    def _compare(self, shown: list[str], output: str) -> str | None:
        different = differences(shown, self._to_shown(output).splitlines(), self._identities)
        return different and f"other output (- the document, + printed):\n{different}"

    def _shell(self, terminal: int) -> Shell:
        programs = self._terminals.setdefault(terminal, _Terminal())
        if not programs.shell:
            programs.shell = Shell(self._environment, self._folder)
        return programs.shell

    def _execute_python(self, source: str, line: int, mode: str) -> tuple[str, str | None]:
        if not self._python:
            self._python = PythonSession(self._environment, self._folder)
        source = self._to_real(source)
        source = re.sub(r"\bRedis\(\)", f"Redis(port={self._server.port})", source)
        # So that a traceback shows the lines of the document.
        source = "\n" * (line - 1) + source
        try:
            return self._python.execute(source, self._name, mode)
        except NotFinishedError as error:
            return "", str(error)

    def _port(self, shown: str) -> str:
        if shown not in self._ports:
            self._ports[shown] = str(free_port())
        return self._ports[shown]

    def _to_real(self, text: str) -> str:
        """A command, with the ports and values of this session."""
        text = _PORT.sub(lambda port: self._port(port[0]), text)
        return self._identities.to_real(text)

    def _to_shown(self, text: str) -> str:
        """Output, with the ports of the document."""
        for shown, real in self._ports.items():
            text = re.sub(rf"(?<![\d.]){real}(?!\d)", shown, text)
        return text

#!/usr/bin/env python3
"""Executes the command blocks of the documents, and compares their output.

    run.py [DOCUMENT...]      by default, those in DOCUMENTS

The section "Command blocks in the documents" of CONTRIBUTING.md describes the conventions.
test.sh sets the variables that this program needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from runner.blocks import Block, DocumentError, Kind, blocks
from runner.server import REPOSITORY, Programs
from runner.session import Failure, Session

DOCUMENTS = (
    "README.md",
    "deploy/README.md",
    "docs/cli.md",
    "docs/commands.md",
    "docs/first-session.md",
    "docs/migrate-lua.md",
    "docs/operations.md",
    "docs/python.md",
    "docs/waiting.md",
)

# Sessions at the same time. They wait most of the time.
_SESSIONS = 12


@dataclass
class Document:
    name: str
    blocks: list[Block] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def sessions(self) -> list[list[Block]]:
        found: list[list[Block]] = [[]]
        for block in self.blocks:
            if block.new_session:
                found.append([])
            found[-1].append(block)
        return [session for session in found if any(map(executed, session))]

    def counts(self) -> str:
        shown = [block for block in self.blocks if not block.hidden]
        commands = [block for block in shown if block.kind is not Kind.TEXT]
        not_executed = sum(1 for block in commands if block.not_executed)
        return (
            f"{self.name}: {len(commands) - not_executed} blocks executed, "
            f"{not_executed} not executed, {len(shown) - len(commands)} without commands"
        )


def executed(block: Block) -> bool:
    return block.kind is not Kind.TEXT and not block.not_executed


def check(paths: list[Path], programs: Programs) -> list[Document]:
    """Executes the documents."""
    documents: list[Document] = []
    running: list[tuple[Document, Future[list[Failure]]]] = []
    with ThreadPoolExecutor(_SESSIONS) as pool:
        for path in paths:
            name = (
                str(path.relative_to(REPOSITORY))
                if path.is_relative_to(REPOSITORY)
                else path.name
            )
            document = Document(name)
            documents.append(document)
            try:
                document.blocks = blocks(path.read_text())
            except DocumentError as error:
                document.failures.append(Failure(error.line, str(error)))
            for session in document.sessions():
                running.append((document, pool.submit(run_session, name, session, programs)))
        for document, failures in running:
            document.failures += failures.result()
    return documents


def run_session(name: str, session: list[Block], programs: Programs) -> list[Failure]:
    running = Session(name, programs)
    try:
        return running.run(session)
    finally:
        running.close()


def programs(driver: Path) -> Programs:
    """The programs that the environment names. Builds the stub of the driver in a folder."""
    source = REPOSITORY / "cli/tests/run/nvml.c"
    library = driver / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return Programs(
        server=Path(os.environ["GPULOCK_SERVER"]),
        cli=Path(os.environ["GPULOCK_REDIS_CLI"]),
        release=Path(os.environ["GPULOCK_RELEASE"]),
        driver=driver,
    )


def main() -> int:
    paths = [Path(name).resolve() for name in sys.argv[1:]]
    paths = paths or [REPOSITORY / name for name in DOCUMENTS]
    with tempfile.TemporaryDirectory() as driver:
        documents = check(paths, programs(Path(driver)))
    for document in documents:
        print(document.counts())
    failed = False
    for document in documents:
        for failure in sorted(document.failures, key=lambda failure: failure.line):
            failed = True
            print(f"{document.name}:{failure.line}: {failure.message.rstrip()}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

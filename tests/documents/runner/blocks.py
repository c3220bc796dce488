"""The blocks of a document: finds them, and splits them into steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from markdown_it import MarkdownIt


class Kind(Enum):
    SESSION = "commands with their output"
    SCRIPT = "commands without output"
    PYTHON = "a Python program"
    TEXT = "no commands"


class DocumentError(Exception):
    """A block that the runner cannot execute as it is written."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class Block:
    """`line` is the line of the document on which `text` begins."""

    line: int
    kind: Kind
    text: str
    not_executed: str | None = None
    hidden: bool = False
    new_session: bool = False


@dataclass
class Step:
    """A command with the output that follows it, or later output of an earlier command.

    `closes` is the terminal that is closed before.
    """

    line: int
    terminal: int
    prompt: str
    command: str | None
    output: list[str] = field(default_factory=list)
    closes: int | None = None


# Languages of blocks that contain no commands.
TEXT = {
    "text",
    "json",
    "diff",
    "conf",
    "ini",
    "sql",
    "yaml",
    "toml",
    "dockerfile",
    "rust",
    "js",
}
SCRIPT = {"sh", "bash"}

REDIS_PROMPT = re.compile(r"127\.0\.0\.1:(\d+)(?:\[\d+\])?> ")
PROMPTS = re.compile(rf"\$ |>>> |{REDIS_PROMPT.pattern}")
TERMINAL = re.compile(r"# terminal (\d+)\b")
CLOSED = re.compile(r"# terminal (\d+) is (?:killed|closed)(?:; terminal (\d+)\b)?")

_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
_NOT_EXECUTED = re.compile(r"not executed\b:?(.*)", re.DOTALL)
_HIDDEN = re.compile(r"hidden\b[^\n]*\n(.*)", re.DOTALL)


def blocks(document: str) -> list[Block]:
    """The blocks of a document, in order."""
    found: list[Block] = []
    _collect(document, 0, hidden=False, found=found)
    return found


def _collect(document: str, offset: int, *, hidden: bool, found: list[Block]) -> None:
    """Appends the blocks of a text that begins after `offset` lines of the document."""
    mark: tuple[int, str] | None = None
    new_session = False
    for token in MarkdownIt("commonmark").parse(document):
        line = offset + (token.map[0] if token.map else 0) + 1
        if token.type == "html_block":
            for comment in _COMMENT.finditer(token.content):
                text = comment[1].strip("\n ")
                at = line + token.content[: comment.start(1)].count("\n")
                if not_executed := _NOT_EXECUTED.fullmatch(text):
                    reason = " ".join(not_executed[1].split())
                    if not reason:
                        raise DocumentError(at, "the mark `not executed` needs a reason")
                    mark = (at, reason)
                elif text == "new session":
                    new_session = True
                elif inner := _HIDDEN.fullmatch(comment[1].lstrip()):
                    skipped = token.content[: comment.start(1)] + comment[1]
                    before = skipped[: len(skipped) - len(inner[1])]
                    first = len(found)
                    _collect(inner[1], line - 1 + before.count("\n"), hidden=True, found=found)
                    if len(found) == first:
                        raise DocumentError(at, "`hidden` contains no block")
                    found[first].new_session |= new_session
                    new_session = False
                else:
                    known = "not executed: REASON, hidden:, new session"
                    raise DocumentError(at, f"unknown comment `{text[:40]}`; known: {known}")
        elif token.type in ("fence", "code_block"):
            block = _block(token.type, token.info, token.content, line)
            block.hidden = hidden
            block.not_executed = mark[1] if mark else None
            block.new_session, new_session = new_session, False
            mark = None
            found.append(block)
        elif (
            mark
            and token.type.endswith("_open")
            and token.type not in ("bullet_list_open", "ordered_list_open", "list_item_open")
        ):
            raise DocumentError(mark[0], "no block follows the mark `not executed`")
    if mark:
        raise DocumentError(mark[0], "no block follows the mark `not executed`")


def _block(form: str, info: str, text: str, line: int) -> Block:
    if form == "code_block":
        return Block(line, Kind.SCRIPT, text)
    line += 1
    language = info.split()[0].lower() if info.strip() else ""
    if language in SCRIPT:
        return Block(line, Kind.SCRIPT, text)
    if language in TEXT:
        for number, shown in enumerate(text.splitlines()):
            if PROMPTS.match(shown):
                raise DocumentError(line + number, f"a prompt in a block of `{language}`")
        return Block(line, Kind.TEXT, text)
    if language == "python":
        return Block(line, Kind.PYTHON, text)
    if language == "" and any(PROMPTS.match(shown) for shown in text.splitlines()):
        return Block(line, Kind.SESSION, text)
    form = f"with the language `{language}`" if language else "without a prompt"
    known = ", ".join(sorted(TEXT))
    raise DocumentError(line, f"a block {form}; a block without commands needs one of: {known}")


def steps(block: Block) -> Iterator[Step]:
    """The steps of a session. Terminals are numbered from 1."""
    terminal = 1
    step: Step | None = None
    closes: int | None = None
    pending: dict[int, str] = {}
    lines = enumerate(block.text.splitlines(), block.line)
    for number, line in lines:
        if closed := CLOSED.match(line):
            if step:
                yield step
            step, closes = None, int(closed[1])
            terminal = int(closed[2] or closed[1])
        elif changed := TERMINAL.match(line):
            if step:
                yield step
            step, terminal = None, int(changed[1])
        elif prompt := PROMPTS.match(line):
            if step:
                yield step
            command = line[prompt.end() :]
            while prompt[0] == "$ " and command.endswith("\\"):
                command += "\n" + next(lines, (0, ""))[1]
            step = Step(number, terminal, prompt[0], command, closes=closes)
            closes = None
            pending[terminal] = prompt[0]
        elif prompt_of := pending.get(terminal):
            if step and step.prompt == ">>> " and line.startswith("...") and not step.output:
                step.command = f"{step.command}\n{line[4:]}"
                continue
            if step is None and line:
                step = Step(number, terminal, prompt_of, None, closes=closes)
                closes = None
            if step:
                step.output.append(line)
        elif line:
            raise DocumentError(
                number, f"output of terminal {terminal} before its first command"
            )
    if step:
        yield step

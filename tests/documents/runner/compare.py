"""Compares the output that a document shows with the real one.

Values that differ from run to run match if they have the same form. Values that identify
something, such as tokens and owners, also have to be the same wherever the document shows the
same one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_DURATION = r"(?<![\w.-])\d+(?:\.\d+)?(?:ms|[smhd])(?: \d+(?:ms|[smhd]))*(?!\w)"
_HEX = "[0-9a-f]"

# Kinds of values: an expression for the value, and whether it identifies something.
KINDS: dict[str, tuple[str, bool]] = {
    "token": (r"(?<![\w.])\d{16}(?![\w.])", True),
    # The end of the owner of a run: host, process, and a random number.
    "run": (rf"(?<=-)[\w.]+(?:-[\w.]+)*-\d+-{_HEX}{{16}}\b", True),
    "reserved": (rf"(?<=reserved:)\S+@\S+-{_HEX}{{16}}\b", True),
    # The beginning of the boot id.
    "host": (rf"(?<=\{{gpus:){_HEX}{{12}}(?=\}})", True),
    "elapsed": (r"^\(\d+\.\d\ds\)$", False),
    "timestamp": (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[+-]\d\d:\d\d|Z)", False),
    "clock": (r"\b\d\d:\d\d:\d\d\b", False),
    "milliseconds": (r"""(?<=_ms":)\d+|(?<=_ms": )\d+|(?<=_ms" => \(integer\) )\d+""", False),
    "client": (
        r"""(?<="client" => \(integer\) )\d+|(?<="session" => \(integer\) )\d+""",
        False,
    ),
    "unix time": (r"(?<![\w.])1[7-9]\d{8}(?:\.\d+|\d{3})?(?![\w.])", False),
    # The value of a metric.
    "sample": (r"(?<=\"\} )\d+\.\d+$", False),
    "fraction": (r"(?<![\w.])\d+\.\d{3,}(?![\w.])", False),
    "process": (r"(?<=\bprocess )\d+\b", False),
    "port": (r"(?<=\b127\.0\.0\.1:)[3-6]\d{4}\b", False),
    "duration": (_DURATION, False),
}
_NAMES = list(KINDS)
_ANY = re.compile("|".join(f"(?P<k{at}>{KINDS[name][0]})" for at, name in enumerate(_NAMES)))

# In a reply, the value after these names is a number that differs.
_NAME_BEFORE = re.compile(r'"(?:(\w+_ms|timestamp)|(session|client|client_id))"$')
_INTEGER = re.compile(r"\(integer\) \d+$")

# A line that replaces any number of lines. " ..." at the end of a line replaces its rest.
ELLIPSIS = {"...", "…"}


class Identities:
    """Which value of the document is which real one."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}
        self._shown: dict[str, str] = {}

    def copy(self) -> Identities:
        other = Identities()
        other.become(self)
        return other

    def become(self, other: Identities) -> None:
        self._real, self._shown = dict(other._real), dict(other._shown)

    def add(self, shown: str, real: str) -> bool:
        """Whether this agrees with what is known."""
        if self._real.setdefault(shown, real) != real:
            return False
        return self._shown.setdefault(real, shown) == shown

    def to_real(self, text: str) -> str:
        """Replaces the values of the document."""
        if not self._real:
            return text
        longest_first = sorted(self._real, key=len, reverse=True)
        return re.sub(
            "|".join(rf"(?<!\w){re.escape(value)}(?!\w)" for value in longest_first),
            lambda found: self._real[found[0]],
            text,
        )


# The line above the rows of a table.
_TABLE = re.compile(r"[A-Z]+(?: [A-Z]+)*(?:  [A-Z]+(?: [A-Z]+)*)+")


def _columns(line: str) -> str:
    """The width of columns depends on the values."""
    return re.sub(r" {2,}", "  ", line).rstrip()


@dataclass
class _Above:
    """What is above a line: the line before, and the heading of a table."""

    before: str = ""
    heading: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        self.before = line
        line = _columns(line)
        if _TABLE.fullmatch(line):
            self.heading = line.split("  ")
        elif not line:
            self.heading = []


def _with_real_client(shown: str, real: str, heading: list[str], identities: Identities) -> str:
    """A row of a table with the real number of the client, if this can be the same client."""
    at = heading.index("CLIENT")
    cells, real_cells = shown.split("  "), real.split("  ")
    if len(cells) == len(real_cells) == len(heading) and real_cells[at].isdigit():
        client, real_client = f"client {cells[at]}", f"client {real_cells[at]}"
        if cells[at].isdigit() and identities.add(client, real_client):
            cells[at] = real_cells[at]
    return "  ".join(cells)


def _line_matches(shown: str, real: str, above: _Above, identities: Identities) -> bool:
    shown, real = _columns(shown), _columns(real)
    name = _NAME_BEFORE.search(above.before)
    if name and (integer := _INTEGER.search(shown)):
        prefix = re.escape(shown[: integer.start()])
        number = re.fullmatch(rf"{prefix}(\(integer\) \d+)", real)
        return number is not None and (not name[2] or identities.add(integer[0], number[1]))
    if "CLIENT" in above.heading:
        shown = _with_real_client(shown, real, above.heading, identities)
    pattern, groups, at = "", [], 0
    for value in _ANY.finditer(shown):
        kind = _NAMES[int(str(value.lastgroup)[1:])]
        pattern += re.escape(shown[at : value.start()])
        expression, identifies = KINDS[kind]
        pattern += f"({expression})"
        groups.append((value[0], identifies))
        at = value.end()
    rest = shown[at:]
    pattern += re.escape(rest[:-3]) + ".*" if rest.endswith(" ...") else re.escape(rest)
    found = re.fullmatch(pattern, real)
    if not found:
        return False
    return all(
        identities.add(value, found[group])
        for group, (value, identifies) in enumerate(groups, 1)
        if identifies
    )


def _match(shown: list[str], real: list[str], identities: Identities) -> bool:
    """Whether the lines match. `identities` is changed even if they do not."""
    above = _Above()
    for at, line in enumerate(shown):
        if line.strip() in ELLIPSIS:
            rest = shown[at + 1 :]
            for skipped in range(len(real) - at + 1):
                attempt = identities.copy()
                if _match(rest, real[at + skipped :], attempt):
                    identities.become(attempt)
                    return True
            return False
        if at >= len(real) or not _line_matches(line, real[at], above, identities):
            return False
        above.add(line)
    return len(shown) == len(real)


def _trimmed(lines: list[str]) -> list[str]:
    end = len(lines)
    while end and not lines[end - 1].strip():
        end -= 1
    return lines[:end]


def differences(shown: list[str], real: list[str], identities: Identities) -> str | None:
    """None if the output is as shown; `identities` then has the new values."""
    shown, real = _trimmed(shown), _trimmed(real)
    attempt = identities.copy()
    if _match(shown, real, attempt):
        identities.become(attempt)
        return None
    lines = []
    above = _Above()
    for at in range(max(len(shown), len(real))):
        left = shown[at] if at < len(shown) else None
        right = real[at] if at < len(real) else None
        same = (
            left is not None
            and right is not None
            and _line_matches(left, right, above, identities.copy())
        )
        if same:
            lines.append(f"      {left}")
        else:
            lines += [] if left is None else [f"    - {left}"]
            lines += [] if right is None else [f"    + {right}"]
        above.add(left or "")
    return "\n".join(lines)

"""Tests of the runner: what it accepts, and that it detects wrong documents."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

import run
from runner.blocks import Block, DocumentError, Kind, blocks, steps
from runner.compare import Identities, differences
from runner.server import Programs

TOKEN, OTHER_TOKEN = "1795422126839322", "1795422131166655"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return run.programs(tmp_path_factory.mktemp("driver"))


def failures_of(documents: list[str], programs: Programs, folder: Path) -> list[list[str]]:
    """Executes documents at the same time. Returns the failures of each as `LINE: MESSAGE`."""
    paths = [folder / f"{number}.md" for number in range(len(documents))]
    for path, text in zip(paths, documents):
        path.write_text(text)
    return [
        [f"{failure.line}: {failure.message}" for failure in document.failures]
        for document in run.check(paths, programs)
    ]


@pytest.fixture
def failures(programs: Programs, tmp_path: Path):
    """Executes a document, and returns its failures."""
    return lambda text: failures_of([text], programs, tmp_path)[0]


def fenced(text: str, language: str = "") -> str:
    return f"```{language}\n{text}\n```\n"


def matches(shown: str, real: str, identities: Identities | None = None) -> bool:
    found = differences(shown.splitlines(), real.splitlines(), identities or Identities())
    return found is None


# Blocks.


def test_kinds_of_blocks() -> None:
    text = "\n".join(
        [
            "Text `code`.\n",
            fenced("$ true"),
            fenced("127.0.0.1:6379> PING\nPONG"),
            fenced("x = 1", "python"),
            fenced("make", "sh"),
            fenced("{}", "json"),
            "- item\n\n      make run\n\n  text\n\n  ```\n  $ true\n  ```\n",
            "Text.\n\n    make test",
        ]
    )
    session, script = Kind.SESSION, Kind.SCRIPT
    expected = [session, session, Kind.PYTHON, script, Kind.TEXT, script, session, script]
    assert [block.kind for block in blocks(text)] == expected
    assert all(
        text.splitlines()[block.line - 1].strip() in block.text for block in blocks(text)
    )


def test_a_mark_applies_to_the_next_block_and_has_a_reason() -> None:
    mark = "<!-- not executed: needs a GPU -->\n\n"
    first, second = blocks(mark + fenced("$ a") + fenced("$ b"))
    assert (first.not_executed, second.not_executed) == ("needs a GPU", None)


@pytest.mark.parametrize("mark", ["not executed", "not executed:", "not executed: \n "])
def test_a_mark_without_a_reason_is_an_error(mark: str) -> None:
    with pytest.raises(DocumentError, match="needs a reason"):
        blocks(f"<!-- {mark} -->\n\n" + fenced("$ true"))


@pytest.mark.parametrize("rest", ["", "Text.\n\n" + fenced("$ true")])
def test_a_mark_without_a_block_is_an_error(rest: str) -> None:
    with pytest.raises(DocumentError, match="no block follows"):
        blocks("<!-- not executed: needs a GPU -->\n\n" + rest)


def test_an_unknown_comment_is_an_error() -> None:
    with pytest.raises(DocumentError, match="unknown comment `skipped: no`"):
        blocks("<!-- skipped: no -->\n\n" + fenced("$ true"))


@pytest.mark.parametrize(
    "block", [fenced("some output"), fenced("puts 1", "ruby"), fenced("$ ls", "text")]
)
def test_a_block_of_unknown_form_is_an_error(block: str) -> None:
    with pytest.raises(DocumentError) as error:
        blocks("Title\n\n" + block)
    assert error.value.line == 4


def test_hidden_blocks_have_their_own_line_numbers() -> None:
    text = "Title\n\n<!-- hidden:\n\n    first\n\n```python\nx = 1\n```\n-->\n\n" + fenced(
        "$ a"
    )
    first, second, third = blocks(text)
    assert (first.line, second.line, third.line) == (5, 8, 13)
    assert (first.hidden, second.hidden, third.hidden) == (True, True, False)


def test_steps_of_two_terminals() -> None:
    text = "\n".join(
        [
            "# terminal 1",
            "127.0.0.1:6379> A",
            "(integer) 1",
            "",
            "# terminal 2: waits",
            "127.0.0.1:6379> B",
            "",
            "# terminal 1 is killed; terminal 2, immediately",
            "(nil)",
            "$ two \\",
            "  lines",
        ]
    )
    found = [
        (step.line, step.terminal, step.command, step.closes)
        for step in steps(Block(1, Kind.SESSION, text))
    ]
    assert found == [
        (2, 1, "A", None), (6, 2, "B", None), (9, 2, None, 1), (10, 2, "two \\\n  lines", None)
    ]  # fmt: skip


# Comparison.


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        (f"(integer) {TOKEN}", f"(integer) {OTHER_TOKEN}"),
        ("owner  sh-node7-17283-40a1bdad1d1788ee", "owner  sh-a.b-1-0123456789abcdef"),
        ("reserved:kim@node7-e4c1852425bfb5b9", "reserved:root@h-0123456789abcdef"),
        ("HELD FOR  LEASE\n1m 07s    8s", "HELD FOR  LEASE\n2ms       1h 2m"),
        ("until 2026-11-30T20:09:24+00:00", "until 2026-12-01T00:00:00+00:00"),
        ('"lease_ms": 532059,', '"lease_ms": 7,'),
        (' 5) "held_ms"\n 6) (integer) 104', ' 5) "held_ms"\n 6) (integer) 0'),
        ("(4.24s)", "(0.55s)"),
        (
            "CLIENT  X\n16      a",
            "CLIENT  X\n7       a",
        ),
        ('up{server="a"} 0.000723738', 'up{server="a"} 0.5'),
        ("one\n...\nthree", "one\ntwo\ntwo\nthree"),
        ("one\n(error) NOPERM ...\nthree", "one\n(error) NOPERM User has none\nthree"),
        ("{gpus:78843640f115}:GPU-5a1c", "{gpus:000000000000}:GPU-5a1c"),
    ],
)
def test_values_that_differ_match(shown: str, real: str) -> None:
    assert matches(shown, real)


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ("(integer) 1", "(integer) 0"),
        ("(integer) 1", "(nil)"),
        (f"(integer) {TOKEN}", "(integer) 1"),
        (
            f"(integer) {TOKEN}\n(integer) {TOKEN}",
            f"(integer) {TOKEN}\n(integer) {OTHER_TOKEN}",
        ),
        (
            f"(integer) {TOKEN}\n(integer) {OTHER_TOKEN}",
            f"(integer) {TOKEN}\n(integer) {TOKEN}",
        ),
        (' 5) "held_ms"\n 6) (integer) 104', ' 5) "held_for_ms"\n 6) (integer) 104'),
        ('23) "waiting"\n24) (integer) 0', '23) "waiting"\n24) (integer) 1'),
        ('"lease_ms": 532059,', '"lease": 532059,'),
        ('"lease_ms": 532059,', '"lease_ms": 532059'),
        ("held for  1s", "held for  -"),
        ("a-node7-17283-40a1bdad1d1788ee", "b-node7-17283-40a1bdad1d1788ee"),
        (
            "CLIENT  X\n16      a",
            "CLIENT  X\n-       a",
        ),
        (
            "CLIENT  X\n16      a",
            "CLIENT  X\n16      b",
        ),
        ("one\ntwo", "one"),
        ("one", "one\ntwo"),
        ("one\n...\nfour", "one\ntwo\nthree"),
        ("(error) NOPERM ...", "(error) ERR NOPERM User"),
        ("held for 1s", "held for 1s, and more"),
    ],
)
def test_other_output_does_not_match(shown: str, real: str) -> None:
    assert not matches(shown, real)


def test_commands_get_the_real_values() -> None:
    identities = Identities()
    assert matches(f"(integer) {TOKEN}", f"(integer) {OTHER_TOKEN}", identities)
    assert identities.to_real(f"TOKEN {TOKEN}0 {TOKEN}") == f"TOKEN {TOKEN}0 {OTHER_TOKEN}"


# Execution.

REDIS = f"""
127.0.0.1:6379> GPULOCK.ACQUIRE gpu:0 asr EX 60
(integer) {TOKEN}

# terminal 2: waits
127.0.0.1:6379> GPULOCK.ACQUIRE gpu:0 tts EX 60 BLOCK 30000

# terminal 1
127.0.0.1:6379> GPULOCK.RELEASE gpu:0 asr TOKEN {TOKEN}
(integer) 1

# terminal 2
(integer) {OTHER_TOKEN}
(1.00s)"""

SHELL = """
$ echo "$HOME $GPULOCK_URL" | cut -d' ' -f2; false
redis://127.0.0.1:6379
[exit status 1]
$ false
$ echo $?
1"""

RUN = """
$ gpulock run --key gpu:1 -- sleep 60 &
$ gpulock ls gpu:1
KEY    OWNER                               HELD FOR  LEASE LEFT  WAITING  TOKEN
gpu:1  sleep-node7-26568-997c2758418c8a2a  2.0s      27s         0        1795468024875141
$ gpulock force gpu:1 --any
gpu:1 is held by sleep-node7-26568-997c2758418c8a2a
for 1m 09s, token 1795468024875141, lease left 8m 50s, 0 waiting
The holder's job is not stopped. Release the lock? [y/N] y
gpu:1 released; it was held by sleep-node7-26568-997c2758418c8a2a"""

EXPORTER = """
$ gpulock exporter --listen 127.0.0.1:9877
gpulock: watching 127.0.0.1:6379, listening on http://127.0.0.1:9877/
^C
$ gpulock run --pool gpus -- sh -c 'echo $CUDA_VISIBLE_DEVICES'
GPU-5a1c"""

PYTHON = """
>>> import redis
>>> redis.Redis().get(
...     "none")
>>> 1 / 2
0.5
>>> 1 / 0
Traceback (most recent call last):
  ...
ZeroDivisionError: division by zero"""


WRONG = [
    (REDIS, f"(integer) {TOKEN}\n\n", "(nil)\n\n", r"- \(nil\)\n.*\+ \(integer\) \d{16}"),
    (REDIS, f"(integer) {TOKEN}\n\n", "", r"\+ \(integer\) \d{16}"),
    (REDIS, f"(integer) {OTHER_TOKEN}", f"(integer) {TOKEN}", "other output"),
    (REDIS, " BLOCK 30000", "", r"does not wait: \(nil\)"),
    (REDIS, "GPULOCK.ACQUIRE gpu:0 tts EX 60 BLOCK 30000", "PING", "does not wait"),
    (SHELL, "redis:", "valkey:", r"\+ redis://127.0.0.1:6379"),
    (SHELL, "[exit status 1]\n", "", "exit status 1, which the document does not show"),
    (SHELL, "[exit status 1]", "[exit status 2]", "exit status 1, not 2"),
    (SHELL, "\n1", "", r"\+ 1"),
    (RUN, "HELD FOR", "HELD", r"\+ KEY"),
    (RUN, "[y/N] y", "[y/N] n", "other output|exit status"),
    (EXPORTER, "GPU-5a1c", "GPU-9b7e", r"\+ GPU-5a1c"),
    (EXPORTER, "watching", "observing", r"\+ gpulock: watching"),
    (EXPORTER, "\n^C", "", "not finished"),
    (PYTHON, "0.5", "0.6", r"\+ 0.5"),
    (PYTHON, "ZeroDivisionError:", "OSError:", "ZeroDivisionError"),
    (PYTHON, "1 / 2", "1 / two", "NameError"),
]


def test_right_output_passes(programs: Programs, tmp_path: Path) -> None:
    documents = [fenced(text) for text in (REDIS, SHELL, RUN, EXPORTER, PYTHON)]
    assert failures_of(documents, programs, tmp_path) == [[]] * len(documents)


@pytest.fixture(scope="session")
def wrong_output(programs: Programs, tmp_path_factory) -> list[list[str]]:
    """The failures of each case of `WRONG`."""
    documents = [
        fenced(text.replace(right, wrong, 1)) for text, right, wrong, _message in WRONG
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runner.terminal.PATIENCE", 4)
        patch.setattr("runner.session.SETTLE", 2)
        return failures_of(documents, programs, tmp_path_factory.mktemp("wrong"))


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_wrong_output_fails(wrong_output: list[list[str]], case: int) -> None:
    text, right, _wrong, message = WRONG[case]
    assert right in text
    found = wrong_output[case]
    assert any(re.search(message, failure, re.DOTALL) for failure in found), found


def test_a_python_program_fails_by_an_exception(failures) -> None:
    assert failures(fenced("value = 1\nassert value == 1", "python")) == []
    (found,) = failures("Title\n\n" + fenced("value = 1\nassert value == 2", "python"))
    assert "line 5, in <module>\n    assert value == 2" in found


def test_a_script_fails_by_the_status_of_any_command(failures) -> None:
    assert failures("    true\n    export NAME=value\n") == []
    (found,) = failures("    false\n    true\n")
    assert "a command of this block failed" in found


def test_failures_have_the_line_of_the_document(failures) -> None:
    found = failures("Title\n\n" + fenced("$ echo a\na\n$ echo b\nc"))
    assert [failure.split(":")[0] for failure in found] == ["6"]


def test_time_to_live_may_be_a_little_shorter(failures) -> None:
    set_and_read = (
        "127.0.0.1:6379> SET key value EX {}\nOK\n127.0.0.1:6379> TTL key\n(integer) 300"
    )
    assert failures(fenced(set_and_read.format(299))) == []
    assert failures(fenced(set_and_read.format(200)))
    assert failures(fenced(set_and_read.format(302)))


def test_sessions_have_their_own_server_and_shell(failures) -> None:
    first = "    export NAME=value\n    redis-cli SET key value\n\n"
    second = fenced('$ echo "$NAME"\n\n$ redis-cli GET key\n(nil)')
    assert failures(first + second)
    assert failures(first + "<!-- new session -->\n\n" + second) == []


def test_a_command_that_does_not_end_is_a_failure(failures, monkeypatch) -> None:
    monkeypatch.setattr("runner.terminal.PATIENCE", 0.5)
    found = failures(fenced("$ sleep 60\n$ echo after\nafter\n$ echo again\nagain"))
    assert len(found) == 1
    assert "not finished" in found[0]


def test_processes_do_not_outlive_their_session(failures, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert (
        failures(fenced(f"$ setsid sleep 600 & echo $! >{pid}\n$ cat {pid} >{pid}.copy")) == []
    )

    def is_running() -> bool:
        try:
            stat = Path(f"/proc/{pid.read_text().strip()}/stat").read_text()
        except OSError:
            return False
        # A process that was killed remains until its parent, here the system's first, reaps it.
        return stat.rpartition(") ")[2][0] not in "ZX"

    # SIGKILL takes effect a moment later.
    deadline = time.monotonic() + 10
    while is_running():
        assert time.monotonic() < deadline, "the process outlives its session"
        time.sleep(0.01)


def test_a_document_without_failures_prints_its_counts(
    programs: Programs, tmp_path: Path, monkeypatch, capsys
) -> None:
    path = tmp_path / "document.md"
    path.write_text(
        fenced("$ true")
        + "\n<!-- not executed: never -->\n"
        + fenced("$ x")
        + fenced("a", "text")
    )
    monkeypatch.setattr("sys.argv", ["run.py", os.fspath(path)])
    assert run.main() == 0
    expected = "document.md: 1 blocks executed, 1 not executed, 1 without commands\n"
    assert capsys.readouterr().out == expected

"""Executes the Python blocks of a session, which share their names, in a process of its own.

Reads requests from standard input and writes replies to the descriptor in its argument, each a
line of JSON.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import linecache
import os
import sys
import traceback
from types import CodeType


def compiled(source: str, name: str, mode: str) -> CodeType:
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    code: CodeType = compile(source, name, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code


def main() -> None:
    replies = os.fdopen(int(sys.argv[1]), "w")
    sys.path.insert(0, os.getcwd())
    names: dict[str, object] = {"__name__": "__main__"}
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    requests = sys.stdin
    sys.stdin = open(os.devnull)  # noqa: SIM115 (until the process ends)
    for request in requests:
        asked = json.loads(request)
        printed, error = io.StringIO(), None
        with contextlib.redirect_stdout(printed):
            try:
                code = compiled(asked["source"], asked["name"], asked["mode"])
                result = eval(code, names)
                if inspect.iscoroutine(result):
                    loop.run_until_complete(result)
            except BaseException as raised:
                shown = traceback.TracebackException.from_exception(raised)
                error = "".join(shown.format())
        print(
            json.dumps({"printed": printed.getvalue(), "error": error}),
            file=replies,
            flush=True,
        )


main()

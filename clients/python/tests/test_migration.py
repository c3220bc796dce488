"""What docs/migrate-python.md shows is the examples as they stand, with the one line changed,
and what they print is what the page says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples" / "migrate"
PAGE = Path(__file__).parents[3] / "docs" / "migrate-python.md"
IMPORTS = {
    "redis_py_user.py": ("from redis.lock import Lock", "from gpulock import Lock"),
    "asr_worker.py": ("from services.common.locks import", "from gpulock.locks import"),
}


def run(code, server):
    host = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port)}
    url = f"redis://127.0.0.1:{server.port}/0"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **host, "REDIS_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fenced(text):
    return f"\n```{text}```\n"


@pytest.fixture
def page():
    if not PAGE.exists():
        pytest.skip("the page belongs to the repository, not to the package")
    return PAGE.read_text()


@pytest.mark.parametrize("name", IMPORTS)
def test_only_the_import_changes(name, server, page):
    before, after = IMPORTS[name]
    code = (EXAMPLES / name).read_text()
    assert code.count(before) == 1
    assert fenced(f"python\n{code}") in page
    assert f"-{before}" in page
    assert f"+{after}" in page
    assert fenced(f"\n{run(code.replace(before, after), server)}") in page


def test_a_redis_py_user_sees_no_difference(server, plain_server):
    before, after = IMPORTS["redis_py_user.py"]
    code = (EXAMPLES / "redis_py_user.py").read_text()
    told = run(code, server)
    assert run(code.replace(before, after), server) == told
    assert run(code.replace(before, after), plain_server) == told

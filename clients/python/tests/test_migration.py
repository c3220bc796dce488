"""docs/migrate-python.md shows the example programs unchanged except for one import, and the
output that they print."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples" / "migrate"
PAGE = Path(__file__).parents[3] / "docs" / "migrate-python.md"
IMPORTS = {
    "redis_py_user.py": ("from redis.lock import Lock", "from gpulock import Lock"),
    "asr_worker.py": ("from services.common.locks import", "from gpulock.compat import"),
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
        pytest.skip("the page is in the repository, but not in the package")
    return PAGE.read_text()


@pytest.mark.parametrize("name", IMPORTS)
def test_the_page_shows_the_example_and_its_output(name, server, page):
    before, after = IMPORTS[name]
    code = (EXAMPLES / name).read_text()
    assert code.count(before) == 1
    assert fenced(f"python\n{code}") in page
    assert f"-{before}" in page
    assert f"+{after}" in page
    assert fenced(f"\n{run(code.replace(before, after), server)}") in page


def test_the_output_is_the_same_as_with_redis_py(server, plain_server):
    before, after = IMPORTS["redis_py_user.py"]
    code = (EXAMPLES / "redis_py_user.py").read_text()
    output = run(code, server)
    assert run(code.replace(before, after), server) == output
    assert run(code.replace(before, after), plain_server) == output

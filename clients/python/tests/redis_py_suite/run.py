"""Runs redis-py's own tests of its locks, with ``gpulock.Lock`` and ``gpulock.asyncio.Lock`` in
place of redis-py's:

    python run.py [PYTEST-OPTION...]

The tests are those of the installed version of redis-py. They are in its source distribution,
which is downloaded once, to target/python-sdists. ``differences`` lists the tests that must
fail.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
SDISTS = HERE.parents[3] / "target" / "python-sdists"
TESTS = ["test_lock.py", "test_asyncio/test_lock.py"]
ATTEMPTS = 3
"""Some of the tests measure times with little tolerance: those that failed are repeated."""


def download(package):
    """The source distribution of the installed version of the package."""
    name = f"{package}-{version(package)}.tar.gz"
    if not (SDISTS / name).exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--no-binary", package, "--dest", SDISTS]
        subprocess.run([*command, f"{package}=={version(package)}"], check=True)
    return SDISTS / name


def unpack(sdist, folder):
    """Unpacks the tests, with the fixtures in this folder in place of redis-py's."""
    top = sdist.name[: -len(".tar.gz")]
    with tarfile.open(sdist) as archive:
        for test in TESTS:
            target = folder / "suite" / test
            target.parent.mkdir(parents=True)
            target.write_bytes(archive.extractfile(f"{top}/tests/{test}").read())
            (target.parent / "__init__.py").touch()
    shutil.copy(HERE / "fixtures.py", folder / "suite" / "conftest.py")
    shutil.copy(HERE / "asyncio_fixtures.py", folder / "suite" / "test_asyncio" / "conftest.py")
    (folder / "pytest.ini").write_text(
        f"[pytest]\nasyncio_mode = auto\npythonpath = {HERE.parent} {HERE}\n"
        "markers =\n    onlynoncluster\n"
    )


def main():
    """Exits with the status of pytest."""
    with tempfile.TemporaryDirectory(prefix="gpulock-redis-py-") as name:
        folder = Path(name)
        unpack(download("redis"), folder)
        command = [sys.executable, "-m", "pytest", "--quiet", "suite", *sys.argv[1:]]
        for _ in range(ATTEMPTS):
            status = subprocess.run(command, cwd=folder, check=False).returncode
            if status != 1:
                break
            command = [*command, "--last-failed"]
    sys.exit(status)


if __name__ == "__main__":
    main()

"""The version of the package is the version of the repository's workspace."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import gpulock

MANIFEST = Path(__file__).parents[3] / "Cargo.toml"

WITHOUT_METADATA = """
import importlib.metadata

version = importlib.metadata.version

def version_of_others(name):
    if name == "gpulock":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

importlib.metadata.version = version_of_others
import gpulock
print(gpulock.__version__)
"""


def test_the_version_is_that_of_the_workspace():
    if not MANIFEST.exists():
        pytest.skip("Cargo.toml is in the repository, but not in the package")
    workspace = MANIFEST.read_text().split("[workspace.package]")[1]
    assert re.search(r'^version = "(.+)"$', workspace, re.MULTILINE)[1] == gpulock.__version__


def test_the_version_is_unknown_without_the_metadata_of_the_package():
    program = [sys.executable, "-c", WITHOUT_METADATA]
    output = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert output == "unknown\n"

"""The package has the version of the repository's workspace."""

import re
from pathlib import Path

import pytest

import gpulock

MANIFEST = Path(__file__).parents[3] / "Cargo.toml"


def test_the_version_is_that_of_the_workspace():
    if not MANIFEST.exists():
        pytest.skip("Cargo.toml is in the repository, but not in the package")
    workspace = MANIFEST.read_text().split("[workspace.package]")[1]
    assert re.search(r'^version = "(.+)"$', workspace, re.MULTILINE)[1] == gpulock.__version__

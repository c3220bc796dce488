#!/bin/bash
# Creates or updates the virtual environment of the tests, target/python-venv, with the package and
# everything in tests/requirements.txt. Prints its folder.
set -euo pipefail
cd "$(dirname "$0")"
repo=$(cd ../.. && pwd)
venv=$repo/target/python-venv
mkdir -p "$repo/target"
# The tests of the package and of the documents may start at the same time.
exec 9>"$repo/target/python-venv.lock"
flock 9

"$repo/tools/venv.sh" "$venv" >&2
# What was installed: the list of packages, and what the metadata of the package is made of.
installed=$(cat tests/requirements.txt pyproject.toml "$repo/Cargo.toml" | cksum)
if [ "$(cat "$venv/installed" 2>/dev/null)" = "$installed" ]; then
    echo "$venv"
    exit
fi
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2; }
# If pip fails, the environment is incomplete.
rm -f "$venv/installed"
pip -r tests/requirements.txt
# Without build isolation, which would download the build dependencies again.
pip --no-build-isolation -e '.[celery]'
echo "$installed" >"$venv/installed"
echo "$venv"

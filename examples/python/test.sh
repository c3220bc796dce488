#!/bin/bash
# Runs the Python example against GPULOCK_SERVER (an absolute path); see examples/server.sh.
set -euo pipefail
cd "$(dirname "$0")"
. ../server.sh

# redis-py goes into an environment of its own.
venv=$repo/target/examples/python
# The Python of an old environment may have been upgraded or removed since.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || python3 -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt

check_example "$venv/bin/python" lock.py

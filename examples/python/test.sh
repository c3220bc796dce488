#!/bin/bash
# Runs the Python example against GPULOCK_SERVER (an absolute path). See examples/server.sh.
set -euo pipefail
cd "$(dirname "$0")"
. ../server.sh

# redis-py is installed into a virtual environment.
venv=$repo/target/examples/python
# The Python of an existing environment may have been upgraded or removed.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || python3 -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt

check_example "$venv/bin/python" lock.py

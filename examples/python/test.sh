#!/bin/bash
# Runs the Python example against GPULOCK_SERVER (an absolute path). See examples/server.sh.
set -euo pipefail
cd "$(dirname "$0")"
. ../server.sh

# redis-py is installed into a virtual environment.
venv=$repo/target/examples/python
"$repo/tools/venv.sh" "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt

check_example "$venv/bin/python" lock.py

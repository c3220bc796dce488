#!/bin/bash
# Runs the Python example against GPULOCK_SERVER (an absolute path); see examples/server.sh.
set -euo pipefail
cd "$(dirname "$0")"
. ../server.sh

# redis-py goes into an environment of its own.
venv=$repo/target/examples/python
[ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt

check_example "$venv/bin/python" lock.py

#!/bin/bash
# Creates a virtual environment of Python, unless it exists and works:
#
#     tools/venv.sh FOLDER [PYTHON]     PYTHON: the interpreter [default: python3]
#
# An environment stops working if its Python was upgraded or removed, or if the folder was moved: its
# programs contain its path.
set -euo pipefail
venv=$1
"$venv/bin/python" -m pip --version >/dev/null 2>&1 && grep -qsF "$venv" "$venv/bin/activate" && exit
"${2:-python3}" -m venv --clear "$venv"

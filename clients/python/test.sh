#!/bin/bash
# Lints, types, tests and builds the package:
#
#     test.sh [SERVER...]       programs, or folders with a program `server`
#
# All that it needs goes into an environment of its own, target/python-venv. The module is
# GPULOCK_MODULE, or the release build. GPULOCK_GAP_SECONDS: how long sixteen processes fight
# for one lock (3); `cd tests && python -m gap` prints the figures of 30 seconds.
set -euo pipefail
servers=()
# Links stay: Debian's server is a link that is told by its name what it is.
for server; do servers+=("$(realpath -s "$server")"); done
cd "$(dirname "$0")"
repo=$(cd ../.. && pwd)
[ ${#servers[@]} -gt 0 ] || servers=("$("$repo/tools/setup.sh" which)")

venv=$repo/target/python-venv
# The Python of an old environment may have been upgraded or removed since.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || python3 -m venv --clear "$venv"
pip() { "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip -r tests/requirements.txt
# With what is there already: nothing is asked of the index.
pip --no-build-isolation -e '.[celery]'

export PATH=$venv/bin:$PATH
export GPULOCK_MODULE=${GPULOCK_MODULE:-$("$repo/tools/target.sh")/release/libgpulock.so}
export SERVERS="${servers[*]}"
ruff check --quiet
ruff format --quiet --check
mypy
pytest --quiet
python -m build --quiet --no-isolation --outdir "$repo/target/python-dist"

#!/bin/bash
# Lints, type-checks, tests and builds the package:
#
#     test.sh [SERVER...]       programs, or folders with a program `server`
#
# venv.sh installs the dependencies. GPULOCK_MODULE is the path of the module
# [default: the release build]. GPULOCK_GAP_SECONDS is the duration of the test with sixteen
# processes [default: 3]; `cd tests && python -m handoff_gap` measures for 30 seconds.
# GPULOCK_TEST_PROCESSES is the number of processes that run tests [default: 6].
set -euo pipefail
servers=()
# Keep symbolic links: Debian's server is a link, and behaves according to its name.
for server; do servers+=("$(realpath -s "$server")"); done
cd "$(dirname "$0")"
repo=$(cd ../.. && pwd)
[ ${#servers[@]} -gt 0 ] || servers=("$("$repo/tools/setup.sh" which)")

venv=$(./venv.sh)
export PATH=$venv/bin:$PATH
export GPULOCK_MODULE=${GPULOCK_MODULE:-$("$repo/tools/target.sh")/release/libgpulock.so}
SERVERS=$(printf '%s\n' "${servers[@]}")
export SERVERS
ruff check --quiet
ruff format --quiet --check
mypy
mypy tests/typed_program.py
# The tests wait most of the time. Each of the processes has its own servers. A test that hangs
# ends its process: a signal would disturb tests that use the same signal.
limit=(--timeout 300 --timeout-method thread)
pytest --quiet "${limit[@]}" --numprocesses "${GPULOCK_TEST_PROCESSES:-6}" --dist worksteal \
    -m "not alone"
pytest --quiet "${limit[@]}" -m alone
# redis-py's own tests of its locks, with the locks of the package.
python tests/redis_py_suite/run.py --numprocesses "${GPULOCK_TEST_PROCESSES:-6}" --dist worksteal
python -m build --quiet --no-isolation --outdir "$repo/target/python-dist"

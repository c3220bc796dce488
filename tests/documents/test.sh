#!/bin/bash
# Executes the command blocks of the documents, and compares their output:
#
#     test.sh SERVER [DOCUMENT...]      SERVER: a server's program, such as redis-server
#
# Without documents, tests the runner first, and then executes all documents. Needs the release build
# of the module and the command.
set -euo pipefail
server=$(realpath -s "$1")
shift
documents=()
for document; do documents+=("$(realpath "$document")"); done
cd "$(dirname "$0")"
repo=$(cd ../.. && pwd)

# The client beside the server, or the installed one.
find_cli() {
    local folder
    folder=$(dirname "$server")
    for name in "$folder/cli" "$folder/redis-cli" "$folder/valkey-cli" redis-cli valkey-cli; do
        if "$name" --version >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
    echo "test.sh: found neither redis-cli nor valkey-cli: run tools/setup.sh server" >&2
    return 1
}

venv=$("$repo/clients/python/venv.sh")
export PATH=$venv/bin:$PATH
export GPULOCK_SERVER=$server
GPULOCK_REDIS_CLI=$(find_cli)
GPULOCK_RELEASE=$("$repo/tools/target.sh")/release
export GPULOCK_REDIS_CLI GPULOCK_RELEASE
if [ ${#documents[@]} -eq 0 ]; then
    ruff check --quiet .
    ruff format --quiet --check .
    mypy --strict --no-error-summary run.py runner
    pytest --quiet
fi
python run.py "${documents[@]}"

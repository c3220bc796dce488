#!/bin/bash
# Tests the package with each supported Python and with the oldest supported redis-py, and runs
# redis-py's own tests of its locks, of several releases, with the locks of the package:
#
#     matrix.sh [SERVER...]     programs, or folders with a program `server`
#
# The interpreters are python3.9, python3.10, ... on PATH, and those of pyenv and uv. A part
# without an interpreter is listed as NOT RUN, and counts as a failure unless ALLOW_MISSING=1.
# The environments and logs are in target/python-matrix. Set PARTS to the names of parts to run
# only these, for example PARTS="python3.9 lock-tests-6.4.0".
set -euo pipefail
servers=()
# Keep symbolic links: Debian's server is a link, and behaves according to its name.
for server; do servers+=("$(realpath -s "$server")"); done
cd "$(dirname "$0")"
repo=$(cd ../.. && pwd)
[ ${#servers[@]} -gt 0 ] || servers=("$("$repo/tools/setup.sh" which)")
export GPULOCK_MODULE=${GPULOCK_MODULE:-$("$repo/tools/target.sh")/release/libgpulock.so}
SERVERS=$(printf '%s\n' "${servers[@]}")
export SERVERS
processes=${GPULOCK_TEST_PROCESSES:-6}
work=$repo/target/python-matrix
mkdir -p "$work"

pythons=(3.9 3.10 3.11 3.12 3.13)
lock_tests=(5.3.1 6.4.0 7.4.1 8.1.0)
# The oldest redis-py that the package accepts.
oldest=$(sed -n 's/^dependencies = \["redis>=\(.*\)"\]/\1/p' pyproject.toml)
[ -n "$oldest" ] || { echo "matrix.sh: found no oldest redis-py in pyproject.toml" >&2; exit 1; }

results=()
failed=

# Prints the interpreter of a version. A shim of pyenv is no interpreter, if it does not start.
interpreter() { # VERSION
    local candidate
    for candidate in "$(command -v "python$1")" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python \
        "$(uv python find "$1" 2>/dev/null)"; do
        [ "$("$candidate" -c 'import ensurepip, sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$1" ] || continue
        echo "$candidate"
        return
    done
    return 1
}

# Creates the environment of a part, with the package and its requirements.
environment() { # NAME VERSION
    local python venv=$work/$1 requirements=tests/requirements.txt
    python=$(interpreter "$2") || return 1
    [ ! -e "tests/requirements-python$2.txt" ] || requirements=tests/requirements-python$2.txt
    "$repo/tools/venv.sh" "$venv" "$python"
    install "$1" -r "$requirements"
    install "$1" --no-build-isolation -e '.[celery]'
}

install() { # NAME PIP-ARGUMENT...
    local name=$1
    shift
    "$work/$name/bin/pip" install --quiet --disable-pip-version-check "$@"
}

uninstall() { # NAME PACKAGE...
    local name=$1
    shift
    "$work/$name/bin/pip" uninstall --quiet --yes --disable-pip-version-check "$@"
}

is_wanted() { # NAME
    [ -z "${PARTS:-}" ] || [[ " $PARTS " == *" $1 "* ]]
}

not_run() { # NAME REASON
    echo "$1: NOT RUN: $2"
    results+=("$1: NOT RUN: $2")
    [ "${ALLOW_MISSING:-}" = 1 ] || failed=yes
}

# Runs a command, and prints its output if it fails.
record() { # NAME VERSIONS COMMAND...
    local name=$1 versions=$2 log=$work/$1.log result
    shift 2
    if "$@" >"$log" 2>&1; then
        result="$versions: $(grep -E '[0-9]+ passed' "$log" | tail -1)"
    else
        cat "$log"
        result="$versions: FAILED"
        failed=yes
    fi
    echo "$name: $result"
    results+=("$name: $result")
}

suite() { # NAME
    "$work/$1/bin/python" -m pytest --quiet --timeout 300 --timeout-method thread \
        --numprocesses "$processes" --dist worksteal -m "not alone"
}

redis_version() { # NAME
    echo "redis-py $("$work/$1/bin/python" -c 'import redis; print(redis.__version__)')"
}

for version in "${pythons[@]}"; do
    name=python$version
    is_wanted "$name" || continue
    if environment "$name" "$version"; then
        record "$name" "$(redis_version "$name")" suite "$name"
    else
        not_run "$name" "found no python$version"
    fi
done

name="oldest-redis-py"
if is_wanted "$name"; then
    if environment "$name" 3.11; then
        # These require a newer redis-py: their tests are skipped.
        uninstall "$name" celery taskiq-redis
        install "$name" "redis==$oldest"
        record "$name" "$(redis_version "$name")" suite "$name"
    else
        not_run "$name" "found no python3.11"
    fi
fi

for version in "${lock_tests[@]}"; do
    name=lock-tests-$version
    is_wanted "$name" || continue
    if environment lock-tests 3.11; then
        # It requires a newer redis-py than some of these.
        uninstall lock-tests taskiq-redis
        install lock-tests "redis==$version"
        record "$name" "redis-py's own tests" \
            "$work/lock-tests/bin/python" tests/redis_py_suite/run.py --numprocesses "$processes" \
            --dist worksteal
    else
        not_run "$name" "found no python3.11"
    fi
done

printf '\n'
printf '%s\n' "${results[@]}"
[ -z "$failed" ]

#!/bin/bash
# Runs the benchmark, or updates docs/benchmarks.md from its results:
#
#     tools/bench.sh SERVER...    measures on each server and prints the results; SERVER is a
#                                 program, a folder with a program `server`, or a folder of
#                                 such folders
#     tools/bench.sh --docs       updates the tables of docs/benchmarks.md from all results,
#                                 and its plots
#
# Results are written to target/bench/NAME.json, where those of other servers stay. `make
# bench` and `make bench-docs` build the programs first.
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(tools/target.sh)/release
bench=$built/gpulock-bench
venv=$PWD/target/bench-venv
out=target/bench

fail() { echo "bench.sh: $*" >&2; exit 1; }

# Creates the Python environment, or creates it again after a change of the requirements.
make_venv() {
    local requirements=bench/requirements.txt
    tools/venv.sh "$venv"
    cmp -s "$requirements" "$venv/requirements.txt" &&
        "$venv/bin/python" -c 'import redis, matplotlib' && return
    rm -f "$venv/requirements.txt"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$venv/requirements.txt"
}

# The server programs of an argument, as in the tests.
programs() { # ARGUMENT
    if [ -f "$1" ]; then
        echo "$1"
    elif [ -f "$1/server" ]; then
        echo "$1/server"
    else
        ls "$1"/*/server 2>/dev/null || fail "no server at $1"
    fi
}

# "Redis server v=7.0.15 ..." becomes redis-7.0.15.
name_of() { # PROGRAM
    "$1" --version | sed -n 's/^\([A-Za-z]*\) server v=\([0-9.]*\).*/\L\1-\2/p'
}

[ $# -gt 0 ] || fail "missing argument: SERVER or --docs"
make_venv
if [ "$1" = --docs ]; then
    compgen -G "$out/*.json" >/dev/null || fail "no results in $out: run \"make bench\" first"
    "$bench" report "$out"/*.json --into docs/benchmarks.md
    "$venv/bin/python" bench/plots.py docs/benchmarks.md docs/benchmarks
    exit
fi
mkdir -p "$out"
runs=()
for word; do
    found=$(programs "$word")
    for program in $found; do
        run=$out/$(name_of "$program").json
        # The installed server may also be in one of the folders.
        [[ " ${runs[*]} " != *" $run "* ]] || continue
        "$bench" measure --server "$program" --module "$built/libgpulock.so" \
            --python "$venv/bin/python" --out "$run"
        runs+=("$run")
    done
done
"$bench" report "${runs[@]}"

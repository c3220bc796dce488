#!/bin/bash
# Measures on each server that is named, writes target/bench/NAME.json, shows all of them
# at the end and draws the plots beside them:
#
#     tools/bench.sh SERVER...    programs, folders with a program `server`, or folders of such
#
# `make bench` builds and brings before what this runs. Runs of other servers that are there
# from before stay.
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(tools/target.sh)/release
bench=$built/gpulock-bench
venv=target/bench-venv
out=target/bench

fail() { echo "bench.sh: $*" >&2; exit 1; }

# The peers in Python, anew when what is wanted has changed.
make_venv() {
    local wanted=bench/workers/requirements.txt
    # Its Python may have been upgraded or removed since.
    cmp -s "$wanted" "$venv/made-of" && "$venv/bin/python" -c 'import redis' && return
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$wanted"
    cp "$wanted" "$venv/made-of"
}

# The server programs that a word means, as in the tests.
programs() { # WORD
    if [ -f "$1" ]; then
        echo "$1"
    elif [ -f "$1/server" ]; then
        echo "$1/server"
    else
        ls "$1"/*/server 2>/dev/null || fail "no server at $1"
    fi
}

# "Redis server v=7.0.15 ..." is redis-7.0.15.
name_of() { # PROGRAM
    "$1" --version | sed -n 's/^\([A-Za-z]*\) server v=\([0-9.]*\).*/\L\1-\2/p'
}

[ $# -gt 0 ] || fail "name a server"
make_venv
mkdir -p "$out"
runs=()
for word; do
    found=$(programs "$word")
    for program in $found; do
        run=$out/$(name_of "$program").json
        # The installed server may be among the others as well.
        [[ " ${runs[*]} " != *" $run "* ]] || continue
        "$bench" measure --server "$program" --module "$built/libgpulock.so" \
            --python "$venv/bin/python" --out "$run"
        runs+=("$run")
    done
done
"$bench" report "${runs[@]}" --plots "$out"

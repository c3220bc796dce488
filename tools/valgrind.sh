#!/bin/bash
# Runs the server tests with every server under valgrind's memcheck. Arguments are passed to
# `cargo test -p gpulock --test server`:
#
#     tools/valgrind.sh                all tests, on the servers in SERVERS
#     tools/valgrind.sh input::fuzz    some tests
#
# Debian's servers load jemalloc as a library. memcheck replaces it, so that it sees every
# block, including those of the module; the script first proves that it does. Only the module's
# memory counts: errors, and unreachable blocks, with the module in their stack. Failed tests
# are listed and do not count: under valgrind a server is thirty times slower and misses time
# limits, which `make test` checks.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "valgrind.sh: $*" >&2; exit 1; }
valgrind -q true >/dev/null || fail "valgrind does not run here: tools/setup.sh memory installs it"

logs=$(tools/target.sh)/valgrind
rm -rf "$logs"
mkdir -p "$logs"

# Follow a wrapper that executes the server, but not the processes that it forks to save.
# Keep the names of an unloaded module in the stacks.
under="valgrind --trace-children=yes --child-silent-after-fork=yes --keep-debuginfo=yes
    --soname-synonyms=somalloc=*jemalloc* --leak-check=full --num-callers=40
    --errors-for-leak-kinds=definite --xml=yes"

# Tests that would take hours.
slow=(a_million_random_names a_held_lock_costs)

tests() { # FOLDER LEAK-KINDS ARGUMENT...
    local folder=$logs/$1 kinds=$2
    shift 2
    mkdir "$folder"
    GPULOCK_UNDER="${under//$'\n'/ } --show-leak-kinds=$kinds --xml-file=$folder/%p.xml" \
        cargo test --locked -p gpulock --test server "$@"
}

# Prints the complaints with the module in the stack: the file, the kind and the calls.
about_the_module() { # FOLDER
    find "$1" -name '*.xml' -exec awk '
        BEGIN { RS = "</error>" }
        /<obj>[^<]*libgpulock/ {
            print FILENAME
            while (match($0, /<(kind|what|text|fn)>[^<]*/)) {
                print "    " substr($0, RSTART, RLENGTH)
                $0 = substr($0, RSTART + RLENGTH)
            }
        }' {} +
}

tests proof all locks::a_held_lock_contains_its_owner_and_refuses_others >"$logs/proof.log" 2>&1 ||
    { cat "$logs/proof.log" >&2; fail "no server runs under valgrind here"; }
[ "$(about_the_module "$logs/proof" | grep -c StillReachable)" -gt 0 ] ||
    fail "memcheck does not see the module's blocks: does the server load jemalloc as a library?"

skips=()
for test in ${slow[@]+"${slow[@]}"}; do skips+=(--skip "$test"); done
case " $* " in *" -- "*) arguments=("$@") ;; *) arguments=("$@" --) ;; esac
tests run definite "${arguments[@]}" --test-threads=1 ${skips[@]+"${skips[@]}"} 2>&1 |
    tee "$logs/tests.log" || true

about_the_module "$logs/run" >"$logs/found"
servers=$(grep -l '</valgrindoutput>' -r "$logs/run" | wc -l)
echo "$servers servers exited under valgrind: $(grep -c '<kind>' "$logs/found" || true) complaints about the module"
if [ -s "$logs/found" ]; then
    cat "$logs/found"
    fail "the module has memory errors: see $logs/run"
fi
ran=$(grep -c '^test .* ok$' "$logs/tests.log") ||
    fail "no test passed: see $logs/tests.log"
echo "$ran tests passed; these failed, which is expected of tests of time and memory:"
grep '^test .*FAILED$' "$logs/tests.log" || echo "(none)"

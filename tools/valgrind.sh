#!/bin/bash
# The server tests with every server under valgrind's memcheck. What follows goes to
# `cargo test -p gpulock`:
#
#     tools/valgrind.sh                      all of them, on the servers in SERVERS
#     tools/valgrind.sh --test fuzz_calls    some
#
# Debian's servers keep their memory with jemalloc, which they load as a library. memcheck is
# told to stand in for it, so that it sees every block, those of the module among them; that
# it does is shown first. The judgement is about the module's memory alone: errors, and blocks
# that nothing points to any more, with the module in their stack. Tests that fail are named,
# and do not count: a server that is thirty times slower keeps few promises about time, and
# `make test` judges those.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "valgrind.sh: $*" >&2; exit 1; }
valgrind -q true >/dev/null || fail "valgrind does not run here: tools/setup.sh memory installs it"

logs=$(tools/target.sh)/valgrind
rm -rf "$logs"
mkdir -p "$logs"

# A wrapper turns into the server, so what is executed is followed; what is forked, to save,
# is silent. A module that was unloaded still has its name in the stacks.
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
        cargo test --locked -p gpulock --no-fail-fast "$@"
}

# What was said with the module in the stack: the file, the kind, and the calls.
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

tests proof all --test take_and_give_back the_key_holds_the_owner >"$logs/proof.log" 2>&1 ||
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
echo "$servers servers ran to their end under valgrind: $(grep -c '<kind>' "$logs/found" || true) complaints about the module"
if [ -s "$logs/found" ]; then
    cat "$logs/found"
    fail "the module is not clean: $logs/run has all of it"
fi
ran=$(grep -c '^test .* ok$' "$logs/tests.log") ||
    fail "no test ran to its end: $logs/tests.log tells why"
echo "$ran tests held, and these did not, which are about time or memory unless you see why not:"
grep '^test .*FAILED$' "$logs/tests.log" || echo "(none)"

# shellcheck shell=bash
# The sets tests and memory: programs that the tests of the workspace and tools/valgrind.sh call.

# What the tests require. The set cli contains what they can do without.
want_tests() {
    has_python || need python3
    perl -MPOSIX -e 1 >/dev/null 2>&1 || need perl
    setsid true >/dev/null 2>&1 || need util-linux
    script --quiet --return --command true /dev/null >/dev/null 2>&1 </dev/null || need bsdutils
}

want_memory() {
    valgrind -q true >/dev/null 2>&1 || need valgrind
}

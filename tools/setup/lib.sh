# shellcheck shell=bash
# Messages, the folder of temporary files, and the lock of a set-up. Nothing about programs or
# packages.

note() { echo "setup.sh: $*" >&2; }
fail() { note "$*"; exit 1; }

# The folder of temporary files.
probes=
create_probes() {
    probes=$(mktemp -d)
    trap 'rm -rf "$probes"' EXIT
    # Otherwise a compiler without space for its output would seem to be missing.
    printf '%262144s' '' 2>/dev/null >"$probes/space" || fail "no space left in ${TMPDIR:-/tmp}: set TMPDIR"
    rm "$probes/space"
}

# Set-ups that run at the same time wait for each other.
take_lock() {
    mkdir -p target/tools
    exec 9<target/tools
    flock -n 9 2>/dev/null || ! has flock || {
        note "waiting for another set-up to finish"
        flock -w 900 9 || fail "another set-up is still running after 15 minutes"
    }
}

# shellcheck shell=bash
# Functions and settings that the scripts of tools/release share. Source it from the top of the
# repository.

# Artefacts must not depend on the time zone, the language or the umask of the machine.
export TZ=UTC LC_ALL=C.UTF-8
umask 022

fail() { echo "${0##*/}: $*" >&2; exit 1; }

# The target triple of this machine, with glibc.
host_triple() {
    echo "$(uname -m)-unknown-linux-gnu"
}

# The processor in a target triple, as in the names of the artefacts.
arch_of() { # TRIPLE
    echo "${1%%-*}"
}

# The folder of the artefacts for a target triple.
dist_folder() { # TRIPLE
    echo "$(tools/target.sh)/dist/gpulock-$(tools/version.sh)-linux-$(arch_of "$1")"
}

# The date of the files in the artefacts, in seconds since 1970: SOURCE_DATE_EPOCH if it is set,
# otherwise the date of the commit.
set_source_date() {
    if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
        SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null) ||
            fail "not in a git repository: set SOURCE_DATE_EPOCH to the date of the release in seconds since 1970"
    fi
    export SOURCE_DATE_EPOCH
}

# Creates the environment with the Python programs of requirements.txt, and sets `python`.
prepare_python() {
    local venv=$PWD/target/tools/release-python
    tools/venv.sh "$venv"
    python=$venv/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check -r tools/release/requirements.txt
}

# Installs cargo-cyclonedx into target/tools, which takes some minutes.
prepare_cyclonedx() {
    export PATH=$PWD/target/tools/bin:$PATH
    "${CARGO:-cargo}" cyclonedx --version >/dev/null 2>&1 ||
        "${CARGO:-cargo}" install --locked --root target/tools --target-dir target/tools/build \
            --version '=0.5.9' cargo-cyclonedx || fail "cannot install cargo-cyclonedx"
}

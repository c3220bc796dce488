#!/bin/bash
# Checks the format and the lints of the Rust code, the shell scripts, the Python files in deploy/, the
# spelling, and the licences, duplicates and sources of the dependencies:
#
#     tools/lint.sh [--features FEATURES]     lints the Rust code with these features, too
#
# Uses no network. If the program for a check is missing, the check is SKIPPED. Warnings of a clippy that
# is newer than all that the code was checked with are printed, but are no errors: it may have new lints.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
newest_clippy=0.1.97 # that of Rust 1.97
PATH=$PWD/target/tools/bin:$PATH
# shellcheck source=tools/setup/versions.sh
. tools/setup/versions.sh

skip() { echo "SKIPPED: tools/lint.sh: $*" >&2; }
# Succeeds if a program runs; a file with its name is not sufficient.
runs() { "$@" --version >/dev/null 2>&1; }

if runs "$cargo" fmt; then
    "$cargo" fmt --all --check
    "$cargo" fmt --manifest-path fuzz/Cargo.toml --check
else
    skip "format: rustfmt does not run; to install it: tools/setup.sh lint"
fi

if runs "$cargo" clippy; then
    warnings=(-D warnings)
    found=$(version "$cargo" clippy --version)
    if ! at_least "$newest_clippy" "$found"; then
        echo "tools/lint.sh: clippy $found is newer than $newest_clippy: its warnings are no errors" >&2
        warnings=()
    fi
    "$cargo" clippy --locked -q --workspace --all-targets -- "${warnings[@]}"
    # All members again, because cargo would compile the dependencies of one with other features.
    [ $# -eq 0 ] || "$cargo" clippy --locked -q --workspace --all-targets "$@" -- "${warnings[@]}"
else
    skip "lints of the Rust code: clippy does not run; to install it: tools/setup.sh lint"
fi

if runs shellcheck; then
    # The files in tools/setup share variables, so they are checked as parts of setup.sh.
    shellcheck --check-sourced tools/*.sh tools/release/*.sh deploy/*.sh deploy/*/*.sh deploy/*/*/*.sh deploy/debian/*.prerm examples/*.sh examples/*/*.sh clients/*/*.sh tests/*/*.sh .ci/run
else
    skip "shell scripts: shellcheck does not run; to install it: tools/setup.sh lint"
fi

# The tests of the Python package install ruff, and lint the package.
ruff=$PWD/target/python-venv/bin/ruff
! runs ruff || ruff=ruff
if runs "$ruff"; then
    "$ruff" check --quiet deploy
else
    skip "Python files: ruff does not run; to install it: clients/python/venv.sh"
fi

# Only the files of the repository, if this is a checkout of it.
check_spelling() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files -z | xargs -0 codespell
    else
        codespell
    fi
}

if runs codespell; then
    check_spelling
else
    skip "spelling: codespell does not run; to install it: tools/setup.sh lint"
fi

if runs "$cargo" deny; then
    "$cargo" deny --workspace --offline --locked --log-level warn check --hide-inclusion-graph \
        licenses bans sources
else
    skip "dependencies: cargo-deny does not run; to install it: tools/setup.sh deny"
fi

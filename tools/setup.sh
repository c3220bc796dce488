#!/bin/bash
# Finds or installs the programs that the make targets need:
#
#     tools/setup.sh [SET...] [--optional SET...]         default: what `make test` needs
#     tools/setup.sh check [SET...] [--optional SET...]   prints the missing packages and fails
#     tools/setup.sh which                                prints the server program to test with
#
# Sets: build (Rust, a C compiler, libclang), server, tests, python, documents, examples, lint, node,
# cli (shells, a terminal, Prometheus), browser, deb, bench, memory, deny. If packages of sets after
# --optional cannot be installed, the script still succeeds: what needs them is SKIPPED. Without sets,
# lint, node, cli, browser and deb are optional, and bench, memory and deny are left out.
#
# A program counts as installed if it runs and is recent enough; a file with its name is not
# sufficient. Installing packages requires apt, and root or sudo. Without these, the script prints
# the command to run and fails. It removes no package, starts no service and does not change an
# installed Redis: Debian's package redis-server would start one, but redis-tools contains the server
# program under another name. The package prometheus would start a service as well, so it is only
# unpacked, to target/tools/prometheus.
#
# A Rust that is not first on PATH, and a libclang that bindgen does not find, are used through links
# in target/tools/rust. The Makefile puts this folder first on PATH. Paths are those without symbolic
# links (cd -P), as in the Makefile.
#
# This file contains the order of the steps. The files in tools/setup contain the steps and the sets.
# shellcheck source-path=SCRIPTDIR/..
set -euo pipefail
cd -P "$(dirname "$0")/.."

# They only define functions and variables.
. tools/setup/lib.sh
. tools/setup/versions.sh
. tools/setup/needs.sh
. tools/setup/apt.sh
. tools/setup/rust.sh
. tools/setup/rust_packages.sh
. tools/setup/rust_links.sh
. tools/setup/libclang.sh
. tools/setup/install.sh
# The sets.
. tools/setup/build.sh
. tools/setup/server.sh
. tools/setup/tests.sh
. tools/setup/python.sh
. tools/setup/node.sh
. tools/setup/lint.sh
. tools/setup/cli.sh
. tools/setup/browser.sh
. tools/setup/deb.sh

sets=(build server tests python documents examples lint node cli browser deb bench memory deny)
# Without arguments.
default_sets=(build server tests python documents examples --optional lint node cli browser deb)

create_probes
PATH=$(path_without_links)

if [ "${1:-}" = which ]; then
    which_server || fail "found no server: run tools/setup.sh server"
    exit
fi
only_check=
if [ "${1:-}" = check ]; then only_check=yes; shift; fi
[ $# -gt 0 ] || set -- "${default_sets[@]}"

if [ -n "$only_check" ]; then
    look_for "$@"
    require_rust_packages "$@"
    if is_incomplete; then all_packages; exit 1; fi
    exit 0
fi

# Programs that run for longer do not inherit the lock (9<&-): one that stays would keep it.
take_lock
look_for "$@"
# What apt does not offer does not justify another update of the package lists.
if [ -z "$rust_missing" ] && [ ${#missing[@]} -eq 0 ] && has_lists; then skip_unavailable; fi
if is_incomplete; then
    if has apt-get && become_root; then
        install_packages "$@" 9<&-
        check_installed "$@"
    else
        without_packages "$@" 9<&-
    fi
fi
link_rust
finish "$@" 9<&-

#!/bin/bash
# Prints the absolute path of the folder that cargo builds into: CARGO_TARGET_DIR, otherwise the
# setting in a configuration file of cargo, otherwise target/. A relative CARGO_TARGET_DIR is
# relative to the top of the repository. The Makefile, the scripts and the tests use this script.
set -euo pipefail
cd -P "$(dirname "$0")/.."
folder=${CARGO_TARGET_DIR:-}
if [ -z "$folder" ]; then
    # Without cargo, there is no setting to read: the default applies.
    metadata=$("${CARGO:-cargo}" metadata --offline --no-deps --format-version 1 2>/dev/null) || true
    folder=$(sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p' <<<"$metadata")
fi
realpath -m "${folder:-target}"

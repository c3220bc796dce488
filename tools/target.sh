#!/bin/bash
# Prints the folder that cargo builds into, as an absolute path: CARGO_TARGET_DIR, else the
# setting in a configuration file of cargo, else target/. A relative CARGO_TARGET_DIR counts
# from the top of the repository. Everything that needs a build asks here.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${CARGO_TARGET_DIR:-}
if [ -z "$folder" ]; then
    # Without cargo there is no setting to read.
    metadata=$("${CARGO:-cargo}" metadata --offline --no-deps --format-version 1 2>/dev/null) || true
    folder=$(sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p' <<<"$metadata")
fi
realpath -m "${folder:-target}"

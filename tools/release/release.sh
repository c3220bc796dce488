#!/bin/bash
# Builds the artefacts of a release for this machine's processor, and prints their folder on the last
# line. `make release` calls it. tools/release/artefacts.sh lists the artefacts.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tools/release/lib.sh
. tools/release/lib.sh

triple=$(host_triple)
built=$(tools/release/build.sh "$triple" | tail -n 1)
tools/release/artefacts.sh "$triple" "$built"

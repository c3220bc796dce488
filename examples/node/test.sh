#!/bin/bash
# Runs the Node example against GPULOCK_SERVER (an absolute path). See examples/server.sh.
set -euo pipefail
cd "$(dirname "$0")"
. ../server.sh

# Node resolves packages relative to the program, so the program is copied next to them.
copy=$repo/target/examples/node
mkdir -p "$copy"
cp .npmrc package.json package-lock.json lock.js "$copy"
cd "$copy"
npm ci --loglevel=error --no-audit --no-fund --prefer-offline --fetch-retries=5 >/dev/null

check_example node lock.js

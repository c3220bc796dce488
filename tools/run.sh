#!/bin/bash
# Starts a server with the module and redis.conf in the foreground, on port 6379 or the next free
# one, and prints commands to try in another shell. Options are passed to the server, for example
# --port 7000.
set -euo pipefail
cd -P "$(dirname "$0")/.."

server=$(tools/setup.sh which)
module=$(tools/target.sh)/release/libgpulock.so
[ -f "$module" ] || { echo "run.sh: $module does not exist: run make module first" >&2; exit 1; }

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
port='' previous=''
for option; do
    [ "$previous" != --port ] || port=$option
    previous=$option
done
if [ -z "$port" ]; then
    port=6379
    while taken "$port"; do port=$((port + 1)); done
    [ "$port" -eq 6379 ] || echo "Port 6379 is in use. This server listens on port $port."
fi
options=()
if [ "$port" != 6379 ]; then
    echo "Set GPULOCK_URL for the command gpulock:"
    echo
    echo "  export GPULOCK_URL=redis://127.0.0.1:$port"
    echo
    # The other server may use the same folder, but two servers must not write to the same files.
    options=(--port "$port" --appenddirname "appendonlydir-$port" --dbfilename "dump-$port.rdb")
fi

# A copy of the file, with the path of the module that cargo built. CONFIG REWRITE changes only the
# copy.
mkdir -p target
sed "s#^loadmodule .*#loadmodule \"$module\"#" redis.conf >"target/run-$port.conf"

cli=redis-cli
"$cli" --version >/dev/null 2>&1 || ! valkey-cli --version >/dev/null 2>&1 || cli=valkey-cli
cat <<TRY
Try in another shell:

  $cli -p $port GPULOCK.ACQUIRE gpu_lock:0 me EX 60
  $cli -p $port GPULOCK.INSPECT gpu_lock:0
  $cli -p $port GPULOCK.RELEASE gpu_lock:0 me

TRY
exec "$server" "./target/run-$port.conf" "${options[@]}" "$@"

#!/bin/bash
# Draws docs/pictures/top.svg: gpulock top on a server with the module, after jobs have come
# and gone for most of a minute.
#
#     GPULOCK_SERVER=redis-server tools/picture.sh [GPULOCK]
#
# GPULOCK is the program [default: the release build]. Needs tmux, and Python with rich (apt
# install tmux python3-rich); set PYTHON to use another Python interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
gpulock=$(realpath "${1:-$(tools/target.sh)/release/gpulock}")
width=100 height=26

# shellcheck source=examples/server.sh
. examples/server.sh
picture="$folder/tmux"
jobs=()

end() {
    for job in "${jobs[@]}"; do kill "$job" 2>/dev/null || true; done
    tmux -S "$picture" kill-server 2>/dev/null || true
    stop_server
}
trap end EXIT

# A job that repeatedly acquires any of the keys, holds it for some seconds, and pauses.
job() { # OWNER HOLD PAUSE KEY...
    local owner=$1 hold=$2 pause=$3 connection lines key
    shift 3
    exec {connection}<>"/dev/tcp/127.0.0.1/${REDIS_URL##*:}"
    while true; do
        printf 'GPULOCK.ACQUIREANY %s %s %s EX 30 BLOCK 0 UNIQUE SESSION\r\n' \
            $# "$*" "$owner" >&"$connection"
        # One pair of key and token: *1, *2, the length, the key, the token.
        mapfile -t -n 5 -u "$connection" lines
        key=${lines[3]%$'\r'}
        sleep "$hold"
        printf 'GPULOCK.RELEASE %s %s\r\n' "$key" "$owner" >&"$connection"
        mapfile -t -n 1 -u "$connection" lines
        sleep "$pause"
    done
}

start_server
pool=("{node7}:gpu:0" "{node7}:gpu:1" "{node7}:gpu:2" "{node7}:gpu:3")
ask GPULOCK.ACQUIRE "{node8}:gpu:0" train-llama-70b:node8:2177 EX 86400 >/dev/null
ask SET "{node8}:gpu:1" locked_by_asr EX 600 >/dev/null
ask GPULOCK.ACQUIRE "{node8}:gpu:1" x >/dev/null
ask GPULOCK.ACQUIRE "{node7}:gpu:3" notebook-anna:node7:90 EX 3600 >/dev/null
tmux -S "$picture" -f /dev/null new-session -d -x $width -y $height \
    "'$gpulock' top --interval 0.5 --url '$REDIS_URL'"

number=0
for owner in train-vit embed-docs eval-mmlu tts-batch asr-batch finetune-7b rerank; do
    number=$((number + 1))
    job "$owner:node7:$((4000 + 37 * number))" $((2 + number % 4)) $((number % 3)) \
        "${pool[@]}" &
    jobs+=($!)
    sleep 4
done
job eval-arc:node8:311 3 1 "{node8}:gpu:0" &
jobs+=($!)
sleep 14
tmux -S "$picture" send-keys Home Enter
sleep 2

LC_ALL=C.UTF-8 tmux -S "$picture" capture-pane -p -e |
    "${PYTHON:-python3}" -c '
import io, re, sys
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

path, width = sys.argv[1], int(sys.argv[2])
console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
console.print(Text.from_ansi(sys.stdin.read()), end="", no_wrap=True, crop=True)
# Without fonts that a page would have to download.
plain = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.S)
console.save_svg(path, title="gpulock top", code_format=plain, unique_id="top")
' docs/pictures/top.svg $width

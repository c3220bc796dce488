#!/bin/bash
# Prints the compilers and the linker of a released program, as the program itself names them:
#
#     tools/release/compilers.sh FILE
#     rustc version 1.95.0 (59807616e 2026-04-14); GCC: (Debian 12.2.0-14+deb12u1) 12.2.0
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: compilers.sh FILE" >&2; exit 2; }
found=$(readelf --wide --string-dump=.comment "$1" 2>/dev/null | sed -n 's/^ *\[ *[0-9a-f]*\] *//p' | sed 's/ *(\/checkout[^)]*)//')
[[ $found == *rustc* ]] || { echo "compilers.sh: $1 does not name its compilers: expected a program built with Rust, whose section .comment was not removed" >&2; exit 1; }
echo "${found//$'\n'/; }"

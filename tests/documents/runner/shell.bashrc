# shellcheck shell=bash disable=SC2034,SC2016
# The settings of the shell of a terminal. It prints the status of each command between two marks.
PS1=
PROMPT_COMMAND='printf "\036%d\036" "$?"'

# Waits until a command succeeds. Not in shown blocks: readers do not have it.
wait_for() {
    until "$@" >/dev/null 2>&1; do sleep 0.05; done
}

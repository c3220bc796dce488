# The settings of the shell of a terminal. It prints the status of each command between two marks.
PS1=
PROMPT_COMMAND='printf "\036%d\036" "$?"'

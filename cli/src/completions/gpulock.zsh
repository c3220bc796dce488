#compdef gpulock
# Completion for zsh; written by `gpulock completions zsh`.

_gpulock() {
    local program=${${(Q)words[1]}/#\~/$HOME} line word
    local -a candidates
    integer dashes=${words[(i)--]}
    # After -- comes another command.
    if (( dashes < CURRENT )); then
        shift $dashes words
        (( CURRENT -= dashes ))
        _normal
        return
    fi
    for line in ${(f)"$($program __complete -- "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)"}; do
        # A colon ends the word, unless it is escaped.
        word=${${${line%%$'\t'*}//\\/\\\\}//:/\\:}
        candidates+=("$word:${line#*$'\t'}")
    done
    _describe gpulock candidates
}

# Loaded by compinit, or sourced.
if [[ ${funcstack[1]} == _gpulock ]]; then
    _gpulock "$@"
else
    compdef _gpulock gpulock
fi

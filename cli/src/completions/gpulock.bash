# Completion for bash; written by `gpulock completions bash`.

_gpulock() {
    local line=${COMP_LINE:0:COMP_POINT} rest piece i n=-1
    local words=() starts=() before=""
    # bash splits words at characters such as : and =, which keys contain. Join the pieces that no
    # space separates. `before` is what precedes the piece that bash replaces.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        rest=${line#"${line%%[![:space:]]*}"}
        if ((n < 0)) || [[ $rest != "$line" ]]; then
            ((++n))
            words[n]="" starts[n]=$i before=""
        fi
        piece=${COMP_WORDS[i]}
        # The last piece may go on after the cursor.
        ((i < COMP_CWORD)) || piece=$rest
        [[ $i -lt $COMP_CWORD || $piece == [:=@] ]] && before+=$piece
        words[n]+=$piece
        line=${rest#"$piece"}
    done

    # After -- comes another command.
    for ((i = 1; i < n; i++)); do
        if [[ ${words[i]} == -- ]]; then
            if declare -F _comp_command_offset >/dev/null; then
                _comp_command_offset "${starts[i + 1]}"
            elif declare -F _command_offset >/dev/null; then
                _command_offset "${starts[i + 1]}"
            else
                compopt -o default 2>/dev/null
            fi
            return
        fi
    done

    local quote=${words[n]:0:1} program=${words[0]/#\~/$HOME} value
    # An alias is no program.
    type -P "$program" >/dev/null || program=gpulock
    [[ $quote == [\'\"] ]] || quote=""
    [[ -n $quote ]] && before=""
    words=("${words[@]//[\\\'\"]/}")
    before=${before//[\\\'\"]/}
    while IFS= read -r value; do
        value=${value%%$'\t'*}
        [[ -n $value ]] || continue
        [[ $value == */ ]] && compopt -o nospace 2>/dev/null
        value=${value#"$before"}
        # bash completes the quote, but it does not quote.
        if [[ -z $quote && ($value == *[^A-Za-z0-9_./:@%+,={}-]* || $value =~ \{[^}]*(,|\.\.)) ]]; then
            printf -v value %q "$value"
        fi
        COMPREPLY+=("$value")
    done < <("$program" __complete -- "${words[@]}" 2>/dev/null)
}

complete -F _gpulock gpulock

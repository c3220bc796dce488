# Completion for bash; written by `gpulock completions bash`.

# Sets `value` to what a shell makes of a word that may not be complete, `quote` to the quote that is
# open at its end, and `prefix` to the value before that quote.
_gpulock_unquote() {
    local word=$1 char i
    value="" quote="" prefix=""
    for ((i = 0; i < ${#word}; i++)); do
        char=${word:i:1}
        if [[ $char == "$quote" ]]; then
            quote=""
        elif [[ -z $quote && $char == [\'\"] ]]; then
            quote=$char prefix=$value
        elif [[ $char == \\ && ( -z $quote || $quote$char${word:i+1:1} == \"\\[\"\\\$\`] ) ]]; then
            ((++i))
            value+=${word:i:1}
        else
            value+=$char
        fi
    done
}

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

    local program=${words[0]/#\~/$HOME} quote="" prefix="" value
    # An alias is no program.
    type -P "$program" >/dev/null || program=gpulock
    _gpulock_unquote "$before"
    before=$value
    for i in "${!words[@]}"; do
        _gpulock_unquote "${words[i]}"
        words[i]=$value
    done
    # Within quotes, bash replaces only what follows the quote.
    [[ -n $quote ]] && before=$prefix
    while IFS= read -r value; do
        value=${value%%$'\t'*}
        [[ -n $value ]] || continue
        [[ $value == */ ]] && compopt -o nospace 2>/dev/null
        value=${value#"$before"}
        # bash inserts candidates as they are; it only adds the closing quote.
        case $quote in
            \')
                value=${value//"'"/"'\\''"}
                ;;
            \")
                # Nothing escapes this character in double quotes.
                [[ $value != *!* ]] || continue
                for i in \\ \" \$ \`; do
                    value=${value//"$i"/"\\$i"}
                done
                ;;
            *)
                if [[ $value == *[^A-Za-z0-9_./:@%+,={}-]* || $value =~ \{[^}]*(,|\.\.) ]]; then
                    printf -v value %q "$value"
                fi
                ;;
        esac
        COMPREPLY+=("$value")
    done < <("$program" __complete -- "${words[@]}" 2>/dev/null)
}

complete -F _gpulock gpulock

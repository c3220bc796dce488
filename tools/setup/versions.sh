# shellcheck shell=bash
# Whether a program is installed, runs and is recent enough. The versions that a set requires are in
# the file of the set.

has() { command -v "$1" >/dev/null 2>&1; }

# Prints the first number with a dot in the output of a program: 1.88.0 for "cargo 1.88.0 (...)".
version() { # PROGRAM ARGUMENT...
    local output
    output=$(timeout 10 "$@" 2>/dev/null) || return 1
    [[ $output =~ [0-9]+(\.[0-9]+)+ ]] && echo "${BASH_REMATCH[0]}"
}

at_least() { # VERSION WANTED
    [ "$(printf '%s\n' "$1" "$2" | sort -V | sed -n 1p)" = "$2" ]
}

# Succeeds if a program runs and is recent enough. Prints the reason if not, unless it is missing.
is_recent() { # WANTED PROGRAM ARGUMENT...
    local wanted=$1 found
    shift
    has "$1" || return 1
    if ! found=$(version "$@"); then
        note "$(command -v "$1") does not work: \"$*\" prints no version"
        return 1
    fi
    at_least "$found" "$wanted" && return
    note "needs ${1##*/} $wanted or newer, found $found at $(command -v "$1")"
    return 1
}

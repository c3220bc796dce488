# shellcheck shell=bash
# Which packages the sets need: runs the functions of the sets, and collects the results. How a set
# looks for its programs is in the file of the set, how packages are installed in install.sh.
#
# A set has a function want_SET, which looks for its programs and calls `need` for the packages of those
# that are missing. It may have a function finish_SET, which runs after the installation.

# The packages to install. Those in `wished` are only needed by optional sets.
missing=()
wished=()
# Not empty for the sets after --optional.
optional=

# Reports packages that a set needs.
need() { # PACKAGE...
    if [ -n "$optional" ]; then wished+=("$@"); else missing+=("$@"); fi
}

# Reports that no package helps. Stops the script, unless the set is optional.
give_up() { # MESSAGE
    note "$*"
    [ -n "$optional" ] || exit 1
}

# Sets `missing`, `wished` and `rust_missing` to what the sets need.
look_for() { # [SET...] [--optional SET...]
    local name
    missing=() wished=() optional='' rust_missing=''
    for name; do
        case $name in
            --optional) optional=yes ;;
            *)
                [[ " ${sets[*]} " == *" $name "* ]] || fail "unknown set $name; available sets: ${sets[*]}"
                "want_$name"
                ;;
        esac
    done
    unique missing
    unique wished
}

# Sorts an array and removes duplicates.
unique() { # ARRAY
    local -n list=$1
    [ ${#list[@]} -eq 0 ] || mapfile -t list < <(printf '%s\n' "${list[@]}" | sort -u)
}

# Runs finish_SET for the sets that have one.
finish() { # [SET...] [--optional SET...]
    local name
    optional=
    for name; do
        if [ "$name" = --optional ]; then
            optional=yes
        elif declare -F "finish_$name" >/dev/null; then
            "finish_$name"
        fi
    done
}

is_incomplete() {
    [ -n "$rust_missing" ] || [ $((${#missing[@]} + ${#wished[@]})) -gt 0 ]
}

# Prints `missing` and `wished` on one line.
all_packages() {
    local all=("${missing[@]}" "${wished[@]}")
    echo "${all[*]}"
}

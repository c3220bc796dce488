# shellcheck shell=bash
# The set server, and the server program to test with. tools/servers.sh downloads the servers of
# `make matrix`.

local_server=$PWD/target/tools/redis-server

# Succeeds if a program is a server that can load the module. Prints the reason if not.
is_server() { # PROGRAM
    local output
    output=$(timeout 10 "$1" --version 2>/dev/null) || output=
    [[ $output =~ ^([^ ]+)\ server\ v=([0-9.]+) ]] || {
        note "$1 is not a Redis or Valkey server; trying the next one"
        return 1
    }
    local brand=${BASH_REMATCH[1]} found=${BASH_REMATCH[2]}
    case $brand in
        Redis) at_least "$found" 7.0 && return ;;
        Valkey) at_least "$found" 8.0 && return ;;
    esac
    note "needs Redis 7.0 or newer, or Valkey 8.0 or newer, found $brand $found at $1;" \
        "trying the next one"
    return 1
}

# Prints the first server that can load the module. Prints the reasons if there is none, or if
# `explain` is given and the first program is not the one.
which_server() { # [explain]
    local program reasons=''
    while read -r program; do
        [ -x "$program" ] || continue
        if reasons+=$(is_server "$program" 2>&1); then
            if [ -n "${1:-}" ] && [ -n "$reasons" ]; then
                printf '%s' "$reasons" >&2
                note "using $program"
            fi
            echo "$program"
            return
        fi
        reasons+=$'\n'
    done < <(type -aP redis-server valkey-server || true; echo "$local_server")
    printf '%s' "$reasons" >&2
    return 1
}

# The program behaves as a server or as a check tool depending on its own name.
link_server() {
    local program
    while read -r program; do
        mkdir -p target/tools
        ln -sfn "$program" "$local_server"
        # On other systems this is a separate program, or one of an old release.
        is_server "$local_server" 2>/dev/null && return
        rm -f "$local_server"
    done < <(type -aP redis-check-rdb valkey-check-rdb)
    return 1
}

# For releases whose redis-tools contains no server.
unpack_server() {
    local folder=target/tools/unpacked
    rm -rf "$folder"
    unpack_package redis-server "$folder" || return 1
    ln -sfn unpacked/usr/bin/redis-server "$local_server"
    is_server "$local_server" && return
    rm -f "$local_server"
    return 1
}

want_server() {
    local version
    if ! { which_server explain || link_server; } >/dev/null; then
        version=$(offered redis-tools)
        if [ -n "$version" ] && ! at_least "$version" 7.0; then
            give_up "needs Redis 7.0 or newer, or Valkey 8.0 or newer, but apt offers Redis" \
                "${version%%-*}: install a newer server and add it to PATH (make module needs none)"
        else
            need redis-tools
        fi
    elif ! version redis-cli --version >/dev/null && ! version valkey-cli --version >/dev/null; then
        need redis-tools
    fi
}

finish_server() {
    which_server >/dev/null 2>&1 || link_server || unpack_server ||
        give_up "found no server that can load the module: install redis-server and add it to PATH"
}

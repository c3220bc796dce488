# shellcheck shell=bash
# The set cli: shells, a terminal and Prometheus, for the tests of the command. The browser is in
# browser.sh.

local_prometheus=target/tools/prometheus

runs_prometheus() { # PROGRAM
    "$1" --version >/dev/null 2>&1 || "$local_prometheus/usr/bin/$1" --version >/dev/null 2>&1
}

# promtool is in the package prometheus or, on newer releases, in one of its own.
unpack_prometheus() { # PROGRAM
    local package=prometheus
    [ "$1" = prometheus ] || [ -z "$(offered promtool)" ] || package=promtool
    unpack_package "$package" "$local_prometheus" && runs_prometheus "$1"
}

want_cli() {
    tmux -V >/dev/null 2>&1 || need tmux
    zsh --version >/dev/null 2>&1 || need zsh
    fish --version >/dev/null 2>&1 || need fish
}

finish_cli() {
    local program
    for program in prometheus promtool; do
        runs_prometheus "$program" || unpack_prometheus "$program" ||
            give_up "cannot unpack $program from the packages that apt offers: install it and add it to PATH"
    done
}

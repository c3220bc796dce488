# shellcheck shell=bash
# The folder target/tools/rust: links to the Rust to use, and a cargo that finds libclang. rust.sh and
# libclang.sh find them.

local_rust=$PWD/target/tools/rust

# Prints PATH without the folder of links, which contains only what was found elsewhere.
path_without_links() {
    local folder folders path=''
    mapfile -d : -t folders <<<"$PATH:"
    unset 'folders[-1]'
    for folder in "${folders[@]}"; do
        [ "$folder" = "$local_rust" ] || [ "$folder" -ef "$local_rust" ] || path+=:$folder
    done
    printf '%s' "${path#:}"
}

# Writes the script `cargo`, which works without the Makefile, too.
write_cargo() { # VARIABLE=VALUE...
    {
        echo '#!/bin/bash'
        echo '# Written by tools/setup.sh.'
        # shellcheck disable=SC2016 # for the script to expand
        printf 'PATH=%q:$PATH\n' "$local_rust"
        printf 'export PATH'
        [ $# -eq 0 ] || printf ' %q' "$@"
        printf '\nexec %q "$@"\n' "$rust_cargo"
    } >"$probes/cargo"
    chmod +x "$probes/cargo"
    cmp -s "$probes/cargo" "$local_rust/cargo" || mv "$probes/cargo" "$local_rust/cargo"
}

# Links the Rust to use into target/tools/rust, if it is not the first on PATH, or if cargo needs
# variables for libclang.
link_rust() {
    local name program variables=()
    [ -n "$rust_cargo" ] || return 0
    [ -z "$libclang_path" ] || variables+=("LIBCLANG_PATH=$libclang_path")
    [ -z "$libclang_arguments" ] || variables+=("BINDGEN_EXTRA_CLANG_ARGS=$libclang_arguments")
    if [ ${#variables[@]} -eq 0 ] && [ "$rust_cargo" = "$(command -v cargo)" ] &&
        [ "$rust_rustc" = "$(command -v rustc)" ]; then
        rm -rf "$local_rust"
        return
    fi
    [ "${CARGO:-cargo}" = cargo ] || return 0
    mkdir -p "$local_rust"
    write_cargo "${variables[@]}"
    for name in rustc rustdoc rustfmt cargo-fmt cargo-clippy clippy-driver; do
        program=${rust_rustc%/*}/$name
        if [ -x "$program" ]; then
            ln -sfn "$program" "$local_rust/$name"
        else
            rm -f "$local_rust/$name"
        fi
    done
}

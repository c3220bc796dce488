# shellcheck shell=bash
# Selects packages of a Rust that is recent enough from those that apt offers. Used only if rust.sh finds
# no Rust.

# The selected packages. `rust_conflict` is not empty if apt would have to remove others for them.
rust_packages=() rust_conflict=''

# Sets `rust_packages` and `rust_conflict`. Fails if apt offers no Rust that is recent enough.
select_rust() {
    local suffix pair
    rust_packages=() rust_conflict=''
    # Debian's rustc-web is newer than its rustc, and conflicts with it. Ubuntu's rustc-1.89 does not.
    for suffix in '' -web $(apt-cache "${apt_options[@]}" pkgnames rustc- 2>/dev/null |
        sed -n 's/^rustc\(-[0-9.]*\)$/\1/p' | sort -Vr); do
        at_least "$(offered "rustc$suffix")" "$rust_version" || continue
        pair=("rustc$suffix" "cargo$suffix")
        if apt-get "${apt_options[@]}" install -s --no-remove --no-install-recommends "${pair[@]}" \
            >/dev/null 2>&1; then
            rust_packages=("${pair[@]}") rust_conflict=''
            return
        fi
        [ ${#rust_packages[@]} -gt 0 ] || rust_packages=("${pair[@]}") rust_conflict=yes
    done
    [ ${#rust_packages[@]} -gt 0 ]
}

# Prints the packages of rustfmt and clippy for the packages of Rust that apt offers.
formatters() { # SUFFIX-OF-THE-PACKAGES
    local package
    for package in "rustfmt$1" "rust$1-clippy"; do
        [ -z "$(offered "$package")" ] || echo "$package"
    done
}

# Adds the packages of a missing Rust, and those for the set lint, to `missing` and `wished`.
add_rust() { # [SET...] [--optional SET...]
    local required=" $* " tools
    [ -n "$rust_missing" ] || return 0
    select_rust || return 1
    missing+=("${rust_packages[@]}")
    [[ $required == *" lint "* ]] || return 0
    mapfile -t tools < <(formatters "${rust_packages[1]#cargo}")
    if [[ ${required%% --optional *} == *" lint"* ]]; then
        missing+=("${tools[@]}")
    else
        wished+=("${tools[@]}")
    fi
}

# The same, but stops the script if apt offers no Rust, or only one that replaces other packages.
require_rust_packages() { # SET...
    add_rust "$@" || no_rust
    [ -z "$rust_conflict" ] || conflicting_rust
}

no_rust() {
    fail "needs Rust $rust_version or newer, which apt does not offer here: install it with rustup" \
        "(https://rustup.rs), which needs no root"
}

conflicting_rust() {
    fail "needs Rust $rust_version or newer. ${rust_packages[*]} would replace an installed Rust, which" \
        "this script does not remove: install rustup (https://rustup.rs), or run apt-get install -y" \
        "${rust_packages[*]}"
}

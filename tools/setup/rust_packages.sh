# shellcheck shell=bash
# Selects the packages of a Rust that is recent enough from those that apt offers.

# The selected packages, and whether apt would have to remove others for them.
packages=() conflict=''

# Sets `packages` to those of a Rust that is recent enough, and `conflict` if apt would have to remove
# others for them. Fails if apt offers none.
select_rust() {
    local suffix pair
    packages=() conflict=''
    # Debian's rustc-web is newer than its rustc, and conflicts with it. Ubuntu's rustc-1.89 does not.
    for suffix in '' -web $(apt-cache "${apt_options[@]}" pkgnames rustc- 2>/dev/null |
        sed -n 's/^rustc\(-[0-9.]*\)$/\1/p' | sort -Vr); do
        at_least "$(offered "rustc$suffix")" "$rust" || continue
        pair=("rustc$suffix" "cargo$suffix")
        if apt-get "${apt_options[@]}" install -s --no-remove --no-install-recommends "${pair[@]}" \
            >/dev/null 2>&1; then
            packages=("${pair[@]}") conflict=''
            return
        fi
        [ ${#packages[@]} -gt 0 ] || packages=("${pair[@]}") conflict=yes
    done
    [ ${#packages[@]} -gt 0 ]
}

# Prints the packages of rustfmt and clippy for the packages of Rust that apt offers.
formatters() { # SUFFIX-OF-THE-PACKAGES
    local package
    for package in "rustfmt$1" "rust$1-clippy"; do
        [ -z "$(offered "$package")" ] || echo "$package"
    done
}

# Adds the packages of a missing Rust to `missing`.
add_rust() { # SET...
    [ -n "$rust_missing" ] || return 0
    select_rust || return 1
    missing+=("${packages[@]}")
    [[ " $* " != *" lint "* ]] ||
        mapfile -t -O ${#wished[@]} wished < <(formatters "${packages[1]#cargo}")
}

no_rust() {
    fail "needs Rust $rust or newer, which apt does not offer here: install it with rustup" \
        "(https://rustup.rs), which needs no root"
}

conflicting_rust() {
    fail "needs Rust $rust or newer. ${packages[*]} would replace an installed Rust, which this script" \
        "does not remove: install rustup (https://rustup.rs), or run apt-get install -y ${packages[*]}"
}

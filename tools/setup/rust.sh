# shellcheck shell=bash
# Finds a Rust on this machine that is recent enough. Its packages are in rust_packages.sh.

rust_version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
# The programs to use. Both are empty until find_rust finds them.
rust_cargo='' rust_rustc=''
# Not empty if packages of Rust are needed. They are not part of `missing` until add_rust selects them,
# after the package lists have been updated.
rust_missing=''

# Prints pairs of cargo and rustc to try, the preferred ones first.
rust_candidates() {
    local cargo rustc
    if [ "${CARGO:-cargo}" != cargo ]; then
        printf '%s\t%s\n' "$(command -v "$CARGO")" "$(command -v "${RUSTC:-rustc}")"
        return
    fi
    {
        type -aP cargo || true
        echo "${CARGO_HOME:-${HOME:-}/.cargo}/bin/cargo"
        # Ubuntu's rustc-1.89 is a link to /usr/lib/rust-1.89/bin/rustc, next to its cargo. cargo-1.89 is
        # a link as well, but cargo-1.97 is a script.
        { compgen -c rustc-1 || true; } | { grep -x 'rustc-[0-9.]*' || true; } | sort -Vru |
            while read -r rustc; do echo "$(dirname "$(realpath "$(command -v "$rustc")")")/cargo"; done
    } | while read -r cargo; do
        # The folder of links would link to itself.
        [ ! "${cargo%/*}" -ef "$local_rust" ] || continue
        rustc=${RUSTC:-${cargo%/*}/rustc}
        printf '%s\t%s\n' "$cargo" "$(command -v "$rustc" || command -v rustc)"
    done
}

# Sets `rust_cargo` and `rust_rustc`. Prints the reasons if it finds none.
find_rust() {
    local cargo rustc reasons=''
    while IFS=$'\t' read -r cargo rustc; do
        has "$cargo" || continue
        if reasons+=$({
            is_recent "$rust_version" "$cargo" --version &&
                is_recent "$rust_version" "${rustc:-rustc}" --version
        } 2>&1); then
            rust_cargo=$cargo rust_rustc=$rustc
            return
        fi
        reasons+=$'\n'
    done < <(rust_candidates)
    printf '%s' "$reasons" >&2
    return 1
}

# Finds Rust, or sets `rust_missing`. For an optional set, Rust is not installed.
require_rust() {
    [ -z "$rust_cargo" ] && [ -z "$rust_missing" ] || return 0
    if find_rust; then return; fi
    if [ -n "$optional" ]; then
        note "needs Rust $rust_version or newer; what needs it is SKIPPED"
        return
    fi
    # Packages do not help with programs that the caller has chosen.
    { [ "${CARGO:-cargo}" = cargo ] && [ -z "${RUSTC:-}" ]; } ||
        fail "needs Rust $rust_version or newer, found none in CARGO=${CARGO:-cargo} and" \
            "RUSTC=${RUSTC:-rustc}"
    rust_missing=yes
}

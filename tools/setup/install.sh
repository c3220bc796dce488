# shellcheck shell=bash
# Installs the missing packages as root, or prints the command that does.

# Removes the optional packages that apt does not offer: Ubuntu has no chromium, for example.
skip_unavailable() {
    local package kept=() skipped=()
    for package in "${wished[@]}"; do
        if [ -n "$(offered "$package")" ]; then kept+=("$package"); else skipped+=("$package"); fi
    done
    wished=("${kept[@]}")
    [ ${#skipped[@]} -eq 0 ] ||
        note "apt does not offer ${skipped[*]}; tests that need them are SKIPPED"
}

# Installs the packages as root.
install_packages() { # SET...
    local install=(install -y --no-install-recommends --no-remove)
    apt_get update || note "cannot update the package lists of apt"
    require_rust_packages "$@"
    skip_unavailable
    [ ${#missing[@]} -eq 0 ] || apt_get "${install[@]}" "${missing[@]}"
    [ ${#wished[@]} -eq 0 ] || apt_get "${install[@]}" "${wished[@]}" ||
        note "cannot install ${wished[*]}; tests that need them are SKIPPED"
}

# Looks for the programs again after an installation, because old ones may still come first on PATH.
# Fails if required ones do not work.
check_installed() { # SET...
    local installed="${missing[*]}"
    # bash remembers where it found the old ones.
    hash -r
    look_for "$@"
    [ -z "$rust_missing" ] || fail "installed $installed, but it contains no Rust $rust_version"
    [ ${#missing[@]} -eq 0 ] ||
        fail "installed $installed, but these still do not work: ${missing[*]}. If a program" \
            "named above is in the way, remove it, or put the folder of the packages (/usr/bin)" \
            "first on PATH"
}

# Prints the command that installs the packages.
print_command() {
    local line='apt-get update && apt-get install -y --no-install-recommends'
    if has_lists; then skip_unavailable; fi
    if [ ${#missing[@]} -gt 0 ]; then
        note "programs are missing, and installing packages requires root. Run as root:"
        echo "$line $(all_packages)" >&2
    elif [ ${#wished[@]} -gt 0 ]; then
        note "optional programs are missing, and installing packages requires root; tests that need" \
            "them are SKIPPED. To install them, run as root:"
        echo "$line $(all_packages)" >&2
    fi
}

# Without root or apt: prints what to install, and fails if it is required. libclang needs no root.
without_packages() { # SET...
    local no_package=''
    if has apt-get && ! has_lists; then download_lists || true; fi
    if [ -n "$rust_missing" ] && has apt-get; then
        add_rust "$@" || { download_lists && add_rust "$@"; } || no_package=yes
        [ -z "$rust_conflict" ] ||
            note "needs Rust $rust_version or newer; ${rust_packages[*]} replace the one that is installed"
    fi
    if [ "${missing[*]}" = libclang-dev ] && [ -z "$no_package" ] && download_libclang; then
        missing=()
    fi
    if has apt-get; then
        print_command
    else
        [ ${#missing[@]} -eq 0 ] || note "programs are missing, and there is no apt-get:" \
            "install the equivalents of $(all_packages)"
        [ -z "$rust_missing" ] || no_rust
    fi
    [ -z "$no_package" ] || no_rust
    [ ${#missing[@]} -eq 0 ] || exit 1
}

# shellcheck shell=bash
# The sets lint and deny: tools that check the code and the dependencies. tools/lint.sh runs them.

want_lint() {
    local package folder
    version shellcheck --version >/dev/null || need shellcheck
    version codespell --version >/dev/null || need codespell
    require_rust
    # Those of a Rust that is to be installed are added with its packages.
    [ -n "$rust_cargo" ] || return 0
    folder=${rust_rustc%/*}
    if { version "$folder/rustfmt" --version && version "$folder/clippy-driver" --version; } >/dev/null; then
        return
    fi
    package=$(package_of "$rust_cargo")
    if [[ $package != cargo* ]]; then
        note "rustfmt or clippy is missing: run rustup component add rustfmt clippy"
        return
    fi
    for package in $(formatters "${package#cargo}"); do
        dpkg-query -W "$package" >/dev/null 2>&1 || need "$package"
    done
}

has_deny() {
    PATH=$PWD/target/tools/bin:$PATH "$rust_cargo" deny --version >/dev/null 2>&1
}

want_deny() {
    require_rust
    has_certificates || need ca-certificates
    { [ -n "$rust_cargo" ] && has_deny; } || has_compiler || need gcc libc6-dev
}

# Debian has no package of cargo-deny. Building it takes several minutes. Newer versions may require
# another format of deny.toml, or a newer Rust.
finish_deny() {
    has_deny || "$rust_cargo" install --locked --root target/tools --target-dir target/tools/build \
        --version '^0.20' cargo-deny || give_up "cannot install cargo-deny"
}

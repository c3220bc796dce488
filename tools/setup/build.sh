# shellcheck shell=bash
# The set build: Rust, a C compiler and libclang. How Rust and libclang are found is in files of their
# own. Other sets use the checks of the compiler and the certificates, too.

has_compiler() {
    has cc && cc -x c -o "$probes/hello" - 2>/dev/null <<<'
#include <stdio.h>
int main(void) { return puts("hello") < 0; }' && "$probes/hello" >/dev/null
}

# cargo, pip and npm need the certificates of the certificate authorities. Systems other than
# Debian store them elsewhere, and always have them.
has_certificates() {
    ! has apt-get ||
        grep -qs 'BEGIN CERTIFICATE' "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"
}

want_build() {
    require_rust
    has_certificates || need ca-certificates
    if ! has_compiler; then
        need gcc libc6-dev libclang-dev
    elif ! find_libclang; then
        # No package would change the library that bindgen uses.
        [ -z "${LIBCLANG_PATH:-}" ] || fail "bindgen finds no libclang that works in" \
            "LIBCLANG_PATH=$LIBCLANG_PATH: unset it, or set it to the folder of a libclang"
        need libclang-dev
    fi
}

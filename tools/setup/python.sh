# shellcheck shell=bash
# Python with venv, and the sets that need little else: python, examples, documents and bench.

has_python() {
    is_recent 3.9 python3 --version
}

# Debian's python3 contains the module venv, but not the files from which venv installs pip.
has_venv() {
    python3 -c 'import ensurepip, venv; ensurepip.version()' >/dev/null 2>&1
}

want_venv() {
    has_certificates || need ca-certificates
    has_python || need python3 python3-venv
    has_venv || need python3-venv
}

want_python() {
    want_venv
}

want_examples() {
    want_venv
}

# Beside Python: what the documents use.
want_documents() {
    want_venv
    curl --version >/dev/null 2>&1 || need curl
    setsid true >/dev/null 2>&1 || need util-linux
}

want_bench() {
    want_venv
    # For bench/requirements.txt.
    is_recent 3.11 python3 --version || need python3
    want_memory
}

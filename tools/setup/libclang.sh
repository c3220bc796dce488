# shellcheck shell=bash
# Finds a libclang that bindgen can use, or downloads one. Its package is in build.sh.

local_libclang=$PWD/target/tools/libclang
# The variables that cargo needs so that bindgen can use libclang.
libclang_path='' libclang_arguments=''

# The folders that clang-sys, the crate that loads libclang for bindgen, searches.
libclang_folders() {
    local prefix
    if [ -n "${LIBCLANG_PATH:-}" ]; then echo "$LIBCLANG_PATH"; return; fi
    if prefix=$("${LLVM_CONFIG_PATH:-llvm-config}" --prefix 2>/dev/null); then
        printf '%s\n' "$prefix"/{bin,lib,lib64}
    fi
    tr ':' '\n' <<<"${LD_LIBRARY_PATH:-}:${LIBRARY_PATH:-}"
    printf '%s\n' /usr/local/llvm*/lib* /usr/local/lib*/*/* /usr/local/lib*/* /usr/local/lib* \
        /usr/lib*/*/* /usr/lib*/* /usr/lib*
}

# The library that clang-sys selects: the one with the highest number in its name, and the first
# of those with equal numbers. libclang-cpp is a different library.
chosen_libclang() {
    local folder
    if [ -f "${LIBCLANG_PATH:-}" ]; then echo "$LIBCLANG_PATH"; return; fi
    libclang_folders | while read -r folder; do
        [ -z "$folder" ] || compgen -G "$folder/libclang[.-]*" || true
    done |
        awk -F/ '$NF ~ /^libclang(-[^\/]*)?\.so/ && $NF !~ /-cpp\./ {
            number = $NF
            sub(/^libclang(-|\.so\.?)/, "", number)
            print number + 0, $0
        }' | sort -s -n -r -k1,1 | sed -n '1s/^[0-9.]* //p'
}

# Sets `reason` if it fails.
can_parse() { # LIBRARY ARGUMENTS
    # shellcheck disable=SC2086 # bindgen splits them as well
    reason=$("$probes/libclang" "$1" $2 2>&1)
}

# Sets `libclang_path` and `libclang_arguments`. Fails if bindgen cannot use any libclang. Requires a C
# compiler.
find_libclang() {
    local library headers reason arguments=${BINDGEN_EXTRA_CLANG_ARGS:-}
    # The headers of gcc, for a libclang without those of clang.
    headers=-I$(cc -print-file-name=include)
    cc -o "$probes/libclang" tools/setup/libclang.c -ldl 2>/dev/null || return 1
    library=$(chosen_libclang)
    if [ -n "$library" ]; then
        can_parse "$library" "$arguments" && return
        if can_parse "$library" "$arguments $headers"; then
            libclang_arguments="${arguments:+$arguments }$headers"
            return
        fi
        note "bindgen cannot use $library: ${reason:-it crashes}"
    fi
    [ -z "${LIBCLANG_PATH:-}" ] || return 1
    library=$local_libclang/clang/native/libclang.so
    [ -f "$library" ] && can_parse "$library" "$arguments $headers" || return 1
    libclang_path=${library%/*} libclang_arguments="${arguments:+$arguments }$headers"
}

# Without root: downloads libclang from PyPI. It contains no headers.
download_libclang() {
    local pip=(python3 -m pip)
    if ! version "${pip[@]}" --version >/dev/null; then
        has_venv && python3 -m venv --clear "$probes/venv" || return 1
        pip=("$probes/venv/bin/python" -m pip)
    fi
    note "installing libclang requires root; downloading it from PyPI to target/tools"
    rm -rf "$local_libclang"
    "${pip[@]}" install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --target "$local_libclang" libclang==18.1.1 && find_libclang
}

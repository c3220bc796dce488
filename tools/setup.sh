#!/bin/bash
# Finds or installs the programs that the make targets need:
#
#     tools/setup.sh [SET...] [--optional SET...]         default: what `make test` needs
#     tools/setup.sh check [SET...] [--optional SET...]   prints the missing packages and fails
#     tools/setup.sh which                                prints the server program to test with
#
# Sets: build (Rust, a C compiler, libclang), server, tests, python, documents, examples, lint, node,
# cli (shells, a terminal, Prometheus), browser, deb, bench, memory, deny. If packages of sets after
# --optional cannot be installed, the script still succeeds: what needs them is SKIPPED. Without sets,
# lint, node, cli, browser and deb are optional, and bench, memory and deny are left out.
#
# A program counts as installed if it runs and is recent enough; a file with its name is not
# sufficient. Installing packages requires apt, and root or sudo. Without these, the script prints
# the command to run and fails. It removes no package, starts no service and does not change an
# installed Redis: Debian's package redis-server would start one, but redis-tools contains the server
# program under another name. The package prometheus would start a service as well, so it is only
# unpacked, to target/tools/prometheus.
#
# A Rust that is not first on PATH, and a libclang that bindgen does not find, are used through links
# in target/tools/rust. The Makefile puts this folder first on PATH. Paths are those without symbolic
# links (cd -P), as in the Makefile.
set -euo pipefail
cd -P "$(dirname "$0")/.."
local_rust=$PWD/target/tools/rust
local_libclang=$PWD/target/tools/libclang
local_server=$PWD/target/tools/redis-server
local_prometheus=target/tools/prometheus/usr/bin
sets=(build server tests python documents examples lint node cli browser deb bench memory deny)
# Without arguments.
default_sets=(build server tests python documents examples --optional lint node cli browser deb)

probes=$(mktemp -d)
trap 'rm -rf "$probes"' EXIT

has() { command -v "$1" >/dev/null 2>&1; }
note() { echo "setup.sh: $*" >&2; }
fail() { note "$*"; exit 1; }
# Fails, unless the set is optional.
give_up() {
    note "$*"
    [ -n "$optional" ] || exit 1
}

# Otherwise a compiler without space for its output would seem to be missing.
printf '%262144s' '' 2>/dev/null >"$probes/space" || fail "no space left in ${TMPDIR:-/tmp}: set TMPDIR"
rm "$probes/space"

# The packages to install. Those in `wished` are only needed by optional sets.
missing=()
wished=()
optional=
need() {
    if [ -n "$optional" ]; then wished+=("$@"); else missing+=("$@"); fi
}

# Prints the first number with a dot in the output of a program: 1.88.0 for "cargo 1.88.0 (...)".
version() { # PROGRAM ARGUMENT...
    local output
    output=$(timeout 10 "$@" 2>/dev/null) || return 1
    [[ $output =~ [0-9]+(\.[0-9]+)+ ]] && echo "${BASH_REMATCH[0]}"
}

at_least() { # VERSION WANTED
    [ "$(printf '%s\n' "$1" "$2" | sort -V | sed -n 1p)" = "$2" ]
}

# Succeeds if a program runs and is recent enough. Prints the reason if not, unless it is missing.
is_recent() { # WANTED PROGRAM ARGUMENT...
    local wanted=$1 found
    shift
    has "$1" || return 1
    if ! found=$(version "$@"); then
        note "$(command -v "$1") does not work: \"$*\" prints no version"
        return 1
    fi
    at_least "$found" "$wanted" && return
    note "needs ${1##*/} $wanted or newer, found $found at $(command -v "$1")"
    return 1
}

# Options of apt, if it uses package lists in target/tools.
apt_options=()

# Prints the version of a package that apt would install, without its epoch.
offered() { # PACKAGE
    LC_ALL=C apt-cache "${apt_options[@]}" policy "$1" 2>/dev/null | sed -nE 's/^ *Candidate: ([0-9]+:)?([0-9].*)/\2/p'
}

## Rust

rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
# The programs to use.
rust_cargo='' rust_rustc=''

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

# Prints the reasons if it finds none.
find_rust() {
    local cargo rustc reasons=''
    while IFS=$'\t' read -r cargo rustc; do
        has "$cargo" || continue
        if reasons+=$({ is_recent "$rust" "$cargo" --version && is_recent "$rust" "${rustc:-rustc}" --version; } 2>&1); then
            rust_cargo=$cargo rust_rustc=$rustc
            return
        fi
        reasons+=$'\n'
    done < <(rust_candidates)
    printf '%s' "$reasons" >&2
    return 1
}

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

# Set if packages of Rust are needed. They are selected after the package lists have been updated.
rust_missing='' packages=() conflict=''
require_rust() {
    [ -z "$rust_cargo" ] || return 0
    if find_rust; then return; fi
    # Packages do not help with programs that the caller has chosen.
    { [ "${CARGO:-cargo}" = cargo ] && [ -z "${RUSTC:-}" ]; } ||
        fail "needs Rust $rust or newer, found none in CARGO=${CARGO:-cargo} and RUSTC=${RUSTC:-rustc}"
    rust_missing=yes
}

no_rust() {
    fail "needs Rust $rust or newer, which apt does not offer here: install it with rustup" \
        "(https://rustup.rs), which needs no root"
}

conflicting_rust() {
    fail "needs Rust $rust or newer. ${packages[*]} would replace an installed Rust, which this script" \
        "does not remove: install rustup (https://rustup.rs), or run apt-get install -y ${packages[*]}"
}

# Prints the package of a program, if dpkg installed it.
package_of() { # PROGRAM
    { dpkg-query -S "$(realpath "$1")" 2>/dev/null || true; } | sed -n 's/:.*//p'
}

# Links the selected Rust into target/tools/rust, if it is not the first on PATH, or if cargo needs
# variables for libclang. The script `cargo` works without the Makefile, too.
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
    {
        echo '#!/bin/bash'
        echo '# Written by tools/setup.sh.'
        # shellcheck disable=SC2016 # for the script to expand
        printf 'PATH=%q:$PATH\n' "$local_rust"
        printf 'export PATH'
        [ ${#variables[@]} -eq 0 ] || printf ' %q' "${variables[@]}"
        printf '\nexec %q "$@"\n' "$rust_cargo"
    } >"$probes/cargo"
    chmod +x "$probes/cargo"
    cmp -s "$probes/cargo" "$local_rust/cargo" || mv "$probes/cargo" "$local_rust/cargo"
    for name in rustc rustdoc rustfmt cargo-fmt cargo-clippy clippy-driver; do
        program=${rust_rustc%/*}/$name
        if [ -x "$program" ]; then
            ln -sfn "$program" "$local_rust/$name"
        else
            rm -f "$local_rust/$name"
        fi
    done
}

## The compilers

compiles() { # COMPILER LANGUAGE
    has "$1" && "$1" -x "$2" -o "$probes/hello" - 2>/dev/null <<<'
#include <stdio.h>
int main(void) { return puts("hello") < 0; }' && "$probes/hello" >/dev/null
}

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

# The variables that cargo needs so that bindgen can use libclang.
libclang_path='' libclang_arguments=''

# Fails if bindgen cannot use libclang. Requires a C compiler.
find_libclang() {
    local library output='' arguments=${BINDGEN_EXTRA_CLANG_ARGS:-}
    # The headers of gcc, for a libclang without those of clang.
    local headers
    headers=-I$(cc -print-file-name=include)
    cc -o "$probes/libclang" tools/libclang.c -ldl 2>/dev/null || return 1
    can_parse() { # ARGUMENTS
        # shellcheck disable=SC2086 # bindgen splits them as well
        output=$("$probes/libclang" "$library" $1 2>&1)
    }
    library=$(chosen_libclang)
    if [ -n "$library" ]; then
        can_parse "$arguments" && return
        if can_parse "$arguments $headers"; then libclang_arguments="${arguments:+$arguments }$headers"; return; fi
        note "bindgen cannot use $library: ${output:-it crashes}"
    fi
    [ -z "${LIBCLANG_PATH:-}" ] || return 1
    library=$local_libclang/clang/native/libclang.so
    [ -f "$library" ] && can_parse "$headers" || return 1
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

# cargo, pip and npm need the certificates of the certificate authorities. Systems other than
# Debian store them elsewhere, and always have them.
has_certificates() {
    ! has apt-get ||
        grep -qs 'BEGIN CERTIFICATE' "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"
}

want_build() {
    require_rust
    has_certificates || need ca-certificates
    if ! compiles cc c; then
        need gcc libc6-dev libclang-dev
    elif ! find_libclang; then
        # No package would change the library that bindgen uses.
        [ -z "${LIBCLANG_PATH:-}" ] || fail "bindgen finds no libclang that works in" \
            "LIBCLANG_PATH=$LIBCLANG_PATH: unset it, or set it to the folder of a libclang"
        need libclang-dev
    fi
}

# Prints the packages of rustfmt and clippy for the packages of Rust that apt offers.
formatters() { # SUFFIX-OF-THE-PACKAGES
    local package
    for package in "rustfmt$1" "rust$1-clippy"; do
        [ -z "$(offered "$package")" ] || echo "$package"
    done
}

want_lint() {
    local package folder
    version shellcheck --version >/dev/null || need shellcheck
    version codespell --version >/dev/null || need codespell
    require_rust
    folder=${rust_rustc%/*}
    if [ -n "$rust_missing" ] || {
        version "$folder/rustfmt" --version && version "$folder/clippy-driver" --version
    } >/dev/null; then return; fi
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
    { [ -n "$rust_cargo" ] && has_deny; } || compiles cc c || need gcc libc6-dev
}

# Debian has no package of cargo-deny. Building it takes several minutes. Newer versions may require
# another format of deny.toml, or a newer Rust.
finish_deny() {
    has_deny || "$rust_cargo" install --locked --root target/tools --target-dir target/tools/build \
        --version '^0.20' cargo-deny || fail "cannot install cargo-deny"
}

## Servers

# Succeeds if a program is a server that can load the module. Prints the reason if not.
is_server() { # PROGRAM
    local output
    output=$(timeout 10 "$1" --version 2>/dev/null) || output=
    [[ $output =~ ^([^ ]+)\ server\ v=([0-9.]+) ]] || {
        note "$1 is not a Redis or Valkey server; trying the next one"
        return 1
    }
    local brand=${BASH_REMATCH[1]} found=${BASH_REMATCH[2]}
    case $brand in
        Redis) at_least "$found" 7.0 && return ;;
        Valkey) at_least "$found" 8.0 && return ;;
    esac
    note "needs Redis 7.0 or newer, or Valkey 8.0 or newer, found $brand $found at $1;" \
        "trying the next one"
    return 1
}

# Prints the first server that can load the module. Prints the reasons if there is none, or if
# `explain` is given and the first program is not the one.
which_server() { # [explain]
    local program reasons=''
    while read -r program; do
        [ -x "$program" ] || continue
        if reasons+=$(is_server "$program" 2>&1); then
            if [ -n "${1:-}" ] && [ -n "$reasons" ]; then
                printf '%s' "$reasons" >&2
                note "using $program"
            fi
            echo "$program"
            return
        fi
        reasons+=$'\n'
    done < <(type -aP redis-server valkey-server || true; echo "$local_server")
    printf '%s' "$reasons" >&2
    return 1
}

# The program behaves as a server or as a check tool depending on its own name.
link_server() {
    local program
    while read -r program; do
        mkdir -p target/tools
        ln -sfn "$program" "$local_server"
        # On other systems this is a separate program, or one of an old release.
        is_server "$local_server" 2>/dev/null && return
        rm -f "$local_server"
    done < <(type -aP redis-check-rdb valkey-check-rdb)
    return 1
}

# For releases whose redis-tools contains no server: unpacks the package without installing it.
unpack_server() {
    local folder=target/tools/unpacked
    rm -rf "$folder"
    mkdir -p "$folder"
    (cd "$folder" && apt-get download -q redis-server && dpkg -x ./*.deb .) || return 1
    ln -sfn unpacked/usr/bin/redis-server "$local_server"
    is_server "$local_server" && return
    rm -f "$local_server"
    return 1
}

want_server() {
    local version
    if ! { which_server explain || link_server; } >/dev/null; then
        version=$(offered redis-tools)
        if [ -n "$version" ] && ! at_least "$version" 7.0; then
            give_up "needs Redis 7.0 or newer, or Valkey 8.0 or newer, but apt offers Redis" \
                "${version%%-*}: install a newer server and add it to PATH (make module needs none)"
        else
            need redis-tools
        fi
    elif ! version redis-cli --version >/dev/null && ! version valkey-cli --version >/dev/null; then
        need redis-tools
    fi
}

finish_server() {
    which_server >/dev/null 2>&1 || link_server || unpack_server ||
        fail "found no server that can load the module: install redis-server and add it to PATH"
}

## Programs for the tests and tools

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

# Programs that the tests of the workspace require; those in cli are optional.
want_tests() {
    has_python || need python3
    perl -MPOSIX -e 1 >/dev/null 2>&1 || need perl
    setsid true >/dev/null 2>&1 || need util-linux
    script --quiet --return --command true /dev/null >/dev/null 2>&1 </dev/null || need bsdutils
}

want_memory() {
    valgrind -q true >/dev/null 2>&1 || need valgrind
}

want_bench() {
    want_venv
    # For bench/requirements.txt.
    is_recent 3.11 python3 --version || need python3
    want_memory
}

want_python() {
    want_venv
}

# Beside Python: what the documents use.
want_documents() {
    want_venv
    curl --version >/dev/null 2>&1 || need curl
    setsid true >/dev/null 2>&1 || need util-linux
}

want_examples() {
    want_venv
}

want_node() {
    local version
    # The same as engines in examples/node/package.json.
    if is_recent 18.19 node --version && is_recent 8 npm --version; then return; fi
    version=$(offered nodejs)
    if [ -n "$version" ] && ! at_least "$version" 18.19; then
        give_up "the examples for Node need Node 18.19 or newer, but apt offers ${version%%[-~+]*}"
        return
    fi
    need nodejs npm
}

# chromedriver works only with a Chromium of its own release.
has_browser() {
    local driver browser found
    has chromedriver || return 1
    driver=$(version chromedriver --version) || driver=none
    for browser in google-chrome chromium chromium-browser; do
        found=$(version "$browser" --version) || continue
        [ "${found%%.*}" = "${driver%%.*}" ] && return
    done
    note "chromedriver $driver at $(command -v chromedriver) needs a Chromium of the same release," \
        "found ${found:-none}"
    return 1
}

want_browser() {
    has_browser || need chromium chromium-driver
}

runs_prometheus() { # PROGRAM
    "$1" --version >/dev/null 2>&1 || "$local_prometheus/$1" --version >/dev/null 2>&1
}

# promtool is in the package prometheus or, on newer releases, in one of its own.
unpack_prometheus() { # PROGRAM
    local package=prometheus folder=target/tools/prometheus
    [ "$1" = prometheus ] || [ -z "$(offered promtool)" ] || package=promtool
    mkdir -p "$folder"
    (cd "$folder" && apt-get download -q "$package" && dpkg -x ./*.deb . && rm ./*.deb) &&
        runs_prometheus "$1"
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

want_deb() {
    version dpkg-deb --version >/dev/null ||
        { give_up "packages can be built only on Debian and its derivatives"; return 0; }
    dh_assistant --help >/dev/null 2>&1 || need debhelper
    { version dpkg-shlibdeps --version && version readelf --version; } >/dev/null || need dpkg-dev
    version lintian --version >/dev/null || need lintian
}

## Installing

look_for() { # [SET...] [--optional SET...]
    local name
    missing=() wished=() optional=''
    for name; do
        case $name in
            --optional) optional=yes ;;
            *)
                [[ " ${sets[*]} " == *" $name "* ]] || fail "unknown set $name; available sets: ${sets[*]}"
                "want_$name"
                ;;
        esac
    done
    unique missing
    unique wished
}

unique() { # ARRAY
    local -n list=$1
    [ ${#list[@]} -eq 0 ] || mapfile -t list < <(printf '%s\n' "${list[@]}" | sort -u)
}

# Adds the packages of a missing Rust to `missing`.
add_rust() { # SET...
    [ -n "$rust_missing" ] || return 0
    select_rust || return 1
    missing+=("${packages[@]}")
    [[ " $* " != *" lint "* ]] ||
        mapfile -t -O ${#wished[@]} wished < <(formatters "${packages[1]#cargo}")
}

apt_get() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 \
        -o Acquire::Retries=3 "$@"
}

# Sets as_root to the command with which root runs others. Fails if there is none.
become_root() {
    as_root=()
    [ "$(id -u)" -ne 0 ] || return 0
    # Without a terminal, sudo cannot ask for a password.
    has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; } && as_root=(sudo)
}

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

install_packages() { # SET...
    local install=(install -y --no-install-recommends --no-remove)
    apt_get update || note "cannot update the package lists of apt"
    add_rust "$@" || no_rust
    [ -z "$conflict" ] || conflicting_rust
    skip_unavailable
    [ ${#missing[@]} -eq 0 ] || apt_get "${install[@]}" "${missing[@]}"
    [ ${#wished[@]} -eq 0 ] || apt_get "${install[@]}" "${wished[@]}" ||
        note "cannot install ${wished[*]}; tests that need them are SKIPPED"
}

# Whether the package lists have been updated.
has_lists() {
    [ -n "$(apt-cache "${apt_options[@]}" policy bash 2>/dev/null | sed -n '/^ *[0-9]* .*Packages$/p')" ]
}

# Downloads apt's package lists to target/tools, as any user.
download_lists() {
    local folder=$PWD/target/tools/apt
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    apt_options=(-o Dir::State::lists="$folder/lists" -o Dir::Cache="$folder/cache"
        -o APT::Sandbox::User= -o APT::Update::Post-Invoke=
        -o APT::Update::Post-Invoke-Success=)
    apt-get -q "${apt_options[@]}" update >"$probes/update" 2>&1 ||
        { cat "$probes/update" >&2; return 1; }
}

all_packages() {
    local all=("${missing[@]}" "${wished[@]}")
    echo "${all[*]}"
}

# Prints what to install, and fails if it is required. libclang can be had without root.
without_packages() { # SET...
    local no_package=''
    if has apt-get && ! has_lists; then download_lists || true; fi
    if [ -n "$rust_missing" ] && has apt-get; then
        add_rust "$@" || { download_lists && add_rust "$@"; } || no_package=yes
        [ -z "$conflict" ] || note "needs Rust $rust or newer; ${packages[*]} replace the one that is installed"
    fi
    if [ "${missing[*]}" = libclang-dev ] && [ -z "$no_package" ] && download_libclang; then
        missing=()
    fi
    if ! has apt-get; then
        [ ${#missing[@]} -eq 0 ] || note "programs are missing, and there is no apt-get:" \
            "install the equivalents of $(all_packages)"
        [ -z "$rust_missing" ] || no_rust
    elif [ ${#missing[@]} -gt 0 ]; then
        if has_lists; then skip_unavailable; fi
        note "programs are missing, and installing packages requires root. Run as root, or with sudo:"
        echo "apt-get update && apt-get install -y --no-install-recommends $(all_packages)" >&2
    elif [ ${#wished[@]} -gt 0 ]; then
        note "optional programs are missing, and installing packages requires root; tests that need" \
            "them are SKIPPED. To install them, run as root, or with sudo:"
        echo "apt-get update && apt-get install -y --no-install-recommends ${wished[*]}" >&2
    fi
    [ -z "$no_package" ] || no_rust
    [ ${#missing[@]} -eq 0 ] || exit 1
}

# The folder of links to Rust does not count: it is made from what is found elsewhere.
path_without_links() {
    local folder folders
    mapfile -d : -t folders <<<"$PATH:"
    unset 'folders[-1]'
    for folder in "${folders[@]}"; do
        [ "$folder" = "$local_rust" ] || [ "$folder" -ef "$local_rust" ] || printf ':%s' "$folder"
    done
}
PATH=$(path_without_links)
PATH=${PATH#:}

if [ "${1:-}" = which ]; then
    which_server || fail "found no server: run tools/setup.sh server"
    exit
fi
only_check=
if [ "${1:-}" = check ]; then only_check=yes; shift; fi
[ $# -gt 0 ] || set -- "${default_sets[@]}"

if [ -z "$only_check" ]; then
    # Set-ups that run at the same time wait for each other. The programs that they start do not
    # inherit the lock.
    mkdir -p target/tools
    exec 9<target/tools
    flock -n 9 2>/dev/null || ! has flock || {
        note "waiting for another set-up to finish"
        flock -w 900 9 || fail "another set-up is still running after 15 minutes"
    }
fi
look_for "$@"
if [ -n "$only_check" ]; then
    add_rust "$@" || no_rust
    [ -z "$conflict" ] || conflicting_rust
    [ $((${#missing[@]} + ${#wished[@]})) -gt 0 ] || exit 0
    echo "${missing[@]}" "${wished[@]}"
    exit 1
fi
# What apt does not offer does not justify another update of the package lists.
if [ -z "$rust_missing" ] && [ ${#missing[@]} -eq 0 ] && has_lists; then skip_unavailable; fi
if [ -n "$rust_missing" ] || [ $((${#missing[@]} + ${#wished[@]})) -gt 0 ]; then
    if has apt-get && become_root; then
        install_packages "$@" 9<&-
        installed="${missing[*]}"
        # The old programs may still come first on PATH.
        hash -r
        rust_missing=
        look_for "$@"
        [ -z "$rust_missing" ] || fail "installed $installed, but it contains no Rust $rust"
        [ ${#missing[@]} -eq 0 ] ||
            fail "installed $installed, but these still do not work: ${missing[*]}. If a program" \
                "named above is in the way, remove it, or put the folder of the packages (/usr/bin)" \
                "first on PATH"
    else
        without_packages "$@"
    fi
fi
link_rust
optional=
for name; do
    case $name in
        --optional) optional=yes ;;
        server) finish_server ;;
        cli) finish_cli ;;
        deny) finish_deny ;;
    esac
done

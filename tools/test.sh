#!/bin/bash
# Tests tools/setup.sh and tools/lint.sh with fake programs that are too old, broken or not what
# they seem. Each test has its own folder of fake programs, which comes first on PATH, and setup.sh
# runs in a copy of its files. Installs nothing and needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tree="$folder/a tree"
mkdir -p "$tree/tools" "$folder/home"
cp Cargo.toml "$tree"
cp -r tools/setup.sh tools/setup "$tree/tools"

fail() { echo "tools/test.sh: $*" >&2; exit 1; }

# Creates a program from the given shell script.
script() { # CASE PROGRAM SCRIPT
    mkdir -p "$folder/$1"
    printf '#!/bin/sh\n%s\n' "$3" >"$folder/$1/$2"
    chmod +x "$folder/$1/$2"
}

# Creates a program that prints the text, whatever its arguments.
fake() { # CASE PROGRAM TEXT
    script "$1" "$2" "echo \"$3\""
}

# Runs setup.sh with the programs of a test case first on PATH.
setup() { # CASE ARGUMENT...
    local case=$1
    shift
    status=0
    output=$(PATH="$folder/$case:$PATH" "$tree/tools/setup.sh" "$@" 2>&1) || status=$?
}

# Runs setup.sh on a machine without Rust, servers, apt or root, except for the programs of the case.
setup_alone() { # CASE ARGUMENT...
    local case=$1 program
    shift
    if [ ! -d "$folder/base" ]; then
        mkdir "$folder/base"
        for program in bash sh env cat cc as ld sed awk grep sort mktemp rm mkdir ln cp mv cmp tr \
            dirname realpath chmod flock sleep rmdir timeout; do
            ln -s "$(command -v "$program")" "$folder/base/$program"
        done
        fake base id 1000
    fi
    rm -rf "$tree/target"
    status=0
    output=$(PATH="$folder/$case:$folder/base" HOME="$folder/home" CARGO=cargo CARGO_HOME='' \
        "$tree/tools/setup.sh" "$@" 2>&1) || status=$?
}

succeeds() {
    [ "$status" -eq 0 ] || fail "$case: setup.sh exited with $status: $output"
}

fails() {
    [ "$status" -ne 0 ] || fail "$case: setup.sh succeeded: $output"
}

# Creates an apt-cache that knows these packages, and an apt-get that always succeeds.
offer() { # CASE PACKAGE=VERSION...
    local case=$1 package policies=''
    shift
    for package; do
        policies+="${package%%=*}) echo '  Candidate: ${package#*=}' ;;"
    done
    script "$case" apt-cache "
        while [ \$1 = -o ]; do shift 2; done
        if [ \$1 = pkgnames ]; then echo '$*' | tr ' ' '\\n' | sed 's/=.*//'; exit; fi
        case \$2 in bash) echo '        500 mirror suite/main Packages' ;; $policies esac"
    [ -e "$folder/$case/apt-get" ] || script "$case" apt-get 'exit 0'
}

prints() { # TEXT
    [[ $output == *"$1"* ]] || fail "$case: did not print \"$1\" but: $output"
}

prints_not() { # TEXT
    [[ $output != *"$1"* ]] || fail "$case: printed \"$1\": $output"
}

test_servers() {
    local case brand
    case=old-redis
    fake $case redis-server 'Redis server v=6.0.16 sha=00000000:0 malloc=libc bits=64 build=0'
    setup $case which
    prints 'needs Redis 7.0 or newer, or Valkey 8.0 or newer, found Redis 6.0.16'
    prints "$folder/$case/redis-server; trying the next one"
    [ "${output##*$'\n'}" != "$folder/$case/redis-server" ] || fail "$case: the program was used"

    case=keydb
    fake $case redis-server 'KeyDB server v=6.3.4 sha=00000000:0 malloc=libc bits=64 build=0'
    setup $case which
    prints 'found KeyDB 6.3.4'

    case=old-first
    fake $case redis-server 'Redis server v=6.0.16 sha=00000000:0 malloc=libc bits=64 build=0'
    fake $case valkey-server 'Valkey server v=7.2.5 sha=00000000:0 malloc=libc bits=64 build=0'
    fake $case redis-cli 'redis-cli 6.0.16'
    fake $case-later redis-server 'Redis server v=7.0.15 sha=00000000:0 malloc=libc bits=64 build=0'
    output=$(PATH="$folder/$case:$folder/$case-later:$PATH" "$tree/tools/setup.sh" which 2>&1)
    [ "$output" = "$folder/$case-later/redis-server" ] || fail "$case: looked no further: $output"
    output=$(PATH="$folder/$case:$folder/$case-later:$PATH" "$tree/tools/setup.sh" server 2>&1)
    prints "found Redis 6.0.16 at $folder/$case/redis-server; trying the next one"
    prints "using $folder/$case-later/redis-server"

    # redis-tools contains the server under another name.
    case=only-tools
    fake $case redis-check-rdb 'Redis server v=7.0.15 sha=00000000:0 malloc=libc bits=64 build=0'
    fake $case redis-cli 'redis-cli 7.0.15'
    setup_alone $case server
    output=$(PATH="$folder/$case:$folder/base" "$tree/tools/setup.sh" which)
    [ "$output" = "$tree/target/tools/redis-server" ] || fail "$case: the program was not used: $output"

    case=old-offer
    offer $case redis-tools=5:6.0.16-1ubuntu1
    setup_alone $case server
    fails
    prints 'but apt offers Redis 6.0.16: install a newer server and add it to PATH'

    case=no-server
    fake $case redis-server 'hello'
    setup $case which
    prints "$folder/$case/redis-server is not a Redis or Valkey server; trying the next one"

    for brand in 'Redis server v=7.0.0' 'Valkey server v=8.0.1' 'Redis server v=10.2.0'; do
        case=${brand// /-}
        fake "$case" redis-server "$brand sha=00000000:0"
        setup "$case" which
        [ "$output" = "$folder/$case/redis-server" ] || fail "$case: the program was not used: $output"
    done

    # Debian's redis-tools: no redis-server on PATH.
    case='only tools'
    fake "$case" redis-check-rdb 'Redis server v=7.0.15 sha=00000000:0'
    fake "$case" redis-cli 'redis-cli 7.0.15'
    setup_alone "$case" server
    succeeds
    output=$(PATH="$folder/$case:$folder/base" "$tree/tools/setup.sh" which 2>&1) ||
        fail "$case: no server is found after it was linked: $output"
}

test_rust() {
    local case=old-rust name
    fake $case cargo 'cargo 1.63.0'
    fake $case rustc 'rustc 1.63.0'
    offer $case rustc=1.63.0 cargo=0.66.0
    setup_alone $case check build
    prints "needs cargo 1.88 or newer, found 1.63.0 at $folder/$case/cargo"
    prints 'needs Rust 1.88 or newer, which apt does not offer here: install it with rustup'
    setup_alone $case build
    fails

    case=broken-rust
    fake $case cargo 'error: rustup could not choose a version of cargo to run'
    setup_alone $case check build
    prints "$folder/$case/cargo does not work"

    case=chosen-rust
    offer $case rustc-web=1.96.0 cargo-web=1.96.0
    setup_alone $case check build
    prints rustc-web
    output=$(PATH="$folder/$case:$folder/base" CARGO=true "$tree/tools/setup.sh" build 2>&1) || true
    prints 'needs Rust 1.88 or newer, found none in CARGO=true'

    # Debian's second Rust, and Ubuntu's, which are newer than the packages rustc and cargo.
    case=debian-rust
    offer $case rustc=1.63.0+dfsg1-2 cargo=0.66.0 rustc-web=1.96.0+dfsg1-1 cargo-web=1.96.0+dfsg1-1
    setup_alone $case check build
    prints 'rustc-web cargo-web'
    case=ubuntu-rust
    offer $case rustc=1.75.0 rustc-1.80=1.80.1 rustc-1.89=1.89.0+dfsg cargo-1.89=1.89.0+dfsg
    setup_alone $case check build
    prints 'rustc-1.89 cargo-1.89'
    case=conflicting-rust
    script $case apt-get 'exit 100'
    offer $case rustc-web=1.96.0 cargo-web=1.96.0
    setup_alone $case check build
    prints 'rustc-web cargo-web would replace an installed Rust, which this script does not remove'
    prints 'or run apt-get install -y rustc-web cargo-web'

    # Found elsewhere than first on PATH: used through links, which the Makefile puts first on PATH.
    case=other-rust
    fake $case cargo 'cargo 1.63.0'
    fake $case rustc 'rustc 1.63.0'
    fake $case-lib/bin cargo 'cargo 1.89.0'
    fake $case-lib/bin rustc 'rustc 1.89.0'
    script $case cargo-1.89 'exec cargo "$@"'
    ln -s "$folder/$case-lib/bin/rustc" "$folder/$case/rustc-1.89"
    setup_alone $case build
    for name in cargo rustc; do
        [ "$("$tree/target/tools/rust/$name")" = "$name 1.89.0" ] || fail "$case: $name is not linked"
    done
    rm "$folder/$case/"{cargo,rustc}-1.89
    fake home/.cargo/bin cargo 'cargo 1.95.0'
    fake home/.cargo/bin rustc 'rustc 1.95.0'
    setup_alone $case build
    [ "$("$tree/target/tools/rust/rustc")" = "rustc 1.95.0" ] || fail "$case: ~/.cargo/bin is not used"
    fake $case cargo 'cargo 1.96.0'
    fake $case rustc 'rustc 1.96.0'
    setup_alone $case build
    [ ! -e "$tree/target/tools/rust/rustc" ] || fail "$case: Rust is linked although it is first on PATH"

    # In a checkout that is reached through a symbolic link, the folder of links is not used as Rust.
    case=linked-checkout
    ln -s "$tree" "$folder/linked"
    rm -r "$tree/target"
    for name in "a tree" linked "a tree"; do
        output=$(timeout 60 env PATH="$folder/$name/target/tools/rust:$folder/base" HOME="$folder/home" \
            CARGO=cargo CARGO_HOME='' "$folder/linked/tools/setup.sh" build 2>&1) || fail "$case: $output"
        [ "$(timeout 60 env PATH="$folder/base" "$tree/target/tools/rust/cargo")" = "cargo 1.95.0" ] ||
            fail "$case: cargo does not start the one in ~/.cargo/bin"
    done
    rm -r "$folder/home/.cargo"
}

# Without arguments, only what `make test` cannot do without is required: Ubuntu has no chromium, and
# its Node may be too old.
test_defaults() {
    local case=only-required program
    fake $case cargo 'cargo 1.96.0'
    fake $case rustc 'rustc 1.96.0'
    fake $case redis-server 'Redis server v=7.0.15 sha=00000000:0'
    fake $case redis-cli 'redis-cli 7.0.15'
    fake $case python3 'Python 3.10.6'
    for program in perl setsid script curl; do fake $case $program 'works 1.0'; done
    echo 'BEGIN CERTIFICATE' >"$folder/certificates"
    offer $case shellcheck=0.8 zsh=5.8 nodejs=12.22.9~dfsg
    SSL_CERT_FILE=$folder/certificates setup_alone $case
    succeeds
    prints 'apt does not offer chromium chromium-driver'
    prints 'need Node 18.19 or newer, but apt offers 12.22.9'
    prints 'optional programs are missing'
    rm "$folder/$case/redis-server"
    SSL_CERT_FILE=$folder/certificates setup_alone $case
    fails
    prints ' redis-tools'
}

# Without root, the script prints one line with everything that is missing.
test_no_root() {
    local case=no-root
    offer $case tmux=3 zsh=5 fish=3 redis-tools=5:7.0.15-1 rustc-web=1.96.0 cargo-web=1.96.0
    setup_alone $case build server tests --optional cli browser
    fails
    prints 'installing packages requires root'
    [ "$(grep -c 'apt-get install' <<<"$output")" -eq 1 ] || fail "$case: not one line: $output"
    prints_not " "$'\n'
    for package in redis-tools rustc-web cargo-web python3 perl tmux fish; do
        prints " $package"
    done
    # Ubuntu has no such package.
    prints 'apt does not offer chromium chromium-driver'
    setup_alone $case server
    prints_not rustc-web

    # The package lists were never updated: the script downloads them, which requires no root.
    case=no-lists
    offer $case rustc-web=1.96.0 cargo-web=1.96.0
    mv "$folder/$case/apt-cache" "$folder/$case/updated"
    script $case apt-cache "[ ! -e '$tree/target/tools/apt/updated' ] || exec '$folder/$case/updated' \"\$@\""
    script $case apt-get "case \"\$*\" in *' update') : >'$tree/target/tools/apt/updated' ;; esac"
    setup_alone $case build
    fails
    prints ' rustc-web cargo-web'

    case=only-optional
    offer $case shellcheck=0.9 codespell=2
    fake $case cargo 'cargo 1.96.0'
    fake $case rustc 'rustc 1.96.0'
    setup_alone $case --optional lint
    succeeds
    prints 'optional programs are missing'
    prints 'install -y --no-install-recommends codespell shellcheck'

    case=no-apt
    setup_alone $case server tests
    fails
    prints 'there is no apt-get: install the equivalents of'
    prints ' redis-tools'
    setup_alone $case --optional lint server
    succeeds
    prints 'needs Rust 1.88 or newer; what needs it is SKIPPED'
    prints 'found no server that can load the module'
}

# A set-up waits for one that runs at the same time: apt refuses to run twice.
test_waiting() {
    local case=waiting number
    fake $case id 0
    offer $case valgrind=3
    script $case apt-get "
        mkdir '$folder/$case/running' || { echo twice >>'$folder/$case/log'; exit 100; }
        echo \"\$*\" >>'$folder/$case/log'
        sleep 0.2
        printf '#!/bin/sh\n' >'$folder/$case/valgrind'
        case \"\$*\" in *install*) chmod +x '$folder/$case/valgrind' ;; esac
        rmdir '$folder/$case/running'"
    setup_alone $case check memory
    local pids=()
    for number in 1 2; do
        PATH="$folder/$case:$folder/base" "$tree/tools/setup.sh" memory >"$folder/$case-$number" 2>&1 &
        pids+=($!)
    done
    for number in "${pids[@]}"; do wait "$number" || fail "$case: $(cat "$folder/$case"-*)"; done
    ! grep twice "$folder/$case/log" || fail "$case: two set-ups installed at the same time"
    [ "$(grep -c install "$folder/$case/log")" -eq 1 ] || fail "$case: $(cat "$folder/$case/log")"
}

# LIBCLANG_PATH names the only folder to search.
test_libclang() {
    local case=libclang
    if ! cc -x c -o "$folder/a" - <<<'int main(void) { return 0; }' 2>/dev/null; then
        echo "SKIPPED: tools/test.sh: libclang: found no C compiler"
        return
    fi
    library() { # FILE
        mkdir -p "$(dirname "$1")"
        cc -x c -shared -fPIC -o "$1" - <<<'int nothing;'
    }

    mkdir "$folder/empty"
    LIBCLANG_PATH=$folder/empty setup $case check build
    prints 'unset it, or set it to the folder of a libclang'

    library "$folder/cpp/libclang-cpp.so.14"
    LIBCLANG_PATH=$folder/cpp setup $case check build
    prints 'unset it, or set it to the folder of a libclang'
    prints_not cannot

    library "$folder/other/libclang-14.so.1"
    LIBCLANG_PATH=$folder/other setup $case check build
    prints "bindgen cannot use $folder/other/libclang-14.so.1: it lacks clang_createIndex"
    prints 'unset it, or set it to the folder of a libclang'

    mkdir "$folder/text"
    echo 'no library' >"$folder/text/libclang.so"
    LIBCLANG_PATH=$folder/text setup $case check build
    prints "bindgen cannot use $folder/text/libclang.so"
    prints 'unset it, or set it to the folder of a libclang'

    # Like bindgen, setup.sh selects the library with the highest number.
    # A libclang without its headers uses those of gcc. Without root, it may come from PyPI.
    fake $case cargo 'cargo 1.96.0'
    fake $case rustc 'rustc 1.96.0'
    headless() { # FILE
        mkdir -p "$(dirname "$1")"
        cc -x c -shared -fPIC -o "$1" - <<'C'
static int here, errors;
void *clang_createIndex(int a, int b) { return &here; }
void clang_Cursor_isAnonymousRecordDecl(void) {}
void *clang_parseTranslationUnit(void *index, const char *file, const char *const *arguments, int count) {
    errors = !count || arguments[count - 1][0] != '-' || arguments[count - 1][1] != 'I';
    return &here;
}
unsigned clang_getNumDiagnostics(void *unit) { return errors; }
void *clang_getDiagnostic(void *unit, unsigned number) { return &here; }
int clang_getDiagnosticSeverity(void *diagnostic) { return 4; }
C
    }
    headless "$folder/headless/libclang.so"
    LIBCLANG_PATH=$folder/headless setup_alone $case build
    succeeds
    grep -q BINDGEN_EXTRA_CLANG_ARGS=-I "$tree/target/tools/rust/cargo" ||
        fail "$case: cargo does not get the headers of gcc"

    # No libclang, and no root: pip downloads one.
    script $case python3 "
        [ \"\$3\" != --version ] || { echo pip 23.0.1; exit; }
        while [ \"\$1\" != --target ]; do shift; done
        mkdir -p \"\$2/clang/native\"
        cp '$folder/headless/libclang.so' \"\$2/clang/native\""
    library "$folder/useless/libclang-99.so"
    LIBCLANG_PATH='' LD_LIBRARY_PATH=$folder/useless setup_alone $case build
    succeeds
    prints 'downloading it from PyPI'
    grep -q "LIBCLANG_PATH=.*/target/tools/libclang/clang/native" "$tree/target/tools/rust/cargo" ||
        fail "$case: cargo does not get the libclang from PyPI"

    library "$folder/several/libclang-9.so"
    library "$folder/several/libclang-14.so"
    library "$folder/several/libclang.so"
    LIBCLANG_PATH=$folder/several setup $case check build
    prints "$folder/several/libclang-14.so"
}

test_programs() {
    local case=old-programs
    fake $case python3 'Python 3.7.3'
    fake $case node v12.22.12
    fake $case npm 'npm does not support Node.js v12.22.12'
    offer $case nodejs=18.19.0
    setup $case check examples node
    prints "needs python3 3.9 or newer, found 3.7.3 at $folder/$case/python3"
    prints "needs node 18.19 or newer, found 12.22.12 at $folder/$case/node"
    prints python3-venv
    prints nodejs

    case=broken-programs
    for program in python3 perl tmux valgrind dpkg-shlibdeps chromedriver shellcheck codespell; do
        script $case "$program" 'exit 1'
    done
    setup $case check tests
    prints "python3 does not work"
    prints 'perl python3'
    setup $case check memory
    prints valgrind
    setup $case check cli
    prints tmux
    prints_not chromium
    setup $case check browser
    prints 'chromium chromium-driver'
    setup $case check deb
    prints dpkg-dev
    setup $case check lint
    prints 'codespell shellcheck'

    case=other-browser
    fake $case chromedriver 'ChromeDriver 99.0.4844.51 (0)'
    fake $case chromium 'Chromium 136.0.7103.113'
    fake $case google-chrome 'Google Chrome 136.0.7103.113'
    fake $case chromium-browser 'Chromium 136.0.7103.113'
    setup $case check browser
    prints "chromedriver 99.0.4844.51 at $folder/$case/chromedriver needs a Chromium of the same release"
}

# Building cargo-deny requires a C compiler, which is needed only if cargo-deny is missing.
test_deny() {
    local case=no-deny
    fake $case rustc 'rustc 1.999.0'
    # shellcheck disable=SC2016 # for the script to expand
    script $case cargo '[ "$1" != deny ] && echo cargo 1.999.0'
    script $case cc 'exit 1'
    setup $case check deny
    prints 'gcc libc6-dev'

    case=has-deny
    fake $case rustc 'rustc 1.999.0'
    fake $case cargo 'cargo 1.999.0'
    script $case cc 'exit 1'
    setup $case check deny
    prints_not gcc

    case=unknown-set
    setup $case check everything
    prints 'unknown set everything; available sets: build server'
}

test_lint() {
    local case=no-linters status=0 program
    script $case shellcheck 'exit 1'
    script $case codespell 'exit 1'
    output=$(PATH="$folder/$case:$PATH" CARGO=false tools/lint.sh 2>&1) || fail "$case: $output"
    prints 'SKIPPED: tools/lint.sh: format: rustfmt does not run'
    prints 'SKIPPED: tools/lint.sh: lints of the Rust code: clippy does not run'
    prints 'SKIPPED: tools/lint.sh: shell scripts: shellcheck does not run'
    prints 'SKIPPED: tools/lint.sh: spelling: codespell does not run'
    prints 'SKIPPED: tools/lint.sh: dependencies: cargo-deny does not run'

    case=findings
    script $case shellcheck '[ "$*" = --version ] || { echo finding in "$@"; exit 1; }'
    output=$(PATH="$folder/$case:$PATH" CARGO=false tools/lint.sh 2>&1) || status=$?
    [ "$status" -ne 0 ] || fail "$case: lint.sh ignored a finding"
    prints ' tools/setup.sh '
    prints 'deploy/debian/gpulock.prerm'

    case=python-findings status=0
    script $case shellcheck 'exit 0'
    script $case codespell 'exit 0'
    script $case ruff '[ "$*" = --version ] || { echo finding in "$@"; exit 1; }'
    output=$(PATH="$folder/$case:$PATH" CARGO=false tools/lint.sh 2>&1) || status=$?
    [ "$status" -ne 0 ] || fail "$case: lint.sh ignored a finding"
    prints 'finding in check --quiet deploy'

    # A newer clippy may have lints that the code does not know.
    case=clippy
    script $case shellcheck 'exit 0'
    script $case codespell 'exit 0'
    script $case cargo 'case "$*" in
        "clippy --version") clippy-version ;;
        clippy*) echo ran "$@" ;;
        *) exit 1 ;;
        esac'
    lint_with() { # VERSION
        fake $case clippy-version "clippy $1 (1a2b3c4d5e 2026-07-04)"
        output=$(PATH="$folder/$case:$PATH" CARGO=cargo tools/lint.sh 2>&1) || fail "$case $1: $output"
    }
    lint_with 0.1.97
    prints 'ran clippy --locked -q --workspace --all-targets -- -D warnings'
    lint_with 0.1.100
    prints 'clippy 0.1.100 is newer than 0.1.97: its warnings are no errors'
    prints_not '-D warnings'

    # The set alone: rustfmt and clippy are next to rustc.
    case=only-lint
    for program in cargo rustc rustfmt clippy-driver shellcheck codespell; do fake $case $program "$program 1.96.0"; done
    setup_alone $case check lint
    succeeds
    prints_not missing
    rm "$folder/$case/rustfmt"
    setup_alone $case check lint
    prints 'rustfmt or clippy is missing'
}

# After an installation, the old program may still come first on PATH.
test_installing() {
    local case=installed-without-effect
    fake $case apt-get 'installed nothing'
    fake $case sudo 'installed nothing'
    fake $case python3 'Python 3.7.3'
    setup $case tests
    prints 'installed python3, but these still do not work: python3'
}

# tools/target.sh finds the build folder for each way to set it.
test_target() {
    local top=$PWD found
    found=$(CARGO_TARGET_DIR=elsewhere/built tools/target.sh)
    [ "$found" = "$top/elsewhere/built" ] || fail "a relative CARGO_TARGET_DIR is $found"
    found=$(CARGO_TARGET_DIR=$folder/built tools/target.sh)
    [ "$found" = "$folder/built" ] || fail "an absolute CARGO_TARGET_DIR is $found"
    found=$(env -u CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR="$folder/set" tools/target.sh)
    [ "$found" = "$folder/set" ] || fail "cargo's own setting is $found"
    found=$(env -u CARGO_TARGET_DIR CARGO=missing tools/target.sh)
    [ "$found" = "$top/target" ] || fail "without cargo it is $found"
}

for part in servers rust defaults no_root waiting libclang programs deny lint installing target; do
    "test_$part"
    echo "tools/test.sh: $part: ok"
done

#!/bin/bash
# Tests tools/setup.sh and tools/lint.sh with fake programs that are too old, broken or not what
# they seem. Each test has its own folder of fake programs, which comes first on PATH. Installs
# nothing and needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

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
    output=$(PATH="$folder/$case:$PATH" tools/setup.sh "$@" 2>&1) || true
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
}

test_rust() {
    local case=old-rust
    fake $case cargo 'cargo 1.63.0'
    CARGO=cargo setup $case check build
    prints "needs cargo 1.88 or newer, found 1.63.0 at $folder/$case/cargo"
    prints rustup

    case=no-rust
    fake $case cargo 'error: rustup could not choose a version of cargo to run'
    CARGO=cargo setup $case check build
    prints "$folder/$case/cargo does not work"
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
    prints libclang-dev

    library "$folder/cpp/libclang-cpp.so.14"
    LIBCLANG_PATH=$folder/cpp setup $case check build
    prints libclang-dev
    prints_not cannot

    library "$folder/other/libclang-14.so.1"
    LIBCLANG_PATH=$folder/other setup $case check build
    prints "bindgen cannot use $folder/other/libclang-14.so.1: it lacks clang_createIndex"
    prints libclang-dev

    mkdir "$folder/text"
    echo 'no library' >"$folder/text/libclang.so"
    LIBCLANG_PATH=$folder/text setup $case check build
    prints "bindgen cannot use $folder/text/libclang.so"
    prints libclang-dev

    # Like bindgen, setup.sh selects the library with the highest number.
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
    setup $case check examples
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
    prints 'chromium chromium-driver tmux'
    setup $case check deb
    prints dpkg-dev
    setup $case check checks
    prints 'codespell shellcheck'

    case=other-browser
    fake $case chromedriver 'ChromeDriver 99.0.4844.51 (0)'
    fake $case chromium 'Chromium 136.0.7103.113'
    fake $case google-chrome 'Google Chrome 136.0.7103.113'
    fake $case chromium-browser 'Chromium 136.0.7103.113'
    setup $case check cli
    prints "chromedriver 99.0.4844.51 at $folder/$case/chromedriver needs a Chromium of the same release"
}

# Building cargo-deny requires a C compiler, which is needed only if cargo-deny is missing.
test_deny() {
    local case=no-deny
    fake $case rustc 'rustc 1.999.0'
    # shellcheck disable=SC2016 # for the script to expand
    script $case cargo '[ "$1" != deny ] && echo cargo 1.999.0'
    script $case cc 'exit 1'
    CARGO=cargo setup $case check deny
    prints 'gcc libc6-dev'

    case=has-deny
    fake $case rustc 'rustc 1.999.0'
    fake $case cargo 'cargo 1.999.0'
    script $case cc 'exit 1'
    CARGO=cargo setup $case check deny
    prints_not gcc

    case=unknown-set
    setup $case check everything
    prints 'unknown set everything; available sets: build lint checks'
}

test_lint() {
    local case=no-linters status=0
    script $case shellcheck 'exit 1'
    script $case codespell 'exit 1'
    output=$(PATH="$folder/$case:$PATH" CARGO=false tools/lint.sh 2>&1) || fail "$case: $output"
    prints 'SKIPPED: tools/lint.sh: shell scripts: shellcheck does not run'
    prints 'SKIPPED: tools/lint.sh: spelling: codespell does not run'
    prints 'SKIPPED: tools/lint.sh: dependencies: cargo-deny does not run'

    case=findings
    script $case shellcheck '[ "$*" = --version ] || { echo finding in "$@"; exit 1; }'
    output=$(PATH="$folder/$case:$PATH" CARGO=false tools/lint.sh 2>&1) || status=$?
    [ "$status" -ne 0 ] || fail "$case: lint.sh ignored a finding"
    prints 'finding in tools/bench.sh'
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

# tools/target.sh finds the build folder, whichever way it is set.
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

for part in servers rust libclang programs deny lint installing target; do
    "test_$part"
    echo "tools/test.sh: $part: ok"
done

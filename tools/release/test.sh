#!/bin/bash
# Tests the scripts of tools/release, without a build: in a copy of the repository, with artefacts that
# only have the right names. Each check must succeed on a commit that is ready for the release, and
# must name what is wrong on one that is not. Takes some seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tools/release/lib.sh
. tools/release/lib.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
copy=$work/copy
# The copy builds in its own folder.
unset CARGO_TARGET_DIR

# The files of the repository, uncommitted changes included, as a commit with a tag. The settings of
# the caller, such as hooks and signed commits, do not apply.
make_copy() {
    mkdir "$copy"
    git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy" 2>/dev/null || true
    export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
    cd "$copy"
    sed -i '/^## \[/s/[Uu]nreleased/2026-01-31/' CHANGELOG.md clients/python/CHANGELOG.md
    git init -q
    git config user.name test
    git config user.email test@localhost
    git add --all
    git commit -q -m test
    version=$(tools/version.sh)
    git tag "v$version"
    dist=$(dist_folder "$(host_triple)")
    name=${dist##*/}
}

check() { tools/release/check.sh "$1" 2>&1; }

succeeds() { # CHECK
    local output
    output=$(check "$1") || fail "$1 should succeed: $output"
    [ "$output" = "ok      $1" ] || fail "unexpected output of $1: $output"
}

fails() { # CHECK TEXT
    local output
    if output=$(check "$1"); then fail "$1 should fail with \"$2\""; fi
    [[ $output == "FAILED  $1: "*"$2"* ]] || fail "$1 should fail with \"$2\", got: $output"
}

# Replaces text in a file for the next check, and restores it then.
with() { # FILE SED-EXPRESSION CHECK TEXT
    cp "$1" "$work/saved"
    sed -i "$2" "$1"
    ! cmp -s "$1" "$work/saved" || fail "$2 does not change $1"
    fails "$3" "$4"
    cp "$work/saved" "$1"
}

test_source() {
    local check
    for check in documents changelog tag clean; do succeeds "$check"; done
    with CHANGELOG.md 's/2026-01-31/Unreleased/' changelog 'CHANGELOG.md has "## ['"$version"'] - Unreleased": replace "Unreleased" with the date'
    with clients/python/CHANGELOG.md 's/2026-01-31/2026-02-31/' changelog 'clients/python/CHANGELOG.md has'
    with CHANGELOG.md "s/^## \[$version\]/## [9.9.9]/" changelog "expected an entry \"## [$version] - "
    with README.md '1s/^/Download libgpulock-9.9.9-linux-x86_64.so./' documents "README.md:1:libgpulock-9.9.9 is not the version $version"
    with README.md '1s/^/Install gpulock_9.9.9-1_amd64.deb./' documents "README.md:1:gpulock_9.9.9 is not"
    with README.md 's/Version [0-9.]* is/Version 9.9.9 is/' documents "Version 9.9.9 is not the version $version"
    with deploy/docker/README.md "s/ -t gpulock-redis:$version / -t gpulock-redis:9.9.9 /" documents ":gpulock-redis:9.9.9 is not"
    with deploy/docker/README.md "s/VERSION=$version/VERSION=9.9.9/" documents ":VERSION=9.9.9 is not"
    with deploy/kubernetes/kustomization.yaml "s/newTag: $version/newTag: 9.9.9/" documents ":newTag: 9.9.9 is not"
    with deploy/kubernetes/worker.yaml "s/image: gpulock:$version/image: gpulock:9.9.9/" documents ":gpulock:9.9.9 is not"
    with README.md '1s/^/ /' clean 'commit or remove README.md'
    echo >unknown-file
    fails clean 'commit or remove unknown-file'
    rm unknown-file
    git commit -q --allow-empty -m 'after the tag'
    fails tag "the tag v$version is on"
    git tag -d "v$version" >/dev/null
    fails tag "git tag -a v$version"
    git tag "v$version"
}

test_versions() {
    local crate=crates/core/Cargo.toml
    succeeds version
    with "$crate" 's/^version.workspace = true/version = "9.9.9"/' version 'the crate gpulock-core has the version 9.9.9'
    with Cargo.toml 's/^version = "'"$version"'"/version = "1.0-rc"/' version 'Cargo.toml has the version 1.0-rc: expected X.Y.Z'
    export CARGO_NET_OFFLINE=true
    with Cargo.toml 's/^version = "'"$version"'"/version = "9.9.9"/' locked 'Cargo.lock is not up to date'
}

# Of the crates in the programs, not of macros, of tests or of this project.
test_notices() {
    local name
    tools/notices.py >"$work/notices" || fail "notices.py should succeed"
    for name in redis-module redis-module-common clap; do
        grep -q "^$name [0-9.]* (" "$work/notices" || fail "notices.py should list $name"
    done
    for name in serde_derive proptest gpulock-core; do
        ! grep -q "^$name " "$work/notices" || fail "notices.py should not list $name"
    done
    grep -q '^Copyright .* The Rust Project' "$work/notices" || fail "notices.py should print copyrights"
}

sums() {
    rm -f "$dist/SHA256SUMS"
    (cd "$dist" && sha256sum -- * >"$work/sums")
    mv "$work/sums" "$dist/SHA256SUMS"
}

# Stand-ins: the check of the names and checksums does not open the files.
make_artefacts() {
    local arch=amd64 file
    [ "$(uname -m)" = x86_64 ] || arch=arm64
    mkdir -p "$dist"
    for file in "lib$name.so" "$name" "$name.tar.gz" "gpulock_$version-1_$arch.deb" "gpulock-$version.tar.gz" \
        "gpulock-$version-py3-none-any.whl" "lib$name.so.cdx.json" "$name.cdx.json" \
        "gpulock-$version-py3-none-any.whl.cdx.json" THIRD-PARTY-NOTICES; do
        echo "$file" >"$dist/$file"
    done
    sums
}

test_artefacts() {
    fails artefacts 'contains no artefacts: run make release'
    make_artefacts
    succeeds artefacts
    mv "$dist/$name" "$work/$name"
    sums
    fails artefacts "$dist/$name is missing"
    mv "$work/$name" "$dist"
    fails artefacts 'does not list exactly the artefacts'
    sums
    echo >>"$dist/$name.tar.gz"
    fails artefacts "$name.tar.gz does not match SHA256SUMS"
    touch "$dist/gpulock-9.9.9.tar.gz"
    sums
    fails artefacts "gpulock-9.9.9.tar.gz is not an artefact"
    rm "$dist/gpulock-9.9.9.tar.gz"
    sums
    fails contents "gpulock-$version.tar.gz has the version none, expected $version"
    printf '#!/bin/sh\necho gpulock 9.9.9\n' >"$dist/$name"
    chmod +x "$dist/$name"
    fails contents "$name has the version 9.9.9, expected $version"
    fails binaries "objdump cannot read $dist/lib$name.so"
}

# Compiles a program from standard input, and checks it.
compile() { # OUTPUT FLAG...
    local output=$1
    shift
    cc -x c -o "$output" - "$@"
}

rejects() { # TEXT FILE
    local output
    if output=$(tools/release/binaries.sh "$2" 2>&1); then fail "binaries.sh should reject $2"; fi
    [[ $output == *"$1"* ]] || fail "binaries.sh should reject $2 with \"$1\", got: $output"
}

test_binaries() {
    compile "$work/good" <<<'#include <stdio.h>
        int main(void) { return puts("hello") < 0; }'
    tools/release/binaries.sh "$work/good" >"$work/output" || fail "binaries.sh should accept a simple program"
    grep -q '^good: glibc [0-9.]* or newer (allowed: up to [0-9.]*); needs libc.so.6' "$work/output" ||
        fail "unexpected output of binaries.sh: $(cat "$work/output")"
    MAX_GLIBC=2.1 rejects "which is newer than 2.1" "$work/good"
    compile "$work/paths" <<<"#include <stdio.h>
        int main(void) { return puts(\"$PWD/src/lib.rs\") < 0; }"
    rejects "contains paths of this machine: $PWD/src/lib.rs" "$work/paths"
    # With the home folder /, neither // nor the folder /.cargo of cargo may match a URL.
    compile "$work/address" <<<'#include <stdio.h>
        int main(void) { return puts("https://example.org/path") < 0; }'
    HOME=/ CARGO_HOME='' tools/release/binaries.sh "$work/address" >/dev/null || fail "binaries.sh should accept a URL if HOME is /"
    compile "$work/libother.so" -shared -fPIC <<<'int other(void) { return 0; }'
    compile "$work/needy" -L"$work" -Wl,--no-as-needed -lother <<<'int main(void) { return 0; }'
    rejects "needs libraries that not every system has: libother.so" "$work/needy"
    compile "$work/static" -nostdlib -static <<<'void _start(void) { for (;;); }'
    rejects "is not linked with glibc" "$work/static"
}

test_merge() {
    local folder
    for folder in a b; do
        mkdir "$work/$folder"
        echo package >"$work/$folder/package"
        echo "$folder" >"$work/$folder/program-$folder"
        (cd "$work/$folder" && sha256sum package program-* >SHA256SUMS)
    done
    tools/release/merge.sh "$work/merged" "$work/a" "$work/b"
    (cd "$work/merged" && sha256sum --quiet --strict --check SHA256SUMS)
    [ "$(find "$work/merged" -type f -printf '%f\n' | sort | xargs)" = "SHA256SUMS package program-a program-b" ] ||
        fail "merge.sh should copy all files"
    [ "$(wc -l <"$work/merged/SHA256SUMS")" = 3 ] || fail "merge.sh should list each file once"
    echo another >"$work/b/package"
    if tools/release/merge.sh "$work/again" "$work/a" "$work/b" >/dev/null 2>&1; then fail "merge.sh should check the checksums"; fi
    (cd "$work/b" && sha256sum package program-* >SHA256SUMS)
    if tools/release/merge.sh "$work/again" "$work/a" "$work/b" >/dev/null 2>"$work/output"; then fail "merge.sh should compare the files"; fi
    grep -q 'different versions of package' "$work/output" || fail "unexpected output of merge.sh: $(cat "$work/output")"
}

git ls-files --error-unmatch Cargo.toml >/dev/null 2>&1 || {
    echo "SKIPPED: tools/release/test.sh: this folder is not a git repository, or git does not run here" >&2
    exit
}
make_copy
test_source
test_notices
test_versions
test_artefacts
test_binaries
test_merge
if tools/release/artefacts.sh x86_64-unknown-linux-gnu "$work/nothing" 2>"$work/output"; then fail "artefacts.sh should need the programs"; fi
grep -q 'contains no libgpulock.so' "$work/output" || fail "unexpected output of artefacts.sh: $(cat "$work/output")"
echo "tools/release/test.sh: ok"

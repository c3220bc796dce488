#!/bin/bash
# Checks that this commit and its artefacts can be released, and prints a line for each check:
#
#     tools/release/check.sh [CHECK...]     default: all
#
#     version       all crates have the version in Cargo.toml
#     locked        the lock files of cargo are up to date
#     documents     the documents and manifests name artefacts and images of this version
#     changelog     both changelogs have an entry with a date for this version
#     tag           the tag vVERSION is on this commit
#     clean         no uncommitted changes and no files that git does not know
#     artefacts     the artefacts of `make release` are complete and match SHA256SUMS
#     contents      the artefacts have this version, and the archives contain the same programs
#     binaries      the programs run on the oldest supported systems (tools/release/binaries.sh)
#     reproducible  a clone in another folder, for another user and time zone, gives the same artefacts
#
# Runs all of them, and fails if one has failed. Before the release, changelog and tag FAIL. The check
# `reproducible` builds a release, and takes as long as `make release`.
# shellcheck disable=SC2317 # the checks are called by their names
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tools/release/lib.sh
. tools/release/lib.sh

cargo=${CARGO:-cargo}
all=(version locked documents changelog tag clean artefacts contents binaries reproducible)
triple=$(host_triple)
version=$(tools/version.sh)
[ -n "$version" ] || fail 'Cargo.toml has no version in [workspace.package]: expected version = "X.Y.Z"'
dist=$(dist_folder "$triple")
name=${dist##*/}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Each check prints what is wrong and what to change, and nothing if it succeeds.

check_version() {
    local package found other
    [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] ||
        echo "Cargo.toml has the version $version: expected X.Y.Z, the form that MODULE LIST can report"
    # gpulock-fuzz and the examples are workspaces of their own, which are not released.
    other=$("$cargo" metadata --no-deps --offline --format-version 1 |
        python3 -c 'import json, sys
for package in json.load(sys.stdin)["packages"]:
    if package["version"] != sys.argv[1]:
        print(package["name"], package["version"])' "$version")
    while read -r package found; do
        [ -z "$package" ] || echo "the crate $package has the version $found: write version.workspace = true in its Cargo.toml"
    done <<<"$other"
}

check_locked() {
    local manifest
    for manifest in Cargo.toml fuzz/Cargo.toml examples/rust/Cargo.toml; do
        "$cargo" metadata --locked --filter-platform "$triple" --format-version 1 --manifest-path "$manifest" >/dev/null 2>"$work/log" ||
            echo "${manifest%.toml}.lock is not up to date: run cargo update --workspace --manifest-path $manifest ($(grep -m 1 '^error' "$work/log"))"
    done
}

# File names such as gpulock-1.2.3-linux-x86_64.tar.gz and gpulock_1.2.3-1_amd64.deb, tags in commands,
# images such as gpulock-redis:1.2.3, their build argument VERSION, and "Version 1.2.3" in sentences.
# Entries of the changelogs are about older versions, too.
check_documents() {
    local line
    git ls-files -z -- '*.md' '*.yaml' '*.yml' ':!:*CHANGELOG.md' |
        xargs -0 grep -noE '(\b(lib)?gpulock(-[a-z]+)*[-_=:]+v?|\bnewTag: *|\bVERSION=|\bVersion )[0-9]+\.[0-9]+\.[0-9]+' |
        while read -r line; do
            [[ $line == *[-_=:v\ ]"$version" ]] || echo "$line is not the version $version: change the document"
        done || true
}

check_changelog() {
    local file heading
    for file in CHANGELOG.md clients/python/CHANGELOG.md; do
        heading=$(grep -m 1 '^## \[' "$file") || heading=
        if [[ $heading != "## [$version] - "* ]]; then
            echo "$file begins with \"$heading\": expected an entry \"## [$version] - $(date +%F)\" at the top"
        elif [[ ! ${heading##* - } =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]] || ! date -d "${heading##* - }" >/dev/null 2>&1; then
            echo "$file has \"$heading\": replace \"${heading##* - }\" with the date of the release, such as $(date +%F)"
        fi
    done
}

check_tag() {
    local commit
    if ! commit=$(git rev-parse --quiet --verify "refs/tags/v$version^{commit}"); then
        echo "the tag v$version does not exist: run git tag -a v$version -m 'GPULOCK $version'"
    elif [ "$commit" != "$(git rev-parse HEAD)" ]; then
        echo "the tag v$version is on ${commit:0:12}, HEAD is $(git rev-parse --short=12 HEAD): check out the tag, or set the next version in Cargo.toml"
    fi
}

check_clean() {
    local changes
    changes=$(git status --porcelain | cut -c 4-) || echo "not in a git repository"
    [ -z "$changes" ] || echo "the working tree has changes: commit or remove ${changes//$'\n'/, }"
}

expected_artefacts() {
    local debian=amd64
    [ "$(arch_of "$triple")" = x86_64 ] || debian=arm64
    printf '%s\n' "lib$name.so" "lib$name.so.cdx.json" "$name" "$name.cdx.json" "$name.tar.gz" \
        "gpulock_$version-*_$debian.deb" "gpulock-$version.tar.gz" \
        "gpulock-$version-py3-none-any.whl" "gpulock-$version-py3-none-any.whl.cdx.json" \
        THIRD-PARTY-NOTICES SHA256SUMS
}

# Succeeds if there are artefacts, and says how to get them if not.
has_artefacts() {
    [ -f "$dist/SHA256SUMS" ] && return
    echo "$dist contains no artefacts: run make release"
    return 1
}

check_artefacts() {
    local pattern patterns file listed
    has_artefacts || return 0
    mapfile -t patterns < <(expected_artefacts)
    for pattern in "${patterns[@]}"; do
        compgen -G "$dist/$pattern" >/dev/null || echo "$dist/$pattern is missing: run make release"
    done
    for file in "$dist"/*; do
        for pattern in "${patterns[@]}"; do
            # shellcheck disable=SC2053 # a pattern
            [[ ${file##*/} == $pattern ]] && continue 2
        done
        echo "$file is not an artefact of the version $version: remove it, or run make release"
    done
    listed=$(sed 's/^[0-9a-f]* [ *]//' "$dist/SHA256SUMS" | sort)
    [ "$listed" = "$(find "$dist" -mindepth 1 ! -name SHA256SUMS -printf '%P\n' | sort)" ] ||
        echo "$dist/SHA256SUMS does not list exactly the artefacts: run make release"
    (cd "$dist" && sha256sum --quiet --check SHA256SUMS 2>/dev/null) |
        sed 's/: FAILED.*/ does not match SHA256SUMS: run make release/' || true
}

# Succeeds if two programs have the same code and constants: the Debian package has no symbols.
same_code() { # FILE FILE
    local section number
    for section in .text .rodata; do
        for number in 1 2; do
            objcopy -O binary --only-section="$section" "${!number}" "$work/section$number" 2>/dev/null &&
                [ -s "$work/section$number" ] || return
        done
        cmp -s "$work/section1" "$work/section2" || return
    done
}

wheel_version() { # FILE
    python3 -c 'import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    [version] = [line.split()[1] for line in wheel.read(name).decode().splitlines() if line.startswith("Version: ")]
    print(version)' "$1"
}

check_contents() {
    local found file
    has_artefacts || return 0
    expect() { # ARTEFACT FOUND
        [ "$2" = "$version" ] || echo "$1 has the version ${2:-none}, expected $version: run make release"
    }
    expect "$name" "$("$dist/$name" --version 2>&1 | awk '{print $2}')"
    for file in "$dist"/gpulock_*.deb; do
        found=$(dpkg-deb --field "$file" Version 2>/dev/null) || found=
        expect "${file##*/}" "${found%-*}"
        mkdir -p "$work/deb"
        dpkg-deb --fsys-tarfile "$file" | tar -xf - -C "$work/deb" || echo "${file##*/} is not a Debian package: run make release"
    done
    expect "gpulock-$version-py3-none-any.whl" "$(wheel_version "$dist/gpulock-$version-py3-none-any.whl" 2>/dev/null)"
    expect "gpulock-$version.tar.gz" \
        "$(tar -xzOf "$dist/gpulock-$version.tar.gz" "gpulock-$version/PKG-INFO" 2>/dev/null | awk '$1 == "Version:" && !seen++ {print $2}')"
    tar -xzf "$dist/$name.tar.gz" -C "$work" || echo "$name.tar.gz is not an archive: run make release"
    cmp -s "$work/$name/libgpulock.so" "$dist/lib$name.so" ||
        echo "$name.tar.gz contains another module than lib$name.so: run make release"
    cmp -s "$work/$name/gpulock" "$dist/$name" ||
        echo "$name.tar.gz contains another command than $name: run make release"
    cmp -s "$work/$name/THIRD-PARTY-NOTICES" "$dist/THIRD-PARTY-NOTICES" ||
        echo "$name.tar.gz does not contain THIRD-PARTY-NOTICES: run make release"
    same_code "$(find "$work/deb" -type f -path '*/bin/gpulock')" "$dist/$name" ||
        echo "the Debian package contains another command than $name: run make release"
    same_code "$(find "$work/deb" -type f -name '*gpulock.so')" "$dist/lib$name.so" ||
        echo "the Debian package contains another module than lib$name.so: run make release"
}

check_binaries() {
    has_artefacts || return 0
    tools/release/binaries.sh "$dist/lib$name.so" "$dist/$name" >/dev/null
}

# Downloads nothing that cargo has downloaded already, but unpacks it into another folder.
check_reproducible() {
    local home=$work/another-home cargo_home=${CARGO_HOME:-$HOME/.cargo} clone=$work/another/clone file
    has_artefacts || return 0
    (umask 077 && git clone --quiet . "$clone")
    mkdir -p "$home/.cargo/registry" "$home/.config" "$clone/target/tools"
    for file in config.toml config registry/cache registry/index; do
        [ ! -e "$cargo_home/$file" ] || ln -s "$(realpath "$cargo_home/$file")" "$home/.cargo/$file"
    done
    [ ! -e "$HOME/.config/pip" ] || ln -s "$HOME/.config/pip" "$home/.config/pip"
    # Compiling cargo-cyclonedx takes some minutes.
    [ ! -d target/tools/bin ] || ln -s "$PWD/target/tools/bin" "$clone/target/tools/bin"
    if ! (
        cd "$clone" && umask 077 &&
            env -u SOURCE_DATE_EPOCH TZ=Pacific/Apia HOME="$home" CARGO_HOME="$home/.cargo" \
                RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}" CARGO_TARGET_DIR="$clone/target" \
                tools/release/release.sh
    ) >"$work/build.log" 2>&1; then
        echo "the clone does not build: $(tail -n 3 "$work/build.log" | tr '\n' ' ')"
        return
    fi
    diff <(sort -k 2 "$dist/SHA256SUMS") <(sort -k 2 "$clone/target/dist/$name/SHA256SUMS") |
        awk '/^[<>]/ && !seen[$3]++ {print $3}' |
        while read -r file; do
            echo "$file differs from that of a clone of this commit: run make release, and compare the two with diffoscope if it still differs"
        done
}

checks=("$@")
[ $# -gt 0 ] || checks=("${all[@]}")
status=0
for check in "${checks[@]}"; do
    [[ " ${all[*]} " == *" $check "* ]] || fail "unknown check $check; available checks: ${all[*]}"
    # Without a condition around it, so that an error ends the check.
    set +e
    problems=$(set -e; "check_$check" 2>&1)
    ended=$?
    set -e
    [ $ended -eq 0 ] || problems=${problems:-the check ended with status $ended}
    if [ -z "$problems" ]; then
        echo "ok      $check"
    else
        status=1
        while read -r problem; do echo "FAILED  $check: $problem"; done <<<"$problems"
    fi
done
exit $status

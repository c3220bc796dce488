#!/bin/bash
# Creates the Debian package from compiled files with debhelper, checks it with lintian (SKIPPED if
# lintian is not installed), and prints its path on the last line. Two runs with the same files on
# the same commit create identical packages, also in different folders.
#
#     deploy/package.sh [FOLDER [ARCHITECTURE]]
#
# FOLDER contains libgpulock.so and gpulock; default: the release folder of `make build`.
# ARCHITECTURE is their Debian architecture (amd64, arm64), default: DEB_HOST_ARCH, otherwise that of
# this machine. For another architecture, the package binutils-TRIPLET must be installed, for example
# binutils-aarch64-linux-gnu, and this machine must be able to run FOLDER/gpulock (under qemu), or have
# built the command with `make build`: it writes the manual pages and completions. The package is
# target/debian/gpulock_VERSION_ARCHITECTURE.deb; debian/ is a copy of deploy/debian. The time
# stamps are those of SOURCE_DATE_EPOCH, otherwise of the newest commit.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "package.sh: $*" >&2; exit 1; }
for tool in dh_assistant dpkg-architecture readelf; do
    "$tool" --help >/dev/null 2>&1 || fail "$tool does not run: run tools/setup.sh deb"
done

built=$(tools/target.sh)
folder=${1:-$built/release}
architecture=${2:-${DEB_HOST_ARCH:-$(dpkg --print-architecture)}}
for file in libgpulock.so gpulock; do
    [ -f "$folder/$file" ] || fail "$folder/$file does not exist: run make build first"
done

version=$(tools/version.sh)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null)} ||
    epoch=$(stat -c %Y CHANGELOG.md)
name=gpulock_$version-1_$architecture.deb
# Not below target/: debhelper does not work in a path with spaces.
[[ ${TMPDIR-} != *[[:space:]]* ]] || export TMPDIR=/tmp
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
stage=$temporary/gpulock

# The command that writes the manual pages and completions: the packaged one, or, if this machine
# cannot run it, its native build.
writer() {
    local program
    for program in "$folder/gpulock" "$built/release/gpulock"; do
        [ "$("$program" --version 2>/dev/null)" != "gpulock $version" ] || { echo "$program"; return; }
    done
    fail "this machine cannot run $folder/gpulock, and $built/release/gpulock is not version" \
        "$version: run make build"
}

# Prints the packages that contain the libraries of the two files, each with the oldest sufficient
# version: libc6 (>= 2.34). dpkg-shlibdeps finds the same, but for another architecture it needs the
# libraries of that architecture to be installed.
libraries() {
    local found
    for found in "$folder/gpulock" "$folder/libgpulock.so"; do
        readelf --wide --dynamic --version-info "$found"
    done | awk '
        /\(NEEDED\)/ {
            name = $NF
            gsub(/[][]/, "", name)
            if (name ~ /^(libc|libm|libdl|libpthread|librt|ld-linux.*)\.so\./) package = "libc6"
            else if (name == "libgcc_s.so.1") package = "libgcc-s1"
            else { print "unknown library: " name >"/dev/stderr"; exit 1 }
            print package, 0
        }
        match($0, /Name: GLIBC_[0-9.]+/) { print "libc6", substr($0, RSTART + 12, RLENGTH - 12) }
        match($0, /Name: GCC_[0-9.]+/) {
            version = substr($0, RSTART + 10, RLENGTH - 10)
            # Debian has the symbols of GCC_4.2.0 since 4.2.
            sub(/^4\.2\.0$/, "4.2", version)
            print "libgcc-s1", version
        }
        ' | sort -k1,1 -k2,2V | awk '
        $1 != package { if (package) printf "%s (>= %s), ", package, version }
        { package = $1; version = $2 }
        END { printf "%s (>= %s)\n", package, version }'
}

# Fills the staging folder from the repository and the compiled files.
fill() {
    local writer
    writer=$(writer)
    mkdir -p "$stage"/{built,completions/{bash,zsh,fish}}
    cp "$folder"/{libgpulock.so,gpulock} "$stage/built"
    cp -R deploy/{debian,conf.d,prometheus,grafana} docs README.md CHANGELOG.md redis.conf "$stage"
    cp deploy/systemd/{exporter.env,gpulock-job@.service} "$stage"
    cp deploy/systemd/gpulock-exporter.service "$stage/debian/gpulock.gpulock-exporter.service"
    rm -rf "$stage"/docs/{benchmarks,pictures}
    tools/notices.py >"$stage/THIRD-PARTY-NOTICES"
    "$writer" man "$stage/man" >/dev/null
    "$writer" completions bash >"$stage/completions/bash/gpulock"
    "$writer" completions zsh >"$stage/completions/zsh/_gpulock"
    "$writer" completions fish >"$stage/completions/fish/gpulock.fish"
    cat >"$stage/debian/changelog" <<CHANGELOG
gpulock ($version-1) unstable; urgency=medium

  * GPULOCK $version. Its changes are listed in changelog.gz.

 -- $(sed -n 's/^Maintainer: //p' deploy/debian/control)  $(date --utc --rfc-email --date="@$epoch")
CHANGELOG
}

# Modes must not depend on those of the checkout.
umask 022
LIBRARIES=$(libraries)
fill
chmod -R u=rwX,go=rX "$stage"
eval "$(dpkg-architecture -a "$architecture" -s 2>/dev/null)"
[ "$DEB_HOST_ARCH" = "$DEB_BUILD_ARCH" ] || "$DEB_HOST_GNU_TYPE-strip" --version >/dev/null 2>&1 ||
    fail "$DEB_HOST_GNU_TYPE-strip does not run: install binutils-${DEB_HOST_GNU_TYPE/_/-}"
export LIBRARIES SOURCE_DATE_EPOCH=$epoch
(cd "$stage" && debian/rules binary) >"$temporary/log" 2>&1 ||
    { cat "$temporary/log" >&2; fail "debhelper failed"; }
if lintian --version >/dev/null 2>&1; then
    # Older and newer releases of lintian do not know all tags of the overrides.
    lintian --allow-root --suppress-tags alien-tag --fail-on error,warning "$temporary/$name" >&2 ||
        fail "lintian rejects $name"
else
    echo "SKIPPED: package.sh: lintian is not installed; run tools/setup.sh deb" >&2
fi
mkdir -p "$built/debian"
cp "$temporary/$name" "$built/debian/$name"
echo "$built/debian/$name"

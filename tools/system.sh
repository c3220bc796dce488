#!/bin/bash
# Creates a minimal system of a Debian or Ubuntu release with debootstrap, as a tar archive:
#
#     tools/system.sh SUITE TAR       for example: tools/system.sh bookworm target/bookworm.tar
#
# Does nothing if TAR exists. The signature of the release is checked with the keys of the package
# debian-archive-keyring or ubuntu-archive-keyring. The system's sources of packages are `main` (on
# Ubuntu also `universe`), with the updates and the security updates; it has no package lists.
# debootstrap runs in namespaces of its own, so its mounts and processes end with the script. Requires root
# and debootstrap. Mirrors: DEBIAN_MIRROR (otherwise that of this machine's apt) and UBUNTU_MIRROR;
# without these, debootstrap's default.
set -euo pipefail

fail() { echo "system.sh: $*" >&2; exit 1; }

# Debian's mirror in the configuration of apt, if it has one.
mirror_of_debian() { # debian|debian-security
    # shellcheck disable=SC2016 # apt expands $(REPO_URI)
    { apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null || true; } |
        { grep "/$1/*\$" || true; } | sed -n 1p
}

write_sources() {
    local sources=$base/etc/apt/sources.list security
    mirror=$(awk '$1 == "deb" { print $2; exit }' "$sources")
    mirror=${mirror%/}
    if [ "$kind" = ubuntu ]; then
        printf "deb $mirror $suite%s main universe\n" "" -updates -security >"$sources"
    else
        security=$(mirror_of_debian debian-security)
        printf "deb $mirror $suite%s main\n" "" -updates >"$sources"
        echo "deb ${security:-${mirror%/debian}/debian-security} $suite-security main" >>"$sources"
    fi
}

if [ "${1:-}" != inside ]; then
    [ $# -eq 2 ] || fail "requires a suite and the path of the archive"
    [ ! -f "$2" ] || exit 0
    [ "$(id -u)" -eq 0 ] || fail "requires root: it creates a system of another release"
    command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
    exec unshare --mount --pid --fork --kill-child "$0" inside "$@"
fi

suite=$2 tar=$3
base=$tar.folder log=$tar.log
script=$(readlink -e "/usr/share/debootstrap/scripts/$suite") ||
    fail "debootstrap does not know the release $suite"
case ${script##*/} in
    gutsy) kind=ubuntu mirror=${UBUNTU_MIRROR:-} ;;
    *) kind=debian mirror=${DEBIAN_MIRROR:-$(mirror_of_debian debian)} ;;
esac
keys=/usr/share/keyrings/$kind-archive-keyring.gpg
[ -f "$keys" ] || fail "$keys is missing: apt-get install $kind-archive-keyring (on Ubuntu: ubuntu-keyring)"
trap 'rm -rf --one-file-system "$base" "$tar.part"' EXIT
trap 'exit 130' INT TERM HUP
mkdir -p "$(dirname "$tar")"
rm -rf --one-file-system "$base"
debootstrap --variant=minbase --force-check-gpg --keyring="$keys" "$suite" "$base" ${mirror:+"$mirror"} \
    >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "debootstrap failed: see $log"; }
write_sources
rm -rf "$base"/var/lib/apt/lists/*
tar -C "$base" -cf "$tar.part" .
mv "$tar.part" "$tar"
rm "$log"

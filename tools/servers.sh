#!/bin/bash
# Downloads several releases of Redis and Valkey from Debian's archive. Each is unpacked into its own
# folder, and none is installed:
#
#     tools/servers.sh [DEST [NAME...]]     default: target/servers, all names in the table
#
# DEST/NAME/{server,cli,benchmark} start them. Needs no root, and takes about a minute and 350 MB.
# apt downloads and verifies the packages, with a separate state for each release, from the mirror
# that this machine uses (or from DEBIAN_MIRROR).
#
# With DEBIAN_ARCH=arm64, the servers are those of another processor, and qemu emulates it: install
# qemu-user-static.
set -euo pipefail
cd "$(dirname "$0")/.."

# name         brand   suites of its packages
table="redis-7.0      redis   bookworm
redis-8.0      redis   trixie
redis-8.0-sid  redis   sid
valkey-8.0     valkey  bookworm bookworm-backports
valkey-8.1     valkey  trixie
valkey-9       valkey  sid"

fail() { echo "servers.sh: $*" >&2; exit 1; }
for tool in apt-get apt-cache dpkg; do
    "$tool" --version >/dev/null 2>&1 || fail "$tool is missing: this script requires Debian or one of its derivatives"
done

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keyring" ] ||
    fail "$keyring, with which apt verifies Debian's packages, is missing: install debian-archive-keyring"

arch=${DEBIAN_ARCH:-$(dpkg --print-architecture)}
emulator=
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    [ "$arch" = arm64 ] || fail "cannot emulate DEBIAN_ARCH=$arch: expected arm64"
    emulator=qemu-aarch64-static
    "$emulator" --version >/dev/null 2>&1 || fail "$emulator is missing: install qemu-user-static"
fi

mkdir -p "${1:-target/servers}"
dest=$(cd "${1:-target/servers}" && pwd)
[ $# -eq 0 ] || shift
names=${*:-$(awk '{print $1}' <<<"$table")}

# apt with this machine's settings (proxies, keys), but with other sources and a separate state.
apt() { # TOOL STATE-FOLDER ARGUMENT...
    local tool=$1 state=$2
    shift 2
    "$tool" -q -o APT::Architecture="$arch" -o APT::Architectures="$arch" \
        -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::Cache="$state" \
        -o APT::Sandbox::User= -o APT::Get::List-Cleanup=false -o APT::Update::Error-Mode=any \
        -o APT::Update::Post-Invoke-Success::= -o Acquire::Languages=none -o Acquire::Retries=3 \
        "$@"
}

# Downloads the package lists of the suites, from the first mirror that has them.
update() { # STATE-FOLDER SUITE...
    local state=$1 mirror suite mirrors
    shift
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    : >"$state/status"
    # Without release info, which a new machine lacks before the first apt-get update. indextargets
    # reads both /etc/apt/sources.list and *.sources.
    # shellcheck disable=SC2016 # apt expands $(REPO_URI)
    mirrors=${DEBIAN_MIRROR:-$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' | awk '!seen[$0]++')}
    [ -n "$mirrors" ] || fail "found no mirror in the configuration of apt: set DEBIAN_MIRROR to a Debian mirror"
    for mirror in $mirrors; do
        for suite; do
            echo "deb [signed-by=$keyring] $mirror $suite main"
        done >"$state/sources.list"
        apt apt-get "$state" update >"$state/log" 2>&1 && return
    done
    cat "$state/log" >&2
    fail "no mirror in the configuration of apt has $*: set DEBIAN_MIRROR to a Debian mirror"
}

bring() { # NAME BRAND SUITE...
    local name=$1 brand=$2 state=$dest/.apt/$1 root=$dest/$1/root packages loader tool
    shift 2
    update "$state" "$@"
    # Includes all libraries and libc, because a server from sid does not run with an older libc.
    packages=$(apt apt-cache "$state" depends --recurse --no-recommends --no-suggests \
        --no-conflicts --no-breaks --no-replaces --no-enhances "$brand-server" "$brand-tools" |
        grep -E "^($brand-server|$brand-tools|lib|lua-|zlib)" | grep -v ':' | sort -u)
    rm -rf "$root"
    mkdir -p "$root" "$state/debs"
    # shellcheck disable=SC2086 # a list of names
    (cd "$state/debs" && apt apt-get "$state" download $packages >"$state/log" 2>&1) ||
        { cat "$state/log" >&2; fail "cannot download the packages of $name"; }
    for tool in "$state"/debs/*.deb; do dpkg -x "$tool" "$root"; done
    rm -rf "$state"

    loader=$(find "$root" -name 'ld-linux*.so.*' -printf '%P\n' | head -1)
    [ -n "$loader" ] || fail "the packages of $name contain no dynamic loader"
    for tool in server cli benchmark; do
        cat >"$dest/$name/$tool.part" <<WRAPPER
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/root
for folder in "\$root"/usr/lib/*-linux-gnu* "\$root"/lib/*-linux-gnu*; do
    libraries=\${libraries:+\$libraries:}\$folder
done
# exec keeps the pid, so the caller knows that of the server.
exec $emulator "\$root/$loader" --argv0 $brand-$tool --library-path "\$libraries" "\$root/usr/bin/$brand-$tool" "\$@"
WRAPPER
        chmod +x "$dest/$name/$tool.part"
    done
    "$dest/$name/server.part" --version >/dev/null || fail "$name does not start"
    # Moved into place after the test; the server last, because the next run checks for it.
    for tool in cli benchmark server; do mv "$dest/$name/$tool.part" "$dest/$name/$tool"; done
}

for name in $names; do
    row=$(awk -v name="$name" '$1 == name' <<<"$table")
    [ -n "$row" ] || fail "unknown server $name; available: $(awk '{printf "%s ", $1}' <<<"$table")"
    # shellcheck disable=SC2086 # a row of words
    "$dest/$name/server" --version >/dev/null 2>&1 || bring $row
    echo "$name: $("$dest/$name/server" --version | cut -d' ' -f1-3)"
done
rm -rf "$dest/.apt"

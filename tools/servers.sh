#!/bin/bash
# Brings Redis and Valkey servers of several releases onto this machine, out of Debian's
# archive, each unpacked into a folder of its own; nothing is installed:
#
#     tools/servers.sh [DEST [NAME...]]     DEST: target/servers; NAMEs: all of the table
#
# DEST/NAME/{server,cli,benchmark} start them. Needs no root, about a minute and 350 MB.
# apt itself fetches and verifies, with a state of its own per release, from the mirror
# that this machine's apt uses (or from DEBIAN_MIRROR).
set -euo pipefail
cd "$(dirname "$0")/.."

# name            brand   where its packages come from
table="redis-7.0      redis   bookworm
redis-8.0      redis   trixie
redis-8.0-sid  redis   sid
valkey-8.0     valkey  bookworm bookworm-backports
valkey-8.1     valkey  trixie
valkey-9       valkey  sid"

fail() { echo "servers.sh: $*" >&2; exit 1; }
for tool in apt-get apt-cache dpkg; do
    "$tool" --version >/dev/null 2>&1 || fail "$tool is missing: this works on Debian and its kin only"
done

mkdir -p "${1:-target/servers}"
dest=$(cd "${1:-target/servers}" && pwd)
[ $# -eq 0 ] || shift
names=${*:-$(awk '{print $1}' <<<"$table")}

# apt as it is set up here (proxies, keys), but with other sources and nothing shared.
apt() { # TOOL STATE-FOLDER ARGUMENT...
    local tool=$1 state=$2
    shift 2
    "$tool" -q -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::Cache="$state" \
        -o APT::Sandbox::User= -o APT::Get::List-Cleanup=false -o APT::Update::Error-Mode=any \
        -o APT::Update::Post-Invoke-Success::= -o Acquire::Languages=none -o Acquire::Retries=3 \
        "$@"
}

# The package lists of the suites that a server needs, from the first mirror that has them.
update() { # STATE-FOLDER SUITE...
    local state=$1 mirror suite mirrors
    shift
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    : >"$state/status"
    # Release info is there only after an apt-get update, and a fresh machine had none.
    # indextargets reads /etc/apt/sources.list and *.sources alike.
    mirrors=${DEBIAN_MIRROR:-$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' | awk '!seen[$0]++')}
    [ -n "$mirrors" ] || fail "apt knows no mirror: set DEBIAN_MIRROR to one of Debian's"
    for mirror in $mirrors; do
        for suite; do
            echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
        done >"$state/sources.list"
        apt apt-get "$state" update >"$state/log" 2>&1 && return
    done
    cat "$state/log" >&2
    fail "none of apt's mirrors has $*: set DEBIAN_MIRROR to one of Debian's"
}

bring() { # NAME BRAND SUITE...
    local name=$1 brand=$2 state=$dest/.apt/$1 root=$dest/$1/root packages loader tool
    shift 2
    update "$state" "$@"
    # The libraries come along, libc too: a server of sid does not run on an older one.
    packages=$(apt apt-cache "$state" depends --recurse --no-recommends --no-suggests \
        --no-conflicts --no-breaks --no-replaces --no-enhances "$brand-server" "$brand-tools" |
        grep -E "^($brand-server|$brand-tools|lib|lua-)" | grep -v ':' | sort -u)
    rm -rf "$root"
    mkdir -p "$root" "$state/debs"
    # shellcheck disable=SC2086 # a list of names
    (cd "$state/debs" && apt apt-get "$state" download $packages >"$state/log" 2>&1) ||
        { cat "$state/log" >&2; fail "cannot download the packages of $name"; }
    for tool in "$state"/debs/*.deb; do dpkg -x "$tool" "$root"; done
    rm -rf "$state"

    loader=$(find "$root" -name 'ld-linux*.so.*' -printf '%P\n' | head -1)
    [ -n "$loader" ] || fail "$name came without a loader"
    for tool in server cli benchmark; do
        cat >"$dest/$name/$tool.part" <<WRAPPER
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/root
for folder in "\$root"/usr/lib/*-linux-gnu* "\$root"/lib/*-linux-gnu*; do
    libraries=\${libraries:+\$libraries:}\$folder
done
# exec: who starts this knows the server's pid.
exec "\$root/$loader" --argv0 $brand-$tool --library-path "\$libraries" "\$root/usr/bin/$brand-$tool" "\$@"
WRAPPER
        chmod +x "$dest/$name/$tool.part"
    done
    "$dest/$name/server.part" --version >/dev/null || fail "$name does not start"
    # In place only when all is well, the server last: it is what the next run looks for.
    for tool in cli benchmark server; do mv "$dest/$name/$tool.part" "$dest/$name/$tool"; done
}

for name in $names; do
    row=$(awk -v name="$name" '$1 == name' <<<"$table")
    [ -n "$row" ] || fail "no server $name; there are:" $(awk '{print $1}' <<<"$table")
    # shellcheck disable=SC2086 # a row of words
    "$dest/$name/server" --version >/dev/null 2>&1 || bring $row
    echo "$name: $("$dest/$name/server" --version | cut -d' ' -f1-3)"
done
rm -rf "$dest/.apt"

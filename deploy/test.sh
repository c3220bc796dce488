#!/bin/bash
# Tests the files in deploy/ with the programs that read them, after `make build`. Creates the
# package, unpacks it, and tests its files: units, snippet, module, programs. Prints a line for each
# part: ok, or SKIPPED with what this machine lacks. GPULOCK_SERVER is the server program to test
# with. deploy/try-package.sh tests the package with the servers of several releases of Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$PWD/target/tools/prometheus/usr/bin
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The unpacked package.
root=$folder/root
deb=

fail() { echo "deploy/test.sh: $*" >&2; exit 1; }
skipped=
skip() { skipped=yes; echo "SKIPPED: deploy/test.sh: $*" >&2; }
# Whether a program runs, not only whether its file exists.
runs() { "$1" --version >/dev/null 2>&1; }

test_alerts() {
    runs promtool || { skip "alerts: promtool does not run; run tools/setup.sh cli"; return; }
    promtool check rules deploy/prometheus/gpulock.rules.yml
    promtool check config --syntax-only deploy/prometheus/prometheus.yml
    promtool test rules deploy/prometheus/gpulock.rules.test.yml
    # Each alert has a test in which it fires.
    local alert
    # shellcheck disable=SC2013 # names without spaces
    for alert in $(sed -n 's/^ *- alert: //p' deploy/prometheus/gpulock.rules.yml); do
        grep -A1 "alertname: $alert\$" deploy/prometheus/gpulock.rules.test.yml |
            grep -q 'exp_alerts:$' || fail "no test in which $alert fires"
    done
}

# Creates and unpacks the package. Checks the paths and modes of its files, and its dependencies.
test_package() {
    runs dpkg-deb || { skip "the package: dpkg-deb is not installed"; return; }
    dh_assistant --help >/dev/null 2>&1 ||
        { skip "the package: debhelper is not installed; run tools/setup.sh deb"; return; }
    local file mode depends expected brand
    deb=$(deploy/package.sh | tail -n 1)
    dpkg-deb -x "$deb" "$root"
    dpkg-deb -e "$deb" "$root/DEBIAN"
    # A server rejects a module that is not executable.
    while read -r mode file; do
        [ "$(stat -c %a "$root/$file" 2>/dev/null)" = "$mode" ] ||
            fail "missing in the package, or its mode is not $mode: $file"
    done <<FILES
755 usr/bin/gpulock
755 usr/lib/gpulock/libgpulock.so
644 etc/gpulock/conf.d/gpulock.conf
600 etc/gpulock/exporter.env
644 usr/lib/systemd/system/gpulock-exporter.service
644 usr/share/man/man1/gpulock.1.gz
644 usr/share/man/man1/gpulock-exporter.1.gz
644 usr/share/bash-completion/completions/gpulock
644 usr/share/zsh/vendor-completions/_gpulock
644 usr/share/fish/vendor_completions.d/gpulock.fish
644 usr/share/doc/gpulock/copyright
644 usr/share/doc/gpulock/README.md
644 usr/share/doc/gpulock/docs/commands.md
644 usr/share/doc/gpulock/examples/redis.conf
644 usr/share/doc/gpulock/examples/prometheus/gpulock.rules.yml
FILES
    for brand in redis valkey; do
        [ "$(realpath "$root/usr/lib/$brand/modules/gpulock.so")" = "$(realpath "$root/usr/lib/gpulock/libgpulock.so")" ] ||
            fail "usr/lib/$brand/modules/gpulock.so is not a link to the module"
    done
    # package.sh determines the dependencies without dpkg-shlibdeps, which must find the same.
    mkdir -p "$folder/libraries/debian"
    printf 'Source: gpulock\n\nPackage: gpulock\nArchitecture: any\n' >"$folder/libraries/debian/control"
    expected=$(cd "$folder/libraries" && dpkg-shlibdeps -O --warnings=0 \
        -e"$root/usr/bin/gpulock" -e"$root/usr/lib/gpulock/libgpulock.so")
    depends=$(dpkg-deb -f "$deb" Depends)
    [ "shlibs:Depends=$depends" = "$expected" ] ||
        fail "the package depends on $depends, but dpkg-shlibdeps finds $expected"
}

# Without a package: copies the files from their sources.
without_package() {
    local built
    built=$(tools/target.sh)/release
    mkdir -p "$root"/{usr/{bin,lib/gpulock,lib/systemd/system,share},etc/gpulock/conf.d}
    cp "$built/gpulock" "$root/usr/bin"
    cp "$built/libgpulock.so" "$root/usr/lib/gpulock"
    cp deploy/conf.d/gpulock.conf "$root/etc/gpulock/conf.d"
    cp deploy/systemd/gpulock-exporter.service "$root/usr/lib/systemd/system"
}

test_units() {
    runs systemd-analyze || { skip "units: systemd-analyze is not installed"; return; }
    # Unchanged, except for commands and manual pages that are not installed here.
    local unit exposed
    for unit in "$root"/usr/lib/systemd/system/*.service deploy/systemd/gpulock-job@.service; do
        sed -e "s#/usr/bin/gpulock#\"$root&\"#" -e '/^Documentation=/d' \
            "$unit" >"$folder/${unit##*/}"
        systemd-analyze verify "$folder/${unit##*/}" || fail "$unit"
    done
    exposed=$(systemd-analyze security --offline=true --threshold=20 \
        "$folder/gpulock-exporter.service") || fail "the sandbox of the exporter is too weak: $exposed"
}

# A server starts with the package's snippet, which loads the package's module, the package's
# command connects to it, and a lock survives a restart.
test_snippet() {
    local server=${GPULOCK_SERVER:-} shown pid
    local url=unix://$folder/socket gpulock=$root/usr/bin/gpulock
    [ -n "$server" ] || server=$(tools/setup.sh which)
    # The commented-out settings must be valid, too.
    sed -e "s#/usr/lib/gpulock/libgpulock.so#\"$root&\"#" -e 's/^# \(gpulock\.\)/\1/' \
        "$root/etc/gpulock/conf.d/gpulock.conf" >"$folder/gpulock.conf"
    mkdir -p "$folder/data"
    cat >"$folder/redis.conf" <<CONF
appendonly no
include "$folder/gpulock.conf"
CONF
    start_server
    shown=$("$gpulock" run --key gpu:0 --url "$url" -- printenv GPULOCK_KEYS 2>&1) ||
        server_fails "gpulock run: $shown"
    [ "$shown" = gpu:0 ] || server_fails "gpulock run printed: $shown"
    shown=$("$gpulock" reserve --key gpu:0 --for 10m --url "$url" 2>&1) ||
        server_fails "gpulock reserve: $shown"
    stop_server
    start_server
    shown=$("$gpulock" inspect gpu:0 --exit-code --url "$url" 2>&1) ||
        server_fails "the lock did not survive a restart: $shown"
    stop_server
}

start_server() {
    local tries
    "$server" "$folder/redis.conf" --port 0 --unixsocket "$folder/socket" --dir "$folder/data" \
        >"$folder/log" 2>&1 </dev/null &
    pid=$!
    for ((tries = 0; tries < 600; tries++)); do
        grep -q 'Ready to accept connections\|accept connections at' "$folder/log" && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    server_fails "the server did not start"
}

stop_server() {
    kill "$pid"
    wait "$pid" || true
}

server_fails() {
    kill "$pid" 2>/dev/null || true
    cat "$folder/log" >&2
    fail "the snippet: $*"
}

test_completions_and_manual() {
    local gpulock=$root/usr/bin/gpulock
    "$gpulock" completions bash >"$folder/gpulock.bash"
    bash -n "$folder/gpulock.bash"
    local words
    # shellcheck disable=SC2016 # the inner shell expands it
    words=$(PATH="$root/usr/bin:$PATH" bash -c '. "$1"
        COMP_LINE="gpulock expo" COMP_POINT=12 COMP_WORDS=(gpulock expo) COMP_CWORD=1
        _gpulock gpulock expo gpulock
        echo "${COMPREPLY[@]}"' - "$folder/gpulock.bash")
    [ "$words" = exporter ] || fail "bash completes \"gpulock expo\" to \"$words\""
    local shell
    for shell in zsh fish; do
        "$gpulock" completions "$shell" >"$folder/$shell"
        if runs "$shell"; then "$shell" -n "$folder/$shell"; else skip "completions: $shell is not installed"; fi
    done

    local page warnings
    "$gpulock" man "$folder/man"
    for page in gpulock gpulock-exporter; do
        [ -s "$folder/man/$page.1" ] || fail "no page $page.1: $(ls "$folder/man")"
    done
    runs man || { skip "the manual: man is not installed"; return; }
    for page in "$folder"/man/*.1; do
        warnings=$(LC_ALL=C.UTF-8 man --warnings -l "$page" 2>&1 >/dev/null)
        [ -z "$warnings" ] || fail "$page: $warnings"
    done
}

# dpkg installs the package, keeps changed settings, and leaves no file behind when it is purged.
# Uses a separate root folder, which has no libc6 and needs no permissions.
test_installation() {
    [ -n "$deb" ] || { skip "the installation: no package was created"; return; }
    local root=$folder/installed file
    local settings=$root/etc/gpulock/exporter.env
    mkdir -p "$root"/var/lib/dpkg/{info,updates}
    touch "$root/var/lib/dpkg/status"
    # The scripts of the package must not reload this machine's systemd.
    mkdir "$folder/stubs"
    ln -s "$(type -P true)" "$folder/stubs/systemctl"
    ln -s "$(type -P true)" "$folder/stubs/deb-systemd-invoke"
    in_root() {
        # dpkg needs ldconfig, which may not be in a user's PATH.
        PATH=$folder/stubs:$PATH:/usr/sbin:/sbin dpkg --root="$root" --log="$folder/dpkg.log" \
            --force-not-root --force-script-chrootless --force-depends "$@" \
            >"$folder/dpkg" 2>&1 </dev/null ||
            fail "dpkg $*: $(cat "$folder/dpkg")"
    }
    has_status() {
        in_root -s gpulock
        grep -qx "Status: $1" "$folder/dpkg" || fail "not \"$1\": $(cat "$folder/dpkg")"
    }

    in_root -i "$deb"
    has_status 'install ok installed'
    for file in conf.d/gpulock.conf exporter.env; do
        grep -q "^ /etc/gpulock/$file " "$folder/dpkg" || fail "no conf-file: $file"
    done
    "$root/usr/bin/gpulock" --version
    [ "$(stat -c %a "$settings")" = 600 ] || fail "$settings is readable by others"

    echo '# changed' >>"$settings"
    in_root -i "$deb"
    is_unchanged() { [ "$(tail -1 "$settings")" = '# changed' ]; }
    is_unchanged || fail "a reinstallation overwrote exporter.env"
    mkdir "$root/etc/redis"
    echo 'include /etc/gpulock/conf.d/gpulock.conf' >"$root/etc/redis/redis.conf"
    in_root -r gpulock
    grep -q 'etc/redis/redis.conf still loads the module' "$folder/dpkg" ||
        fail "no warning of a server that still loads the module: $(cat "$folder/dpkg")"
    rm -r "$root/etc/redis"
    has_status 'deinstall ok config-files'
    is_unchanged || fail "a removal deleted or changed exporter.env"
    [ ! -e "$root/usr" ] || fail "left after the removal: $(find "$root/usr")"
    in_root -P gpulock
    for file in usr etc; do
        [ ! -e "$root/$file" ] || fail "left after the purge: $(find "$root/$file")"
    done
}

for part in package alerts units snippet completions_and_manual installation; do
    skipped=
    "test_$part"
    [ "$part" != package ] || [ -n "$deb" ] || without_package
    [ -n "$skipped" ] || echo "deploy/test.sh: $part: ok"
done

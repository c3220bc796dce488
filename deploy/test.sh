#!/bin/bash
# Tests what is in deploy/ with the programs that read it, after `make build`. What is not
# on this machine is said to be SKIPPED. GPULOCK_SERVER is the server program to test with.
set -euo pipefail
cd "$(dirname "$0")/.."
built=${CARGO_TARGET_DIR:-target}/release
PATH=$PATH:$PWD/target/tools/prometheus/usr/bin:$PWD/target/tools/bin
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() { echo "deploy/test.sh: $*" >&2; exit 1; }
skip() { echo "SKIPPED: deploy/test.sh: $*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

test_alerts() {
    has promtool || { skip "alerts: no promtool here; tools/setup.sh cli brings it"; return; }
    promtool check rules deploy/prometheus/gpulock.rules.yml
    promtool check config --syntax-only deploy/prometheus/prometheus.yml
    promtool test rules deploy/prometheus/gpulock.rules.test.yml
    # An alert without a test would be one that nobody saw come.
    local alert
    for alert in $(sed -n 's/^ *- alert: //p' deploy/prometheus/gpulock.rules.yml); do
        grep -A1 "alertname: $alert\$" deploy/prometheus/gpulock.rules.test.yml |
            grep -q 'exp_alerts:$' || fail "no test in which $alert comes"
    done
}

test_units() {
    has systemd-analyze || { skip "units: no systemd-analyze here"; return; }
    # As they are, but for commands and pages that are not installed here.
    local unit exposed
    for unit in deploy/systemd/*.service; do
        sed -e "s#/usr/bin/gpulock#$(realpath "$built")/gpulock#" -e '/^Documentation=/d' \
            "$unit" >"$folder/${unit##*/}"
        systemd-analyze verify "$folder/${unit##*/}" || fail "$unit"
    done
    exposed=$(systemd-analyze security --offline=true --threshold=20 \
        "$folder/gpulock-exporter.service") || fail "the exporter is exposed: $exposed"
}

# A server takes the snippet, and the module with it.
test_snippet() {
    local module server=${GPULOCK_SERVER:-} pid tries
    [ -n "$server" ] || server=$(tools/setup.sh which)
    module=${GPULOCK_MODULE:-$(realpath "$built")/libgpulock.so}
    sed "s#/usr/lib/gpulock/libgpulock.so#$module#" deploy/conf.d/gpulock.conf >"$folder/gpulock.conf"
    # The settings that are comments have to be right as well.
    sed -i 's/^# \(gpulock\.\)/\1/' "$folder/gpulock.conf"
    echo "include $folder/gpulock.conf" >"$folder/redis.conf"
    "$server" "$folder/redis.conf" --port 0 --unixsocket "$folder/socket" --save '' \
        --dir "$folder" >"$folder/log" 2>&1 </dev/null &
    pid=$!
    for ((tries = 0; tries < 600; tries++)); do
        grep -q 'Ready to accept connections\|accept connections at' "$folder/log" && break
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    local shown
    shown=$("$built/gpulock" ls --url "unix://$folder/socket" 2>&1) ||
        { kill "$pid" 2>/dev/null; cat "$folder/log" >&2; fail "the snippet: $shown"; }
    kill "$pid"
    wait "$pid" || true
}

test_completions_and_manual() {
    "$built/gpulock" completions bash >"$folder/gpulock.bash"
    bash -n "$folder/gpulock.bash"
    local words
    words=$(bash -c ". $folder/gpulock.bash
        COMP_WORDS=(gpulock expo) COMP_CWORD=1
        _gpulock gpulock expo gpulock
        echo \"\${COMPREPLY[@]}\"")
    [ "$words" = exporter ] || fail "bash completes \"gpulock expo\" to \"$words\""
    local shell
    for shell in zsh fish; do
        "$built/gpulock" completions "$shell" >"$folder/$shell"
        if has "$shell"; then "$shell" -n "$folder/$shell"; else skip "$shell's completions: no $shell here"; fi
    done

    "$built/gpulock" man "$folder/man"
    [ -s "$folder/man/gpulock.1" ] && [ -s "$folder/man/gpulock-exporter.1" ] ||
        fail "pages are missing: $(ls "$folder/man")"
    has man || { skip "the manual: no man here"; return; }
    local page said
    for page in "$folder"/man/*.1; do
        said=$(LC_ALL=C.UTF-8 man --warnings -l "$page" 2>&1 >/dev/null)
        [ -z "$said" ] || fail "$page: $said"
    done
}

# The package has what it should, each where it should be.
test_package() {
    has cargo-deb || { skip "the package: no cargo-deb here; make deb brings it"; return; }
    has dpkg-deb || { skip "the package: no dpkg-deb here"; return; }
    local file mode
    deb=$(deploy/package.sh | tail -1)
    dpkg-deb -x "$deb" "$folder/root"
    dpkg-deb -e "$deb" "$folder/root/DEBIAN"
    while read -r mode file; do
        [ "$(stat -c %a "$folder/root/$file" 2>/dev/null)" = "$mode" ] ||
            fail "not in the package, or not $mode: $file"
    done <<FILES
755 usr/bin/gpulock
644 usr/lib/gpulock/libgpulock.so
644 etc/gpulock/conf.d/gpulock.conf
600 etc/gpulock/exporter.env
644 usr/lib/systemd/system/gpulock-exporter.service
644 usr/share/man/man1/gpulock.1.gz
644 usr/share/man/man1/gpulock-exporter.1.gz
644 usr/share/bash-completion/completions/gpulock
644 usr/share/zsh/vendor-completions/_gpulock
644 usr/share/fish/vendor_completions.d/gpulock.fish
644 usr/share/doc/gpulock/copyright
644 usr/share/doc/gpulock/examples/redis.conf
FILES
}

# dpkg takes the package, keeps what the administrator wrote, and leaves nothing behind. It
# does so in a root of its own, which has no libc6 and needs no rights.
test_installation() {
    [ -n "${deb:-}" ] || { skip "the installation: there is no package"; return; }
    has dpkg || { skip "the installation: no dpkg here"; return; }
    local root=$folder/installed file
    local settings=$root/etc/gpulock/exporter.env
    mkdir -p "$root"/var/lib/dpkg/{info,updates}
    touch "$root/var/lib/dpkg/status"
    in_root() {
        # It wants ldconfig to be there, which a user's PATH may not have.
        PATH=$PATH:/usr/sbin:/sbin dpkg --root="$root" --log="$folder/dpkg.log" \
            --force-not-root --force-depends "$@" >"$folder/dpkg" 2>&1 </dev/null ||
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
    [ "$(stat -c %a "$settings")" = 600 ] || fail "others may read $settings"

    echo '# written here' >>"$settings"
    in_root -i "$deb"
    is_as_written() { [ "$(tail -1 "$settings")" = '# written here' ]; }
    is_as_written || fail "installed again, it took what was written in exporter.env"
    in_root -r gpulock
    has_status 'deinstall ok config-files'
    is_as_written || fail "removed, it took what was written in exporter.env"
    [ ! -e "$root/usr" ] || fail "left when it was removed: $(find "$root/usr")"
    in_root -P gpulock
    [ ! -e "$root/usr" ] && [ ! -e "$root/etc" ] ||
        fail "left when it was purged: $(find "$root" -not -path '*/var/*')"
}

for part in alerts units snippet completions_and_manual package installation; do
    "test_$part"
    echo "deploy/test.sh: $part: well"
done

#!/bin/bash
# Tests what is in deploy/ with the programs that read it, after `make build`. It makes the
# package, unpacks it, and tests the files that were in it: units, snippet, module, programs.
# What cannot be tested on this machine is SKIPPED. GPULOCK_SERVER is the server program to
# test with.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$PWD/target/tools/prometheus/usr/bin
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The unpacked package.
root=$folder/root
deb=

fail() { echo "deploy/test.sh: $*" >&2; exit 1; }
skip() { echo "SKIPPED: deploy/test.sh: $*" >&2; }
# Whether a program starts, not only whether there is a file of its name.
runs() { "$1" --version >/dev/null 2>&1; }

test_alerts() {
    runs promtool || { skip "alerts: promtool does not run here; tools/setup.sh cli brings it"; return; }
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

# Makes the package and unpacks it. It has the files that it should, each where it should be
# and with the right mode, and depends on the libraries that they load.
test_package() {
    runs dpkg-deb || { skip "the package: a package is made on Debian and its kin only"; return; }
    local file mode depends
    deb=$(deploy/package.sh | tail -n 1)
    dpkg-deb -x "$deb" "$root"
    dpkg-deb -e "$deb" "$root/DEBIAN"
    # A server refuses a module that is not executable.
    while read -r mode file; do
        [ "$(stat -c %a "$root/$file" 2>/dev/null)" = "$mode" ] ||
            fail "not in the package, or not $mode: $file"
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
644 usr/share/doc/gpulock/examples/redis.conf
FILES
    depends=$(dpkg-deb -f "$deb" Depends)
    [[ $depends == *'libc6 (>='* ]] ||
        fail "the package depends on \"$depends\", not on libc6 (>= ...)"
}

# Without a package: the files that it would have, from where it takes them.
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
    runs systemd-analyze || { skip "units: systemd-analyze does not run here"; return; }
    # As they are, but for commands and pages that are not installed here.
    local unit exposed
    for unit in "$root"/usr/lib/systemd/system/*.service deploy/systemd/gpulock-job@.service; do
        sed -e "s#/usr/bin/gpulock#$root/usr/bin/gpulock#" -e '/^Documentation=/d' \
            "$unit" >"$folder/${unit##*/}"
        systemd-analyze verify "$folder/${unit##*/}" || fail "$unit"
    done
    exposed=$(systemd-analyze security --offline=true --threshold=20 \
        "$folder/gpulock-exporter.service") || fail "the exporter is exposed: $exposed"
}

# A server starts from the package's snippet, which loads the package's module, and the
# package's command reaches it.
test_snippet() {
    local server=${GPULOCK_SERVER:-} pid tries shown
    [ -n "$server" ] || server=$(tools/setup.sh which)
    # The settings that are comments have to be right as well.
    sed -e "s#/usr/lib/gpulock/#$root/usr/lib/gpulock/#" -e 's/^# \(gpulock\.\)/\1/' \
        "$root/etc/gpulock/conf.d/gpulock.conf" >"$folder/gpulock.conf"
    echo "include $folder/gpulock.conf" >"$folder/redis.conf"
    "$server" "$folder/redis.conf" --port 0 --unixsocket "$folder/socket" --save '' \
        --dir "$folder" >"$folder/log" 2>&1 </dev/null &
    pid=$!
    for ((tries = 0; tries < 600; tries++)); do
        grep -q 'Ready to accept connections\|accept connections at' "$folder/log" && break
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    shown=$("$root/usr/bin/gpulock" ls --url "unix://$folder/socket" 2>&1) ||
        { kill "$pid" 2>/dev/null; cat "$folder/log" >&2; fail "the snippet: $shown"; }
    shown=$("$root/usr/bin/gpulock" run --key gpu:0 --url "unix://$folder/socket" \
        -- printenv GPULOCK_KEYS 2>&1) ||
        { kill "$pid"; cat "$folder/log" >&2; fail "gpulock run: $shown"; }
    kill "$pid"
    wait "$pid" || true
    [ "$shown" = gpu:0 ] || fail "gpulock run printed: $shown"
}

test_completions_and_manual() {
    local gpulock=$root/usr/bin/gpulock
    "$gpulock" completions bash >"$folder/gpulock.bash"
    bash -n "$folder/gpulock.bash"
    local words
    words=$(bash -c ". $folder/gpulock.bash
        COMP_WORDS=(gpulock expo) COMP_CWORD=1
        _gpulock gpulock expo gpulock
        echo \"\${COMPREPLY[@]}\"")
    [ "$words" = exporter ] || fail "bash completes \"gpulock expo\" to \"$words\""
    local shell
    for shell in zsh fish; do
        "$gpulock" completions "$shell" >"$folder/$shell"
        if runs "$shell"; then "$shell" -n "$folder/$shell"; else skip "$shell's completions: $shell does not run here"; fi
    done

    local page said
    "$gpulock" man "$folder/man"
    for page in gpulock gpulock-exporter; do
        [ -s "$folder/man/$page.1" ] || fail "no page $page.1: $(ls "$folder/man")"
    done
    runs man || { skip "the manual: man does not run here"; return; }
    for page in "$folder"/man/*.1; do
        said=$(LC_ALL=C.UTF-8 man --warnings -l "$page" 2>&1 >/dev/null)
        [ -z "$said" ] || fail "$page: $said"
    done
}

# dpkg takes the package, keeps what the administrator wrote, and leaves nothing behind. It
# does so in a root of its own, which has no libc6 and needs no rights.
test_installation() {
    [ -n "$deb" ] || { skip "the installation: there is no package"; return; }
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
    for file in usr etc; do
        [ ! -e "$root/$file" ] || fail "left when it was purged: $(find "$root/$file")"
    done
}

test_package
[ -n "$deb" ] || without_package
echo "deploy/test.sh: package: ok"
for part in alerts units snippet completions_and_manual installation; do
    "test_$part"
    echo "deploy/test.sh: $part: ok"
done

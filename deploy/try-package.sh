#!/bin/bash
# Tests the Debian package in minimal systems of several releases of Debian and Ubuntu, with their
# own servers, and prints a line for each result:
#
#     deploy/try-package.sh [SUITE...]       default: bookworm trixie noble
#
# Creates the package (or takes that of PACKAGE=FILE), installs it, and executes the command blocks
# of deploy/README.md that need root. With each server: a lock survives a restart and a kill, data
# that the server had is kept, and CONFIG REWRITE, an upgrade, a removal and a purge do what the README
# says. Without systemd, a program in its place starts the servers as their units do: ExecStart, User,
# Group, UMask, RuntimeDirectory, LimitNOFILE (as far as allowed), NoNewPrivileges, ProtectSystem,
# ReadWritePaths, NoExecPaths and ExecPaths. The other settings of the units are not applied, such as
# SystemCallFilter, MemoryDenyWriteExecute and PrivateUsers.
#
# Requires root, and debootstrap for a suite whose system SUITE.tar is not in the folder ROOTS
# (default: target/roots, where it is kept for the next run).
# Mirrors: as for tools/system.sh.
set -euo pipefail

fail() { echo "try-package.sh: $*" >&2; exit 1; }

## Outside: prepares a system for each suite

# A later version of the package, with changes to both files in /etc.
later_version() { # PACKAGE FOLDER
    dpkg-deb -R "$1" "$2/later"
    sed -i 's/^Version: .*/&.1/' "$2/later/DEBIAN/control"
    sed -i '1i # Changed by the upgrade.' "$2/later/etc/gpulock/conf.d/gpulock.conf" "$2/later/etc/gpulock/exporter.env"
    dpkg-deb -b -Zgzip -z1 --root-owner-group "$2/later" "$2/later.deb" >/dev/null
    rm -rf "$2/later"
}

# Runs a part of this script in a system. Its processes and mounts end together with `unshare`.
enter() { # ROOT [OPTION-OF-UNSHARE] PART SUITE
    local root=$1 options=()
    shift
    while [[ $1 == -* ]]; do options+=("$1"); shift; done
    unshare --mount --pid --fork --kill-child --root="$root" --mount-proc "${options[@]}" \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
        LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive bash /try/try-package.sh "$@" </dev/null
}

try_suite() { # SUITE
    local root=$work/$1
    tools/system.sh "$1" "$roots/$1.tar" || return
    mkdir -p "$root"
    tar -C "$root" -xf "$roots/$1.tar"
    mkdir -p "$root/try"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    cp "$package" "$work/later.deb" deploy/README.md deploy/try-package.sh "$root/try"
    enter "$root" install-servers "$1" && enter "$root" --net try-servers "$1"
}

outside() {
    cd "$(dirname "$0")/.."
    [ "$(id -u)" -eq 0 ] || fail "requires root: it creates and enters systems of other releases"
    roots=${ROOTS:-target/roots}
    package=${PACKAGE:-$(deploy/package.sh | tail -n 1)}
    work=$(mktemp -d)
    trap 'rm -rf --one-file-system "$work"' EXIT
    later_version "$package" "$work"
    [ $# -gt 0 ] || set -- bookworm trixie noble
    local suite failed=
    for suite; do
        try_suite "$suite" || failed="$failed $suite"
        rm -rf --one-file-system "${work:?}/$suite"
    done
    [ -z "$failed" ] || fail "failed:$failed"
}

## In place of systemd

unit_values() { # SETTING
    sed -n "s/^$1=//p" "/lib/systemd/system/$unit.service"
}

stop_unit() {
    local pid
    pid=$(cat "/try/$unit.pid" 2>/dev/null) || return 0
    kill -TERM "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    rm -f "/try/$unit.pid"
}

# The file system as the unit sees it: everything is read-only and not executable, except for
# ReadWritePaths and ExecPaths.
restrict_files() { # FOLDER
    local path
    mount --bind / "$1"
    mount -o remount,bind,ro,noexec "$1"
    mount --rbind /proc "$1/proc"
    for path in $(unit_values ReadWritePaths) $(unit_values ReadWriteDirectories) "/run/$runtime" /tmp; do
        path=${path#-}
        [ -d "$path" ] || continue
        path=$(realpath "$path")
        mount --bind "$path" "$1$path"
        mount -o remount,bind,rw,noexec "$1$path"
    done
    for path in $(unit_values ExecPaths); do
        path=$(realpath "$path")
        mount --bind "$path" "$1$path"
        mount -o remount,bind,ro "$1$path"
    done
}

# Runs in a mount namespace.
run_unit() {
    local user group command
    user=$(unit_values User)
    group=$(unit_values Group)
    read -ra command <<<"$(unit_values ExecStart)"
    mkdir -p /try/files
    [ -z "$(unit_values ProtectSystem)" ] || restrict_files /try/files
    umask "$(unit_values UMask)"
    ulimit -n "$(unit_values LimitNOFILE)" 2>/dev/null || ulimit -n "$(ulimit -Hn)"
    exec setpriv --no-new-privs chroot --userspec="$user:$group" /try/files "${command[@]}"
}

start_unit() {
    local brand=${unit%-server} tries
    install -d -o "$(unit_values User)" -g "$(unit_values Group)" -m "$(unit_values RuntimeDirectoryMode)" "/run/$runtime"
    : >"/try/$unit.log"
    truncate --no-create --size 0 "/var/log/$brand/$unit.log"
    setsid unshare --mount --propagation unchanged bash /try/try-package.sh run-unit "$unit" >"/try/$unit.log" 2>&1 </dev/null &
    echo $! >"/try/$unit.pid"
    for ((tries = 0; tries < 600; tries++)); do
        [ "$("$brand-cli" ping 2>&1)" != PONG ] || return 0
        kill -0 $! 2>/dev/null || break
        sleep 0.05
    done
    cat "/try/$unit.log" "/var/log/$brand/$unit.log" >&2
    return 1
}

systemctl() { # ACTION UNIT
    unit=$2
    runtime=$(unit_values RuntimeDirectory)
    case $1 in
        start) start_unit ;;
        stop) stop_unit ;;
        restart) stop_unit; start_unit ;;
        *) fail "systemctl $*: unknown action" ;;
    esac
}

## Inside: the steps with each server

# Runs a step, and prints its line.
step() { # DESCRIPTION FUNCTION ARGUMENT...
    local description=$1 output
    shift
    # In a shell of its own, so that `set -e` applies.
    if output=$(bash /try/try-package.sh step "$brand" "$@" 2>&1); then
        echo "$suite, $server: $description: ok"
    else
        echo "$suite, $server: $description: FAILED"
        printf '%s\n' "$output" | tail -30 >&2
        exit 1
    fi
}

# Prints the commands of a block of the README for the brand: the n-th one that this script executes.
block() { # NUMBER
    awk -v wanted="$1" '
        /^<!-- not executed: .*try-package.sh executes it/ { number++; waits = 1 }
        /^```$/ { inside = 0 }
        inside && number == wanted
        /^```sh$/ && waits { inside = 1; waits = 0 }' /try/README.md | sed "s/redis/$brand/g"
}

readonly install_block=1 server_block=2 copy_block=3 removal_block=4

execute() { # NUMBER
    local commands
    commands=$(block "$1")
    [ -n "$commands" ] || fail "deploy/README.md has no block $1"
    cd /try
    eval "set -x; $commands"
    { set +x; } 2>/dev/null
}

cli() { "$brand-cli" "$@"; }

expect() { # EXPECTED COMMAND...
    local expected=$1 output
    shift
    output=$("$@" 2>&1) || true
    [[ $output == *"$expected"* ]] || fail "$*: expected $expected, found: $output"
}

has_lock() { expect "$1" cli GPULOCK.INSPECT gpu_lock:0; }
configuration() { echo "/etc/$brand/$brand.conf"; }

write_data() {
    systemctl start "$brand-server"
    cli SET other data
    systemctl restart "$brand-server"
    expect data cli GET other
    cp -p "$(configuration)" /try/original.conf
}

install_package() {
    execute "$install_block"
    gpulock --version
}

# Without the first commands of the block, the server starts empty. Its data is not lost.
add_only_line() {
    systemctl stop "$brand-server"
    cp -p "/var/lib/$brand/dump.rdb" /try/dump.rdb
    eval "$(block "$server_block" | grep '^ *echo ')"
    systemctl start "$brand-server"
    expect 0 cli DBSIZE
    systemctl stop "$brand-server"
    cmp "/var/lib/$brand/dump.rdb" /try/dump.rdb
    cp -p /try/original.conf "$(configuration)"
    systemctl start "$brand-server"
    expect data cli GET other
}

add_line() {
    execute "$server_block"
    expect data cli GET other
    expect noeviction cli CONFIG GET maxmemory-policy
    expect yes cli CONFIG GET appendonly
    expect gpulock cli MODULE LIST
}

lock_survives() {
    cli GPULOCK.ACQUIRE gpu_lock:0 me EX 3600
    systemctl restart "$brand-server"
    has_lock me
    expect data cli GET other
}

lock_survives_kill() {
    kill -KILL "$(cat "/try/$brand-server.pid")"
    systemctl restart "$brand-server"
    has_lock me
}

# The log says why the server does not start.
does_not_start() { # REASON
    local output
    systemctl stop "$brand-server"
    ! output=$(systemctl start "$brand-server" 2>&1) || fail "the server starts"
    [[ $output == *"$1"* ]] || fail "the log does not contain \"$1\": $output"
}

rewrite_included() {
    cp -p "$(configuration)" /try/included.conf
    cli CONFIG REWRITE
    does_not_start "Can't load module from /usr/lib/gpulock/libgpulock.so"
    cp -p /try/included.conf "$(configuration)"
    systemctl start "$brand-server"
}

rewrite_copied() {
    cp -p /try/original.conf "$(configuration)"
    execute "$copy_block"
    systemctl restart "$brand-server"
    expect OK cli CONFIG SET gpulock.max-hold 7200000
    expect OK cli CONFIG REWRITE
    systemctl restart "$brand-server"
    expect 7200000 cli CONFIG GET gpulock.max-hold
    has_lock me
    cp -p /try/included.conf "$(configuration)"
    systemctl restart "$brand-server"
}

modules_folder() {
    cp -p /try/original.conf "$(configuration)"
    printf 'loadmodule /usr/lib/%s/modules/gpulock.so\nappendonly yes\n' "$brand" >>"$(configuration)"
    systemctl restart "$brand-server"
    has_lock me
    cp -p /try/included.conf "$(configuration)"
    systemctl restart "$brand-server"
}

# Also shows that the restrictions of the unit are applied here.
module_elsewhere() {
    cp -p /try/original.conf "$(configuration)"
    install -m 755 /usr/lib/gpulock/libgpulock.so /opt/libgpulock.so
    echo 'loadmodule /opt/libgpulock.so' >>"$(configuration)"
    does_not_start 'failed to map segment from shared object'
    rm /opt/libgpulock.so
    cp -p /try/included.conf "$(configuration)"
    systemctl start "$brand-server"
}

# The server is running. dpkg must not ask.
upgrade() {
    echo 'gpulock.warn-hold 4321' >>/etc/gpulock/conf.d/gpulock.conf
    apt-get install -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold /try/later.deb
    dpkg-query --status gpulock | grep -q '^Version: .*\.1$'
    has_lock me
    grep -q '^gpulock.warn-hold 4321' /etc/gpulock/conf.d/gpulock.conf
    [ -e /etc/gpulock/conf.d/gpulock.conf.dpkg-dist ]
    grep -q 'Changed by the upgrade' /etc/gpulock/exporter.env
    [ "$(stat -c %a /etc/gpulock/exporter.env)" = 600 ]
    systemctl restart "$brand-server"
    expect 4321 cli CONFIG GET gpulock.warn-hold
    has_lock me
}

remove_too_early() {
    expect "$(configuration) still loads the module" apt-get remove -y gpulock
    has_lock me
    does_not_start "Can't load module from /usr/lib/gpulock/libgpulock.so"
    apt-get install -y /try/later.deb
    systemctl start "$brand-server"
    has_lock me
    grep -q '^gpulock.warn-hold 4321' /etc/gpulock/conf.d/gpulock.conf
}

remove_as_documented() {
    local output
    output=$(execute "$removal_block" 2>&1) || fail "$output"
    [[ $output != *'still loads the module'* ]] || fail "a warning: $output"
    cmp "$(configuration)" /try/original.conf
    expect data cli GET other
    expect me cli GET gpu_lock:0
    expect 'unknown command' cli GPULOCK.INSPECT gpu_lock:0
}

nothing_left() {
    local left
    left=$(find / -xdev \( -path /proc -o -path /try -o -path /var/log -o -path /var/cache/apt \) -prune -o -name '*gpulock*' -print)
    [ -z "$left" ] || fail "left after the purge: $left"
    ! dpkg-query -W gpulock 2>/dev/null || fail "dpkg knows the package"
}

line_without_package() {
    echo 'include /etc/gpulock/conf.d/gpulock.conf' >>"$(configuration)"
    does_not_start "can't open config file '/etc/gpulock/conf.d/gpulock.conf'"
    cp -p /try/original.conf "$(configuration)"
    systemctl start "$brand-server"
    systemctl stop "$brand-server"
}

install_servers() { # SUITE
    local suite=$1 packages=(redis-server valkey-server)
    # Nothing starts during the installation.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    case $suite in
        bookworm)
            sed -n "s/ $suite main.*/ $suite-backports main/p" /etc/apt/sources.list | head -1 >/etc/apt/sources.list.d/backports.list
            packages=(redis-server valkey-server/bookworm-backports valkey-tools/bookworm-backports)
            ;;
    esac
    { apt-get update -q && apt-get install -y -q --no-install-recommends util-linux iproute2 "${packages[@]}"; } >/try/apt.log 2>&1 ||
        { tail -20 /try/apt.log >&2; fail "cannot install the servers of $suite"; }
}

try_servers() { # SUITE
    suite=$1
    local brand server version
    # A network of its own: port 6379 may be in use on this machine.
    ip link set lo up
    for brand in redis valkey; do
        version=$("$brand-server" --version | sed 's/.* v=\([0-9.]*\).*/\1/')
        server="$brand $version"
        if [ "$brand" = valkey ] && [ "${version%%.*}" -lt 8 ]; then
            echo "$suite, $server: SKIPPED: the module needs 8.0"
            continue
        fi
        step "the unit starts the server, which gets data" write_data
        step "install" install_package
        step "the line alone: the server starts empty; without it, the data is there again" add_only_line
        step "the line in $brand.conf loads the module; the data is kept" add_line
        step "a lock survives a restart" lock_survives
        step "a lock survives a kill of the server" lock_survives_kill
        step "after CONFIG REWRITE of a file with the line, the server does not start, and says why" rewrite_included
        step "with the lines copied instead, it starts" rewrite_copied
        step "the module loads from /usr/lib/$brand/modules" modules_folder
        step "the unit allows no module outside of /usr/lib" module_elsewhere
        step "upgrade: changes of the administrator are kept, the lock too" upgrade
        step "remove, with the line left: warns; the server does not start, and says why" remove_too_early
        step "remove as documented: the server starts without the module; the data is kept" remove_as_documented
        step "purge: nothing is left" nothing_left
        step "with the line, but no package, the server does not start, and says why" line_without_package
    done
}

case ${1:-} in
    install-servers) install_servers "$2" ;;
    try-servers) try_servers "$2" ;;
    step) brand=$2; shift 2; "$@" ;;
    run-unit)
        unit=$2
        runtime=$(unit_values RuntimeDirectory)
        run_unit
        ;;
    *) outside "$@" ;;
esac

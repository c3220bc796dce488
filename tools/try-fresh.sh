#!/bin/bash
# Tries `make run` and the start of `make test` on machines as they are: in minimal systems of
# Debian and Ubuntu releases, under several conditions. Prints one line for each result:
#
#     tools/try-fresh.sh [OPTION...] RELEASE...       for example: bookworm trixie noble jammy
#
#     -c CONDITION   one of the conditions below; can be repeated [default: all]
#     -s STEP        run, quick, or a shell command such as "make test"; can be repeated
#                    [default: run and quick]
#     -e NAME=VALUE  an environment variable for the steps; can be repeated. Builds are shorter with
#                    CARGO_PROFILE_RELEASE_LTO=off and CARGO_PROFILE_RELEASE_OPT_LEVEL=0
#     -f FOLDER      for the systems, caches and logs [default: target/fresh]
#     -l MINUTES     limit of each step [default: 60]
#     -r             reuse the dependencies that were compiled in the first system of a release,
#                    except redis-module, whose build script runs libclang: saves most of the time
#     -k             keep the systems after the run
#
# Steps:
#     run            start `make run`, run the commands that it prints with redis-cli (acquire,
#                    inspect and release a lock), stop it as Ctrl-C does
#     quick          tools/setup.sh (default sets), make lint, and the unit tests of the core
#
# Conditions. Each starts from a system by debootstrap (--variant=minbase, no package lists):
#     bare           as root, with make alone: no git, no certificates, no compiler
#     offline        then the steps again in the same system, with changed sources and no network
#     lookalikes     as root, with make, git, ca-certificates, gcc, libc6-dev, and programs that do
#                    not suffice: libclang-cpp without libclang, the release's own rustc and cargo,
#                    python3 without venv, redis-server on port 6379 with a password, and in
#                    /usr/local/bin Node.js 12, a KeyDB 6.3 named redis-server and a Valkey 7.2
#     libclang       as root, with make, git, ca-certificates, gcc, libc6-dev, and libclang without
#                    the compiler's headers
#     user           as an ordinary user without sudo, with make, git and ca-certificates
#     user-wheel     the same, with all packages for `make run` except libclang-dev, and python3-venv
#     user-ready     the same, after root has run tools/setup.sh in another checkout
#
# If a step fails and prints exactly one line with `apt-get install`, root runs that line (except in
# bare and offline); if it names a look-alike in /usr/local/bin, that program is removed. The step
# then has to succeed. The result line says what was done.
#
# The committed HEAD is cloned into each system. The systems share only apt's .deb files (of the same
# release), cargo's .crate files and, with -r, compiled dependencies: package lists and cargo's index
# are downloaded in each. They use the machine's network, so look-alikes also occupies its port 6379,
# and its own certificates (/usr/local/share/ca-certificates). Mounts and processes end with the
# script. Requires root, debootstrap, git and about 6 GB. Mirrors: as for tools/system.sh.
#
# shellcheck disable=SC2317 # functions are called by name, by a trap, and in other shells
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
all_conditions=(bare offline lookalikes libclang user user-wheel user-ready)

fail() { echo "try-fresh.sh: $*" >&2; exit 2; }

conditions=()
steps=()
environment=()
folder=target/fresh
limit=60
keep=
reuse=
while getopts :c:s:e:f:l:rk option; do
    case $option in
        c) conditions+=("$OPTARG") ;;
        s) steps+=("$OPTARG") ;;
        e) environment+=("$OPTARG") ;;
        f) folder=$OPTARG ;;
        l) limit=$OPTARG ;;
        r) reuse=yes ;;
        k) keep=yes ;;
        :) fail "option -$OPTARG requires a value" ;;
        *) fail "invalid option -$OPTARG; see the start of tools/try-fresh.sh" ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || fail "names no release, such as bookworm, trixie, noble or jammy"
[ ${#conditions[@]} -gt 0 ] || conditions=("${all_conditions[@]}")
[ ${#steps[@]} -gt 0 ] || steps=(run quick)
[[ $limit =~ ^[1-9][0-9]*$ ]] || fail "invalid limit \"$limit\": expected a number of minutes"
for condition in "${conditions[@]}"; do
    [[ " ${all_conditions[*]} " == *" $condition "* ]] ||
        fail "unknown condition $condition; available: ${all_conditions[*]}"
done

[ "$(id -u)" -eq 0 ] || fail "requires root: it creates and enters systems of other releases"
for program in debootstrap git unshare chroot flock ip; do
    command -v "$program" >/dev/null || fail "$program is missing: apt-get install debootstrap git util-linux iproute2"
done
unshare --mount --pid --fork true 2>/dev/null || fail "cannot create namespaces (unshare): run it outside of a container, or in a privileged one"

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
mkdir -p "$folder/logs"
exec 9>"$folder/lock"
flock -n 9 || fail "another try-fresh.sh uses $folder"

## Processes in a system

root= # the system in use
entered= # the process that entered it

leave() {
    [ -z "$entered" ] || { kill -KILL "$entered" && wait "$entered"; } 2>/dev/null || true
    entered=
}

# All mounts and processes of a system belong to namespaces that end with its first process.
clean_up() {
    leave
    [ -n "$keep" ] || [ -z "$root" ] || rm -rf --one-file-system "$root"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# In the system's namespaces: mounts what a system needs, and runs the command in it. This is the
# first process of the process namespace; it adopts and reaps orphans.
enter() { # ROOT NETWORK DEBS LIMIT USER COMMAND...
    local root=$1 network=$2 debs=$3 limit=$4 user=$5 device
    shift 5
    set -e
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs -o mode=755 dev "$root/dev"
    for device in null zero full random urandom tty; do
        : >"$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$root/dev/pts"
    mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    mount --bind "$debs" "$root/var/cache/apt/archives"
    [ "$network" = network ] || ip link set lo up
    set +e
    timeout -k 10 "${limit}m" chroot --userspec="$user:$user" "$root" "$@"
    exit $?
}

# Runs a command in the system, with the environment of a login.
inside() { # network|offline USER COMMAND...
    local network=$1 user=$2 home path=/usr/local/bin:/usr/bin:/bin
    shift 2
    home=$(home_of "$user")
    [ "$user" != root ] || path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    local namespaces=(--mount --pid --ipc --uts)
    [ "$network" = network ] || namespaces+=(--net)
    # The shell ignores SIGINT for a process in the background; tests send it to theirs.
    # shellcheck disable=SC2016 # for the other shell to expand
    unshare "${namespaces[@]}" --fork --kill-child bash -c "$(declare -f enter)"'; enter "$@"' enter \
        "$root" "$network" "$debs" "$limit" "$user" env -i --default-signal=INT,QUIT HOME="$home" USER="$user" LOGNAME="$user" \
        PATH="$path" LANG=C.UTF-8 SHELL=/bin/bash ${http_proxy:+http_proxy="$http_proxy"} \
        ${https_proxy:+https_proxy="$https_proxy"} ${no_proxy:+no_proxy="$no_proxy"} \
        "${environment[@]}" "$@" </dev/null &
    entered=$!
    local status=0
    wait "$entered" || status=$?
    entered=
    return "$status"
}

## Creating systems

# Creates $folder/RELEASE.tar, the system that all conditions start from.
create_base() { # RELEASE
    tools/system.sh "$1" "$folder/$1.tar" &
    entered=$!
    wait "$entered" || fail "cannot create a system of $1"
    entered=
}

# Creates the system of a condition, with the checkout of a user.
create() { # RELEASE CONDITION
    root=$folder/$1-$2
    debs=$folder/debs/$1
    rm -rf --one-file-system "$root"
    mkdir -p "$root" "$debs" "$folder/crates"
    tar -C "$root" -xf "$folder/$1.tar"
    # As in images: no package lists.
    rm -rf "$root"/var/lib/apt/lists/*
    # Nothing here has to survive a power failure.
    echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    echo "127.0.0.1 localhost" >"$root/etc/hosts"
    if compgen -G "/usr/local/share/ca-certificates/*.crt" >/dev/null; then
        mkdir -p "$root/usr/local/share/ca-certificates"
        cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates"
    fi
}

install() { # PACKAGE...
    # shellcheck disable=SC2016 # for the other shell to expand
    inside network root bash -c '
        apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
    ' install "$@"
}

# Writes a program that prints a text, whatever its arguments.
fake() { # PROGRAM TEXT
    printf '#!/bin/sh\necho "%s"\n' "$2" >"$root/usr/local/bin/$1"
    chmod +x "$root/usr/local/bin/$1"
}

# Installs the release's package with the highest number in its name.
install_newest() { # PREFIX
    # shellcheck disable=SC2016 # for the other shell to expand
    inside network root bash -c '
        package=$(apt-cache pkgnames "$1" | grep -E "^$1[0-9]+\$" | sort -V | tail -1)
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$package"
    ' install_newest "$1"
}

home_of() { # USER
    awk -F: -v user="$1" '$1 == user {print $6}' "$root/etc/passwd"
}

clone() { # USER
    local home
    home=$root$(home_of "$1")
    git clone -q --no-hardlinks "$repository" "$home/gpulock"
    mkdir -p "$home/.cargo/registry"
    cp -a "$folder/crates" "$home/.cargo/registry/cache"
    chown -R --reference="$home" "$home/gpulock" "$home/.cargo"
}

keep_crates() { # USER
    local home
    home=$root$(home_of "$1")
    cp -ru --no-preserve=ownership "$home/.cargo/registry/cache/." "$folder/crates" 2>/dev/null || true
}

# Keeps the compiled dependencies, without the one that uses libclang and without the repository's crates.
keep_compiled() { # RELEASE USER
    local built kept=$folder/compiled/$1
    built=$root$(home_of "$2")/gpulock/target/release
    [ -d "$built" ] && [ ! -d "$kept" ] || return 0
    mkdir -p "$kept"
    cp -a "$built"/{.fingerprint,build,deps} "$kept"
    find "$kept" -mindepth 2 -maxdepth 2 -regextype egrep \
        -regex '.*/(lib)?(redis[-_]module|gpulock)[^/]*' -exec rm -rf {} +
}

use_compiled() { # RELEASE USER
    local checkout kept=$folder/compiled/$1
    checkout=$root$(home_of "$2")/gpulock
    [ -d "$kept" ] || return 0
    mkdir -p "$checkout/target"
    cp -a "$kept" "$checkout/target/release"
    chown -R --reference="$checkout" "$checkout/target"
}

# Prepare a condition. Joined by &&, because they are called as a condition of `if`.
prepare_bare() { install make; }

prepare_lookalikes() {
    install make git ca-certificates gcc libc6-dev rustc cargo python3 redis-server &&
        install_newest libclang-cpp &&
        fake node v12.22.12 &&
        fake npm 'npm does not support Node.js v12.22.12' &&
        fake redis-server 'KeyDB server v=6.3.4 sha=00000000:0 malloc=libc bits=64 build=0' &&
        fake valkey-server 'Valkey server v=7.2.5 sha=00000000:0 malloc=libc bits=64 build=0'
}

prepare_libclang() {
    install make git ca-certificates gcc libc6-dev && install_newest libclang1-
}

prepare_user() {
    install make git ca-certificates &&
        inside network root useradd --create-home --shell /bin/bash someone
}

# In a checkout of root's, which the user cannot read.
prepare_user-wheel() {
    local packages
    prepare_user && clone root || return
    inside network root bash -c 'cd ~/gpulock && tools/setup.sh check build server >/tmp/packages'
    packages=$(tail -1 "$root/tmp/packages")
    # shellcheck disable=SC2086 # a list of names
    install ${packages/libclang-dev/} python3-venv
}

prepare_user-ready() {
    prepare_user && clone root && inside network root bash -c 'cd ~/gpulock && tools/setup.sh'
}

## Steps: these functions run in the system

# Starts `make run`, runs the commands that it prints, and stops it as Ctrl-C does.
step_run() {
    local output=/tmp/make-run.log make commands line reply replies=()
    local start=$SECONDS
    set -m
    make run 2>&1 | tee -i "$output" &
    make=$(jobs -p %%)
    until grep -q '^Try in another shell' "$output" && [ "$(grep -c '^  [a-z]*-cli ' "$output")" -ge 3 ]; do
        kill -0 "$make" 2>/dev/null || return 1
        sleep 0.2
    done
    mapfile -t commands < <(sed -n 's/^  \([a-z]*-cli .*\)/\1/p' "$output")
    local ping="${commands[0]%% GPULOCK*} PING" tries=0
    until [ "$($ping 2>/dev/null)" = PONG ]; do
        if [ $((tries += 1)) -gt 150 ] || ! kill -0 "$make" 2>/dev/null; then
            echo "the server does not answer: $ping"
            kill -KILL -- "-$make"
            return 1
        fi
        sleep 0.2
    done
    for line in "${commands[@]}"; do
        reply=$(timeout 10 bash -c "$line" 2>&1)
        printf '%s\n%s\n' "\$ $line" "$reply"
        replies+=("${reply%%$'\n'*}")
    done
    echo "first lock after $((SECONDS - start)) s"
    kill -INT -- "-$make"
    tries=0
    while kill -0 -- "-$make" 2>/dev/null; do
        if [ $((tries += 1)) -gt 150 ]; then
            echo "make run does not end after Ctrl-C"
            kill -KILL -- "-$make"
            return 1
        fi
        sleep 0.2
    done
    if ! [[ ${replies[0]} =~ ^[1-9][0-9]*$ && ${replies[-1]} = 1 ]]; then
        echo "expected a token from ACQUIRE and 1 from RELEASE, got ${replies[0]} and ${replies[-1]}"
        return 1
    fi
}

step_quick() {
    tools/setup.sh && make lint && make -f Makefile -f - small-test <<'MAKE'
small-test:
	$(CARGO) test --locked -q -p gpulock-core
MAKE
}

## Conditions

# A server of another application on the default port. The program decides by its name what it is.
foreign_server() {
    local tries=0
    (exec -a redis-server redis-check-rdb --port 6379 --bind 127.0.0.1 --requirepass foreign --save "" --dir /tmp) \
        >/tmp/foreign.log 2>&1 &
    until (exec 3<>/dev/tcp/127.0.0.1/6379) 2>/dev/null; do
        [ $((tries += 1)) -le 50 ] || { cat /tmp/foreign.log; exit 1; }
        sleep 0.2
    done
}

# Runs a step in the system once. Its output is in $log.
attempt() { # network|offline USER CONDITION STEP
    local network=$1 user=$2 condition=$3 step=$4 command=$4
    case $step in
        run | quick) command="$(declare -f "step_$step"); step_$step" ;;
    esac
    [ "$condition" != lookalikes ] || command="$(declare -f foreign_server); foreign_server; $command"
    inside "$network" "$user" bash -c "cd ~/gpulock || exit; $command" >"$log" 2>&1
}

# Prints the line that root has to run, if there is exactly one.
line_for_root() {
    local lines
    mapfile -t lines < <(grep -oE 'apt-get (update|install) .*' "$log")
    [ ${#lines[@]} -eq 1 ] && echo "${lines[0]}"
}

in_the_way() {
    grep -oE '/usr/local/bin/[a-z-]+' "$log" | tail -1
}

failed=0
report() { # RELEASE CONDITION STEP RESULT SECONDS NOTE
    printf '%-9s %-11s %-10s %-7s %4d s  %s\n' "$@"
    [ "$4" = ok ] || failed=1
}

# Does what the output of a failed step asks for, and prints it. Fails if it asks for nothing.
remedy() { # CONDITION
    local line
    if [ "$1" != bare ] && [ "$1" != offline ] && line=$(line_for_root); then
        echo "root ran: $line"
        inside network root bash -c "$line" >>"${log%.log}.root.log" 2>&1
    elif [ "$1" = lookalikes ] && line=$(in_the_way) && [ -f "$root$line" ]; then
        echo "removed: $line"
        rm -f "$root$line"
    else
        return 1
    fi
}

# Runs a step, and again after what it asked for was done: once, or several times for look-alikes,
# which can be in the way one after another. Fails if the step fails.
try() { # RELEASE CONDITION STEP USER
    local release=$1 condition=$2 step=$3 user=$4 network=network result=FAILED note="" attempts=2 count
    local log=$folder/logs/$release-$condition-${step//[^a-z0-9]/-}.log start=$SECONDS
    rm -f "${log%.log}".*
    [ "$condition" != offline ] || network=offline
    [ "$condition" != lookalikes ] || attempts=5
    for ((count = 1; count <= attempts; count++)); do
        if attempt "$network" "$user" "$condition" "$step"; then result=ok; break; fi
        cp "$log" "${log%.log}.$count.log"
        if [ "$count" -eq "$attempts" ] || ! remedy "$condition" >"$folder/remedy"; then break; fi
        note+="; $(cat "$folder/remedy")"
    done
    if [ "$result" != ok ]; then
        note+="; $(grep -vE '^(make|\[)' "$log" | tail -1)"
    elif [ "$step" = run ]; then
        note="; $(grep '^first lock' "$log")$note"
    fi
    report "$release" "$condition" "$step" "$result" $((SECONDS - start)) "${note#; }"
    [ "$network" = offline ] || keep_crates "$user"
    [ "$result" = ok ]
}

wanted() { # CONDITION
    [[ " ${conditions[*]} " == *" $1 "* ]]
}

try_condition() { # RELEASE CONDITION
    local release=$1 condition=$2 user=root step passed=()
    [[ $condition != user* ]] || user=someone
    create "$release" "$condition"
    if ! "prepare_$condition" >"$folder/logs/$release-$condition.log" 2>&1; then
        report "$release" "$condition" - FAILED 0 "cannot be prepared: see $folder/logs/$release-$condition.log"
    else
        clone "$user"
        [ -z "$reuse" ] || use_compiled "$release" "$user"
        for step in "${steps[@]}"; do
            if try "$release" "$condition" "$step" "$user"; then passed+=("$step"); fi
        done
        [ -z "$reuse" ] || keep_compiled "$release" "$user"
        if [ "$condition" = bare ] && wanted offline; then
            find "$root/root/gpulock" -name target -prune -o -name '*.rs' -exec touch {} +
            for step in "${passed[@]}"; do try "$release" offline "$step" "$user" || true; done
        fi
    fi
    [ -n "$keep" ] || rm -rf --one-file-system "$root"
    root=
}

for release; do
    create_base "$release"
    for condition in "${all_conditions[@]}"; do
        case $condition in
            offline) continue ;;
            bare) wanted bare || wanted offline || continue ;;
            *) wanted "$condition" || continue ;;
        esac
        try_condition "$release" "$condition"
    done
done
exit "$failed"

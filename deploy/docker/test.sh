#!/bin/bash
# Builds the images in this folder, starts them with their entrypoints, and starts compose.yaml:
#
#     deploy/docker/test.sh             uses the output of `make build`
#     deploy/docker/test.sh --source    compiles in the build stage of the Dockerfile instead
#
# No registry of images is used. The base images are stand-ins for the official ones, with the
# programs of Debian 13 (test/Dockerfile). Settings:
#
#     ENTRYPOINTS=FOLDER   the entrypoint scripts of the official images, as the files redis, valkey
#                          and valkey-bundle [default: test/entrypoint.sh]
#     DEBIAN_MIRROR=URL    for debootstrap [default: that of this machine's apt]
#
# Requires root, podman with netavark and aardvark-dns, iptables, debootstrap and python3-venv.
# The programs of test/requirements.txt are installed to target/images/venv. The script runs in
# namespaces of its own, with a temporary storage of images: it leaves no process, mount, network or
# image behind, and uses no port of this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=deploy/docker
work=$(tools/target.sh)/images
version=$(tools/version.sh)
# With characters that have a meaning in URLs, in shells and in Compose.
password='a secret: 100%/@#'
PATH=$PATH:/usr/sbin:/sbin:$PWD/target/tools/prometheus/usr/bin

say() { echo "docker/test.sh: $*"; }
# With the containers and the ends of their logs.
fail() {
    local name
    echo "docker/test.sh: $*" >&2
    [ "${part-}" = run ] || exit 1
    podman ps -a >&2
    for name in $(podman ps -a --format '{{.Names}}'); do
        echo "--- log of $name" >&2
        podman logs --tail 20 "$name" >&2
    done
    exit 1
}

# Waits for up to a minute until a command succeeds.
await() { # WHAT COMMAND...
    local what=$1 end=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "timed out after 60 s waiting until $what"
        sleep 0.1
    done
}

## Set-up

require() {
    [ "$(id -u)" -eq 0 ] || fail "requires root, for containers and debootstrap"
    local program missing=()
    for program in podman debootstrap iptables unshare ip; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    for program in netavark aardvark-dns; do
        [ -x "/usr/lib/podman/$program" ] || missing+=("$program")
    done
    [ ${#missing[@]} -eq 0 ] || fail "missing: ${missing[*]}; to install them:" \
        "apt-get install podman crun netavark aardvark-dns iptables debootstrap iproute2 python3-venv"
}

install_tools() {
    tools/venv.sh "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/test/requirements.txt"
}

# The system of a Debian release, kept for the next run.
create_system() { # SUITE
    [ ! -f "$work/$1.tar" ] || return 0
    say "creates a system of $1"
    tools/system.sh "$1" "$work/$1.new.tar"
    # As the official images: without translations.
    mkdir -p "$work/settings/etc/apt/apt.conf.d"
    echo 'Acquire::Languages "none";' >"$work/settings/etc/apt/apt.conf.d/languages"
    tar -C "$work/settings" -rf "$work/$1.new.tar" ./etc/apt/apt.conf.d/languages
    mv "$work/$1.new.tar" "$work/$1.tar"
}

# podman with its own storage, networks and volumes, without cgroups and with the present limits: so
# it also works on machines that restrict both, as containers do.
configure_podman() { # FOLDER
    local driver=overlay
    mkdir -p "$1"/{lower,upper,index,merged} /run/netns
    mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/index" overlay "$1/merged" \
        2>/dev/null && umount "$1/merged" || driver=vfs
    # crun rejects some layouts of cgroups, even if it does not use them.
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mount -t tmpfs tmpfs /run/netns
    export CONTAINERS_STORAGE_CONF=$1/storage.conf CONTAINERS_CONF=$1/containers.conf
    cat >"$CONTAINERS_STORAGE_CONF" <<STORAGE
[storage]
driver = "$driver"
graphroot = "$1/storage"
runroot = "$1/run"
STORAGE
    cat >"$CONTAINERS_CONF" <<CONF
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=$(ulimit -Hu):$(ulimit -Hu)"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
static_dir = "$1/storage/libpod"
tmp_dir = "$1/run/libpod"
volume_path = "$1/volumes"
[network]
network_backend = "netavark"
network_config_dir = "$1/networks"
CONF
}

## Images

build() { # TAG DOCKERFILE TARGET ARGUMENT...
    local tag=$1 file=$2 target=$3 start=$SECONDS certificates=/usr/local/share/ca-certificates
    shift 3
    # The authorities that this machine trusts, for networks with a proxy that replaces certificates.
    [ ! -d "$certificates" ] || set -- -v "$certificates:$certificates:ro" "$@"
    podman build --isolation chroot --format docker --pull=never -f "$file" --target "$target" \
        -t "$tag" "$@" . >"$folder/log" 2>&1 ||
        { tail -n 50 "$folder/log" >&2; fail "cannot build $tag"; }
    say "built $tag in $((SECONDS - start)) s, $(podman image inspect --format '{{.Size}}' "$tag" |
        awk '{ printf "%d MB", $1 / 1e6 }')"
}

# The stand-ins have the names of the official images, which are the defaults of the Dockerfile.
build_stand_ins() {
    local name script
    podman import -q "$work/trixie.tar" docker.io/library/debian:trixie-slim >/dev/null
    mkdir "$folder/entrypoints"
    for name in redis valkey valkey-bundle; do
        script=$here/test/entrypoint.sh
        [ -z "${ENTRYPOINTS-}" ] || script=$ENTRYPOINTS/$name
        cp "$script" "$folder/entrypoints/$name"
    done
    stand_in() { build "$1" "$here/test/Dockerfile" "$2" --build-context "entrypoints=$folder/entrypoints"; }
    stand_in docker.io/library/redis:8 redis
    stand_in docker.io/valkey/valkey:9 valkey
    stand_in docker.io/valkey/valkey-bundle:9 valkey-bundle
    stand_in "$(image_of prometheus)" prometheus
}

# The image of a service in compose.yaml.
image_of() { # SERVICE
    awk -v service="  $1:" '$0 == service { found = 1 } found && $1 == "image:" { print $2; exit }' \
        "$here/compose.yaml"
}

build_images() {
    local target artefacts=()
    if [ -n "$from_source" ]; then
        podman import -q "$work/bookworm.tar" docker.io/library/debian:bookworm-slim >/dev/null
    else
        mkdir "$folder/artefacts"
        cp "$(tools/target.sh)"/release/{gpulock,libgpulock.so} "$folder/artefacts" ||
            fail "nothing to copy to the images: run make build first"
        tools/notices.py >"$folder/artefacts/THIRD-PARTY-NOTICES"
        artefacts=(--build-context "artefacts=$folder/artefacts")
    fi
    for target in command redis valkey valkey-bundle; do
        build "$(name_of "$target"):$version" "$here/Dockerfile" "$target" "${artefacts[@]}" \
            --build-arg "VERSION=$version"
    done
}

name_of() { # TARGET
    if [ "$1" = command ]; then echo gpulock; else echo "gpulock-$1"; fi
}

## Servers

# The container `server`: with a volume, and without a network. The tests connect from inside.
start_server() { # IMAGE-OR-OPTION...
    run_container --name server --network none -v locks:/data "$@"
}

# Without systemd, podman complains that it cannot check the health by itself.
run_container() {
    podman run -d "$@" >"$folder/log" 2>&1 || { cat "$folder/log" >&2; fail "cannot start $*"; }
}

cli() { podman exec server "$client" "$@"; }

is_healthy() { podman healthcheck run server; }

expect() { # WHAT EXPECTED FOUND
    [ "$2" = "$3" ] || fail "$1: expected \"$2\", found \"$3\""
}

expect_licences() { # CONTAINER
    podman exec "$1" cat /usr/share/doc/gpulock/LICENSE | cmp - LICENSE || fail "the container $1 has no LICENSE"
    podman exec "$1" grep -q '^serde ' /usr/share/doc/gpulock/THIRD-PARTY-NOTICES ||
        fail "the container $1 lacks the licences of the linked crates"
}

uid_of_server() { podman exec server awk '$1 == "Uid:" { print $2 }' /proc/1/status; }

# Stops the server as an orchestrator does. It ends by itself, before it is killed.
stop_server() {
    podman stop -t 20 server >/dev/null 2>&1
    expect "exit status of the server" 0 "$(podman wait server)"
    remove_server
}

remove_server() { podman rm server >/dev/null 2>&1; }

test_server() { # TARGET
    local brand=${1%-bundle} image token lease module
    image=$(name_of "$1"):$version
    client=$brand-cli
    expect "label of $image" "$version" \
        "$(podman image inspect --format '{{index .Labels "org.opencontainers.image.version"}}' "$image")"

    start_server "$image"
    await "$image is healthy" is_healthy
    expect "user of the server" 999 "$(uid_of_server)"
    module=$(cli MODULE LIST)
    expect "modules" 1 "$(grep -cx gpulock <<<"$module")"
    expect appendonly "appendonly yes" "$(cli CONFIG GET appendonly | xargs)"
    expect maxmemory-policy "maxmemory-policy noeviction" "$(cli CONFIG GET maxmemory-policy | xargs)"
    expect protected-mode "protected-mode no" "$(cli CONFIG GET protected-mode | xargs)"
    expect_licences server
    token=$(cli GPULOCK.ACQUIRE gpu:0 me EX 600)
    [[ $token =~ ^[0-9]{10,}$ ]] || fail "ACQUIRE returned: $token"
    podman kill -s KILL server >/dev/null
    podman wait server >/dev/null
    remove_server
    start_server "$image"
    await "the restarted server is healthy" is_healthy
    expect "owner after the restart" "owner me" "$(cli GPULOCK.INSPECT gpu:0 | sed -n 1,2p | xargs)"
    lease=$(cli TTL gpu:0)
    ((lease > 300 && lease <= 600)) || fail "the lease after the restart: $lease s"
    stop_server

    # A password in a file, and as an orchestrator with tight rules starts it.
    echo "requirepass \"$password\"" >"$folder/password.conf"
    echo "REDISCLI_AUTH=$password" >"$folder/server.env"
    chown 999 "$folder/password.conf"
    chmod 400 "$folder/password.conf"
    start_server --user 999:999 --read-only --cap-drop all \
        -v "$folder/password.conf:/etc/gpulock/password.conf:ro" --env-file "$folder/server.env" \
        "$image" "$brand-server" /etc/gpulock/server.conf --include /etc/gpulock/password.conf \
        --gpulock.default-lease 60000
    await "the server with a password is healthy" is_healthy
    expect "owner in the second container" me "$(cli GET gpu:0)"
    expect "a setting of the module" "gpulock.default-lease 60000" \
        "$(cli CONFIG GET gpulock.default-lease | xargs)"
    expect "without the password" "NOAUTH Authentication required." \
        "$(podman exec server env -u REDISCLI_AUTH "$client" PING 2>&1 | xargs)"
    stop_server

    # An empty password, as in compose.yaml without a setting.
    start_server -e REDISCLI_AUTH= "$image" "$brand-server" /etc/gpulock/server.conf --requirepass ""
    await "the server with an empty password is healthy" is_healthy
    stop_server

    start_server "$image" "$brand-server" --maxmemory 100mb
    await "the server replies" cli PING
    if [ "$1" = valkey-bundle ]; then
        # The entrypoint loads the module without the configuration file, too.
        await "the server without its configuration file is healthy" is_healthy
    else
        ! is_healthy >/dev/null || fail "a server without the module counts as healthy"
    fi
    stop_server
    podman volume rm locks >/dev/null
    say "$image: ok"
}

## The command

# gpulock is process 1 of its container: it forwards TERM to the job, releases the lock, and reaps
# orphaned processes.
test_worker() {
    client=redis-cli
    start_server "gpulock-redis:$version"
    await "the server is healthy" is_healthy
    # shellcheck disable=SC2016 # for the shell in the container
    run_container --name worker --network container:server "gpulock:$version" run --key gpu:0 \
        --owner job -- sh -c 'trap "echo got TERM; exit 7" TERM
            sh -c "(sleep 0.1; echo orphan ends) &"
            echo holds $GPULOCK_KEYS
            while :; do sleep 0.1; done'
    await "the job runs" grep_log worker "holds gpu:0"
    expect_licences worker
    expect "process 1" gpulock "$(podman exec worker cat /proc/1/comm)"
    expect "user of the command" 65534 "$(podman exec worker awk '$1 == "Uid:" { print $2 }' /proc/1/status)"
    [[ $(cli GET gpu:0) == job-* ]] || fail "the worker does not hold its lock: $(cli GPULOCK.INSPECT gpu:0)"
    await "the orphaned process ends" grep_log worker "orphan ends"
    await "the orphaned process is reaped" has_no_zombie
    podman kill -s TERM worker >/dev/null
    expect "exit status of the worker" 7 "$(podman wait worker)"
    grep_log worker "got TERM" || fail "the job got no TERM: $(podman logs worker 2>&1)"
    expect "the lock after TERM" "" "$(cli GET gpu:0)"
    podman rm worker >/dev/null

    # The module for another image, as an init container copies it.
    podman run --rm --network none -v module:/module --user 0 --entrypoint cp "gpulock:$version" \
        /usr/lib/gpulock/libgpulock.so /module/
    stop_server
    start_server -v module:/module docker.io/library/redis:8 redis-server --loadmodule /module/libgpulock.so
    await "a server with the copied module replies" cli -e GPULOCK.STATS
    stop_server
    podman volume rm module locks >/dev/null
    say "gpulock:$version: ok"
}

grep_log() { # CONTAINER PATTERN
    local log
    log=$(podman logs "$1" 2>&1) && grep -q "$2" <<<"$log"
}

has_no_zombie() {
    local states
    # A process can end while it is read.
    states=$(podman exec worker sh -c 'cat /proc/[0-9]*/stat 2>/dev/null || true') &&
        [ -n "$states" ] && ! grep -q ') Z ' <<<"$states"
}

## compose.yaml

test_files() {
    "$work/venv/bin/check-jsonschema" -q --builtin-schema vendor.compose-spec "$here/compose.yaml"
    if promtool --version >/dev/null 2>&1; then
        # With the rules beside it, as compose.yaml mounts them.
        cp "$here/prometheus.yml" deploy/prometheus/gpulock.rules.yml "$folder"
        promtool check config "$folder/prometheus.yml" >"$folder/log" ||
            { cat "$folder/log" >&2; fail "promtool rejects prometheus.yml"; }
    else
        echo "SKIPPED: docker/test.sh: prometheus.yml: promtool is not installed; run tools/setup.sh cli" >&2
    fi
    say "compose.yaml, prometheus.yml: valid"
}

compose() {
    GPULOCK_VERSION=$version GPULOCK_PASSWORD=$password "$work/venv/bin/podman-compose" \
        -f "$here/compose.yaml" "$@" >"$folder/log" 2>&1 ||
        { cat "$folder/log" >&2; fail "podman-compose $*"; }
}

# Whether the text at a URL contains a line that matches the pattern.
serves() { # URL PATTERN
    local text
    text=$(get "$1") && grep -qi "$2" <<<"$text"
}

get() { # URL
    python3 -c 'import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())' "$1"
}

is_scraped() {
    serves 'http://127.0.0.1:9090/api/v1/query?query=gpulock_up' '"instance":"server:6379".*"1"'
}

has_run_again() { # CONTAINER
    [ "$(podman logs "$1" 2>&1 | grep -c "running on gpu:0")" -ge 2 ]
}

# All services but Grafana, which Debian does not contain.
test_compose() {
    local start=$SECONDS worker
    compose up -d --no-build server exporter prometheus worker-asr worker-tts
    await "Prometheus scrapes the exporter" is_scraped
    say "compose: Prometheus has data $((SECONDS - start)) s after the start"
    serves http://127.0.0.1:9877/metrics '^gpulock_up{instance="server:6379"} 1' ||
        fail "the exporter does not export its server"
    serves http://127.0.0.1:9877/ '<html' || fail "the exporter serves no page"
    serves http://127.0.0.1:9090/api/v1/rules GpulockServerDown ||
        fail "Prometheus has not loaded the alerts"
    for worker in asr tts; do
        await "worker-$worker runs its job" grep_log "gpulock_worker-${worker}_1" "running on gpu:0"
    done
    say "compose: both workers had the lock $((SECONDS - start)) s after the start"
    await "a worker runs its next job" has_run_again gpulock_worker-asr_1
    "$here/test/dashboard.py" deploy/grafana/gpulock.json http://127.0.0.1:9090 60
    compose down -v
    [ -z "$(podman ps -aq)" ] || fail "compose left containers: $(podman ps -a)"
    say "compose.yaml: ok; not run: grafana"
}

## The parts of the script

from_source=
part=${1-}
case $part in
    "" | --source)
        [ -z "$part" ] || from_source=yes
        require
        mkdir -p "$work"
        install_tools
        create_system trixie
        [ -z "$from_source" ] || create_system bookworm
        folder=$(mktemp -d "$work/run.XXXXXX")
        trap 'rm -rf --one-file-system "$folder"' EXIT
        # Ends all processes and mounts with it.
        unshare --mount --pid --fork --kill-child --mount-proc "$here/test.sh" build "$folder" "$from_source"
        ;;
    build)
        folder=$2 from_source=$3
        configure_podman "$folder"
        test_files
        build_stand_ins
        build_images
        unshare --net "$here/test.sh" run "$folder"
        ;;
    run)
        folder=$2
        ip link set lo up
        for target in redis valkey valkey-bundle; do test_server "$target"; done
        test_worker
        test_compose
        ;;
    *) fail "unknown argument \"$part\": expected --source or nothing" ;;
esac

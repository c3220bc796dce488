#!/bin/bash
# Tests the manifests of this folder, after `make build`. `make kubernetes` calls it.
#
# Validates them against the schemas of the oldest and the newest supported Kubernetes, in which
# unknown fields are errors; checks names, labels and security, and that the users have the rules of
# docs/operations.md; and runs the containers as the manifests describe them, in namespaces of this
# machine instead of a cluster. Shows that wrong manifests fail. Running the containers needs root.
# GPULOCK_SERVER is the server program to test with, and GPULOCK_CLI its command-line client; default:
# the installed ones.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=deploy/kubernetes
tools=$PWD/target/tools/kubernetes
python=$tools/bin/python
manifests=("$here"/{namespace,server,network-policy,worker}.yaml)
# The first version in which the Job's podFailurePolicy is stable, and the newest one with a schema.
oldest=1.31
newest=1.37

fail() { echo "$here/test.sh: $*" >&2; exit 1; }
skip() { echo "SKIPPED: $here/test.sh: $*" >&2; }

prepare() {
    tools/venv.sh "$tools"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    "$here/secrets.sh" >"$work/secrets.yaml"
}

validate() { # VERSION FILE...
    local version=$1
    shift
    "$tools/bin/kubernetes-validate" --quiet --strict -k "$version" "$@" || return
    "$python" "$here/check_manifests.py" "$@"
}

# Each change makes a manifest wrong, and must be noticed.
test_wrong_manifests() {
    local file change expected output
    while IFS='|' read -r file change expected; do
        sed "$change" "$here/$file" >"$work/$file"
        ! cmp -s "$here/$file" "$work/$file" || fail "no line of $file matches $change"
        if output=$(validate "$newest" "${manifests[@]/#$here\/$file/$work/$file}" "$work/secrets.yaml" 2>&1); then
            fail "accepted: $change in $file"
        fi
        grep -q -e "$expected" <<<"$output" || fail "unexpected error for $change in $file: $output"
    done <<'CHANGES'
server.yaml|s/readOnlyRootFilesystem/readOnlyRootFilesytem/|readOnlyRootFilesytem
server.yaml|s/replicas: 1/replicas: one/|replicas
server.yaml|s/runAsNonRoot: true/runAsNonRoot: false/|runAsNonRoot
server.yaml|s/targetPort: metrics/targetPort: metric/|no container has the port
server.yaml|s/^        name: data/        name: date/|no volume data
worker.yaml|s/gpulock.client: "true"/gpulock.client: true/|gpulock.client
worker.yaml|s/gpulock.client: "true"/gpulock.client: "yes"/|no pod has the labels
worker.yaml|s/secretName: gpulock-worker/secretName: worker/|does not create the Secret
network-policy.yaml|s/podSelector:/podSelektor:/|podSelektor
CHANGES
}

# The images have the version of this repository.
test_versions() {
    local version
    version=$(tools/version.sh)
    ! grep -hn 'image: gpulock' "${manifests[@]}" | grep -v "image: gpulock:$version\$" ||
        fail "expected the version $version in the images"
    grep -q "newTag: $version\$" "$here/kustomization.yaml" ||
        fail "expected newTag: $version in kustomization.yaml"
}

# The users have the rules of docs/operations.md. `probe` is needed only here.
test_users() {
    local documented actual
    documented=$(sed -nE 's/^.*> ACL SETUSER ([a-z]+ on) >[^ ]+ /\1 /p' docs/operations.md)
    actual=$(sed -nE 's/^ *user ([a-z]+ on) #[0-9a-f]{64} /\1 /p' "$work/secrets.yaml")
    [ -n "$documented" ] || fail "found no ACL SETUSER in docs/operations.md"
    diff <(echo "$documented") <(echo "$actual") >&2 ||
        fail "the users of secrets.sh (>) differ from those of docs/operations.md (<)"
}

test_kustomization() {
    kubectl kustomize --help >/dev/null 2>&1 || { skip "kustomization.yaml: kubectl is not installed"; return; }
    kubectl kustomize "$here" >"$work/all.yaml"
    validate "$newest" "$work/all.yaml" "$here/worker.yaml" "$work/secrets.yaml"
    [ "$(grep -c '^  namespace: gpulock$' "$work/all.yaml")" -eq 6 ] ||
        fail "expected the namespace gpulock in all objects of kustomization.yaml"
}

test_pods() {
    [ "$(id -u)" -eq 0 ] || { skip "the containers: needs root"; return; }
    unshare --net --mount true 2>/dev/null || { skip "the containers: namespaces are not permitted here"; return; }
    local server cli built
    server=${GPULOCK_SERVER:-$(tools/setup.sh which)}
    cli=${GPULOCK_CLI:-$(type -P redis-cli || type -P valkey-cli)} ||
        fail "found no redis-cli: run tools/setup.sh server, or set GPULOCK_CLI"
    built=$(tools/target.sh)/release
    # A tmpfs, because the file system of a container may not contain that of its image.
    # shellcheck disable=SC2016 # the inner shell expands it
    unshare --net --mount --propagation private sh -c 'mount -t tmpfs tmpfs "$1" && shift && exec "$@"' - \
        "$work" "$python" "$here/test_pods.py" "$work" "$built/libgpulock.so" "$built/gpulock" \
        "$(realpath -s "$server")" "$(realpath -s "$cli")"
}

prepare
validate "$oldest" "${manifests[@]}" "$work/secrets.yaml"
validate "$newest" "${manifests[@]}" "$work/secrets.yaml"
test_wrong_manifests
test_versions
test_users
test_kustomization
test_pods

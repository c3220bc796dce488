#!/bin/bash
# Writes the bills of materials (SBOM, CycloneDX in JSON) of the module, the command and the Python
# package:
#
#     tools/release/sbom.sh TRIPLE DEST
#
# DEST contains the wheel, and each SBOM is named after its artefact. Those of the programs list the
# crates in Cargo.lock that are compiled for the triple, including those that only the build uses. That
# of the wheel lists its dependencies in the versions with which it is tested. Needs the network for
# the latter, and for the tools: cargo-cyclonedx and cyclonedx-bom, both of the CycloneDX project.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: sbom.sh TRIPLE DEST" >&2; exit 2; }
triple=$1
dest=$(realpath "$2")
cd "$(dirname "$0")/../.."
# shellcheck source=tools/release/lib.sh
. tools/release/lib.sh

version=$(tools/version.sh)
set_source_date
prepare_cyclonedx
prepare_python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# cargo-cyclonedx writes its files beside the manifests of all members, and absolute paths into them.
sbom_of_programs() {
    local name sources=$work/sources
    name=$version-linux-$(arch_of "$triple")
    mkdir "$sources"
    cp -r Cargo.toml Cargo.lock bench cli crates src tests "$sources"
    (cd "$sources" && "${CARGO:-cargo}" cyclonedx --quiet --quiet --format json --spec-version 1.5 --target "$triple")
    cmp -s Cargo.lock "$sources/Cargo.lock" || fail "Cargo.lock is not up to date: run cargo build"
    sed "s|file://$sources|file:///gpulock|g" "$sources/gpulock.cdx.json" >"$dest/libgpulock-$name.so.cdx.json"
    sed "s|file://$sources|file:///gpulock|g" "$sources/cli/gpulock-cli.cdx.json" >"$dest/gpulock-$name.cdx.json"
}

# The wheel is installed by name, because pip records the path of a file. The tool does not know where
# hatchling finds the version.
sbom_of_wheel() {
    local project=$work/pyproject.toml
    sed "s/^dynamic = \[\"version\"\]$/version = \"$version\"/" clients/python/pyproject.toml >"$project"
    "$python" -m venv --without-pip "$work/venv"
    "$python" -m pip --python "$work/venv" --quiet --disable-pip-version-check install \
        --find-links "$dest" --constraint clients/python/tests/requirements.txt "gpulock==$version"
    "$python" -m cyclonedx_py environment --output-reproducible --short-PURLs --mc-type library \
        --pyproject "$project" "$work/venv/bin/python" \
        >"$dest/gpulock-$version-py3-none-any.whl.cdx.json"
}

sbom_of_programs
sbom_of_wheel

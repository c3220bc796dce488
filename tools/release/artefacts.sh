#!/bin/bash
# Packages built programs as the artefacts of a release, for any processor:
#
#     tools/release/artefacts.sh TRIPLE BUILT [DEST]
#
# TRIPLE is the target of the build, such as aarch64-unknown-linux-gnu. BUILT is the folder with
# libgpulock.so and gpulock, as tools/release/build.sh prints it. DEST is replaced; its default is
# target/dist/gpulock-VERSION-linux-ARCH. Prints DEST on the last line. It then contains:
#
#     libgpulock-VERSION-linux-ARCH.so        the module
#     gpulock-VERSION-linux-ARCH              the command
#     gpulock-VERSION-linux-ARCH.tar.gz       both, with redis.conf, README.md, LICENSE and
#                                             THIRD-PARTY-NOTICES
#     gpulock_VERSION-REVISION_DEBARCH.deb    from deploy/package.sh
#     gpulock-VERSION-py3-none-any.whl, gpulock-VERSION.tar.gz    the Python package
#     THIRD-PARTY-NOTICES                     the licences of the linked crates (tools/notices.py)
#     *.cdx.json                              SBOMs of the module, the command and the wheel
#     SHA256SUMS                              checksums of all of these
#
# The same programs give the same artefacts, byte for byte, in every folder and at any time: all files
# have the date of the commit (or of SOURCE_DATE_EPOCH).
#
# For another processor, OBJDUMP must be an objdump that reads its programs, and deploy/package.sh says
# what it needs.
set -euo pipefail
[ $# -eq 2 ] || [ $# -eq 3 ] || { echo "usage: artefacts.sh TRIPLE BUILT [DEST]" >&2; exit 2; }
triple=$1
built=$(realpath -m "$2")
dest=${3:+$(realpath -m "$3")}
cd "$(dirname "$0")/../.."
# shellcheck source=tools/release/lib.sh
. tools/release/lib.sh

for file in libgpulock.so gpulock; do
    [ -f "$built/$file" ] || fail "$built contains no $file: expected the folder that build.sh prints"
done
dest=${dest:-$(dist_folder "$triple")}
[ ! -e "$dest" ] || [ -f "$dest/SHA256SUMS" ] ||
    fail "$dest exists and contains no artefacts: remove it, or choose another folder"
version=$(tools/version.sh)
name=gpulock-$version-linux-$(arch_of "$triple")
set_source_date
prepare_python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Moved to DEST when complete.
dist=$work/dist
mkdir "$dist"

debian_arch() {
    case $(arch_of "$triple") in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
        *) fail "unknown processor in $triple: expected x86_64 or aarch64" ;;
    esac
}

archive() {
    local tree=$work/$name
    mkdir "$tree"
    install -m 755 "$built/libgpulock.so" "$built/gpulock" "$tree"
    install -m 644 redis.conf README.md LICENSE "$dist/THIRD-PARTY-NOTICES" "$tree"
    tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        --format=ustar -cf - "$name" | gzip -9n >"$dist/$name.tar.gz"
}

debian_package() {
    local arch deb
    arch=$(debian_arch)
    deb=$(deploy/package.sh "$built" "$arch" | tail -n 1)
    [[ $deb == */gpulock_${version}[-_]*_"$arch".deb ]] ||
        fail "expected a package gpulock_$version-*_$arch.deb, got ${deb##*/}"
    install -m 644 "$deb" "$dist"
}

python_package() {
    "$python" -m build --quiet --no-isolation --outdir "$work/python" clients/python >&2
    install -m 644 "$work"/python/*.{whl,tar.gz} "$dist"
}

tools/release/binaries.sh "$built/libgpulock.so" "$built/gpulock"
install -m 755 "$built/libgpulock.so" "$dist/lib$name.so"
install -m 755 "$built/gpulock" "$dist/$name"
tools/notices.py >"$dist/THIRD-PARTY-NOTICES"
archive
debian_package
python_package
tools/release/sbom.sh "$triple" "$dist"
(cd "$dist" && sha256sum -- * >"$work/sums" && mv "$work/sums" SHA256SUMS)
rm -rf "$dest"
mkdir -p "$(dirname "$dest")"
mv "$dist" "$dest"
echo "$dest"

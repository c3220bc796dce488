# shellcheck shell=bash
# Calls of apt and dpkg, with and without root. Nothing about particular packages.

# Options of apt-get and apt-cache. download_lists sets them to use the package lists in target/tools.
apt_options=()

# Prints the version of a package that apt would install, without its epoch: nothing without apt.
offered() { # PACKAGE
    { LC_ALL=C apt-cache "${apt_options[@]}" policy "$1" 2>/dev/null || true; } |
        sed -nE 's/^ *Candidate: ([0-9]+:)?([0-9].*)/\2/p'
}

# Succeeds if there are package lists.
has_lists() {
    [ -n "$(apt-cache "${apt_options[@]}" policy bash 2>/dev/null | sed -n '/^ *[0-9]* .*Packages$/p')" ]
}

# Downloads apt's package lists to target/tools, as any user.
download_lists() {
    local folder=$PWD/target/tools/apt
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    apt_options=(-o Dir::State::lists="$folder/lists" -o Dir::Cache="$folder/cache"
        -o APT::Sandbox::User= -o APT::Update::Post-Invoke=
        -o APT::Update::Post-Invoke-Success=)
    apt-get -q "${apt_options[@]}" update >"$probes/update" 2>&1 ||
        { cat "$probes/update" >&2; return 1; }
}

# Unpacks a package without installing it.
unpack_package() { # PACKAGE FOLDER
    mkdir -p "$2"
    (cd "$2" && apt-get "${apt_options[@]}" download -q "$1" && dpkg -x ./*.deb . && rm ./*.deb)
}

# What to write before a command that root runs: nothing or sudo.
as_root=()

# Sets `as_root`. Fails if the user cannot become root.
become_root() {
    as_root=()
    [ "$(id -u)" -ne 0 ] || return 0
    # Without a terminal, sudo cannot ask for a password.
    has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; } && as_root=(sudo)
}

apt_get() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 \
        -o Acquire::Retries=3 "$@"
}

# Prints the package of a program, if dpkg installed it.
package_of() { # PROGRAM
    { dpkg-query -S "$(realpath "$1")" 2>/dev/null || true; } | sed -n 's/:.*//p'
}

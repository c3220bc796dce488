# shellcheck shell=bash
# The set deb: programs that build and check the Debian package. deploy/package.sh runs them.

want_deb() {
    version dpkg-deb --version >/dev/null ||
        { give_up "packages can be built only on Debian and its derivatives"; return 0; }
    dh_assistant --help >/dev/null 2>&1 || need debhelper
    { version dpkg-shlibdeps --version && version readelf --version; } >/dev/null || need dpkg-dev
    version lintian --version >/dev/null || need lintian
}

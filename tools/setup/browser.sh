# shellcheck shell=bash
# The set browser: Chromium and chromedriver, for the tests of the exporter's page.

# chromedriver works only with a Chromium of its own release.
has_browser() {
    local driver browser found
    has chromedriver || return 1
    driver=$(version chromedriver --version) || driver=none
    for browser in google-chrome chromium chromium-browser; do
        found=$(version "$browser" --version) || continue
        [ "${found%%.*}" = "${driver%%.*}" ] && return
    done
    note "chromedriver $driver at $(command -v chromedriver) needs a Chromium of the same release," \
        "found ${found:-none}"
    return 1
}

want_browser() {
    has_browser || need chromium chromium-driver
}

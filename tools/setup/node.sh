# shellcheck shell=bash
# The set node: Node and npm, for the examples in examples/node.

want_node() {
    local version
    # The same as engines in examples/node/package.json.
    if is_recent 18.19 node --version && is_recent 8 npm --version; then return; fi
    version=$(offered nodejs)
    if [ -n "$version" ] && ! at_least "$version" 18.19; then
        give_up "the examples for Node need Node 18.19 or newer, but apt offers ${version%%[-~+]*}"
        return
    fi
    need nodejs npm
}

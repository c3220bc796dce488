#!/bin/sh
# The entrypoint of the stand-ins for official server images. Like the official ones it accepts
# options or a .conf file instead of a command, gives the files in the data folder to the server's
# user, becomes this user, and loads the modules of a folder.
set -eu
if command -v redis-cli >/dev/null; then
    user=redis modules=/usr/local/lib/redis/modules
else
    user=valkey modules=/usr/lib/valkey
fi

case ${1-} in
    -* | *.conf) set -- "$user-server" "$@" ;;
esac
if [ "${1-}" != "$user-server" ]; then
    exec "$@"
fi
if [ "$(id -u)" -eq 0 ]; then
    chown -R "$user" .
    exec setpriv --reuid="$user" --regid="$user" --clear-groups --no-new-privs -- "$0" "$@"
fi

umask 0077
# With $2: the configuration file may load a module from the folder itself.
for module in "$modules"/*.so; do
    [ -x "$module" ] || continue
    grep -qs "loadmodule $module" "${2-}" || set -- "$@" --loadmodule "$module"
done
exec "$@"

#!/bin/sh
# Installs a provider on this device, from the folder in which this lies, as its file `settings` says; may be run again.
# Needs root for a service. Says what is wrong in its last line, which begins with "error: ".
set -eu
here=$PWD
. ./settings # NAME, LISTEN, PYTHON, FOLDER, SERVICE
unit=distredge-provider@$NAME

fail() {
    echo "error: $*"
    exit 1
}

check_python() {
    "$PYTHON" -V >/dev/null 2>&1 || fail "there is no '$PYTHON' that runs: install Python 3.10 or newer (docs/devices.md)"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "'$PYTHON' is $("$PYTHON" -V 2>&1), 3.10 or newer is needed: name one by 'python:' (docs/devices.md)"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail "'$PYTHON' has no venv module: apt install python3-venv"
    [ "$SERVICE" = no ] && return
    case $("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))') in
    /home/* | /root/*) fail "'$PYTHON' lies in a home folder, which the service cannot see: install it elsewhere" ;;
    esac
}

check_rights() {
    if [ "$SERVICE" = yes ]; then
        [ "$(id -u)" = 0 ] || fail "a service needs root: log in as root, or let this user use sudo without a password"
        command -v systemctl >/dev/null || fail "there is no systemd here: deploy with --no-service"
        id distredge >/dev/null 2>&1 || useradd --system --user-group --no-create-home --home-dir / \
            --shell /usr/sbin/nologin distredge || fail "cannot make the user 'distredge'"
    fi
    mkdir -p "$FOLDER/keys" 2>/dev/null && [ -w "$FOLDER" ] ||
        fail "cannot write '$FOLDER': name another folder in the inventory, or log in as root"
}

quietly() { # a command that prints nothing unless it fails
    "$@" >"$here/said" 2>&1 || fail "$what: $(grep -v '^WARNING\|^\[notice' "$here/said" | tail -n 1)"
}

install_packages() {
    python=$FOLDER/venv/bin/python
    version='import sys; print(sys.version)'
    what="cannot make '$FOLDER/venv'"
    [ "$("$python" -c "$version" 2>/dev/null)" = "$("$PYTHON" -c "$version")" ] ||
        quietly "$PYTHON" -m venv --clear "$FOLDER/venv"
    what="pip cannot install what a provider needs"
    quietly "$python" -m pip install --no-input --disable-pip-version-check --no-deps -r provider-requirements.txt
    [ "$SERVICE" = no ] || systemctl stop "$unit" 2>/dev/null || true # not while its files change
    what="pip cannot install distredge"
    quietly "$python" -m pip install --no-input --disable-pip-version-check --no-deps --force-reinstall ./*.whl
}

install_keys() {
    cd "$FOLDER/keys"
    rm -rf public.new
    cp -R "$here/keys/public" public.new # the whole folder: who was removed from it is a stranger here too
    rm -rf public
    mv public.new public
    chmod -R u=rwX,go=rX public
    mkdir -p -m 700 private
    secret=private/$NAME.key_secret
    [ ! -f "$here/keys/$secret" ] || (umask 077 && cp "$here/keys/$secret" "$secret")
    [ -f "$secret" ] || fail "it has no secret key, and none was sent: put $NAME.key_secret into the keys' private folder"
    chmod 600 "$secret"
    [ "$SERVICE" = no ] || chown -R distredge: private
    cd "$here"
}

install_service() {
    echo "LISTEN=$LISTEN" >"$FOLDER/$NAME.env"
    sed "s|/opt/distredge|$FOLDER|g" distredge-provider@.service >/etc/systemd/system/distredge-provider@.service
    what="cannot start the service"
    quietly systemctl daemon-reload
    quietly systemctl enable "$unit"
    quietly systemctl restart "$unit"
}

listens() { # a ZeroMQ socket sends its greeting at once
    "$FOLDER/venv/bin/python" - "$LISTEN" <<'END' 2>/dev/null
import socket, sys
host, _, port = sys.argv[1].rpartition(":")
with socket.create_connection((host.strip("[]"), int(port)), timeout=2) as connection:
    sys.exit(connection.recv(1) != b"\xff")
END
}

check_listens() {
    tries=30
    until listens; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "the service does not listen at $LISTEN: see journalctl -u $unit -n 20"
        sleep 1
    done
}

check_python
check_rights
install_packages
install_keys
if [ "$SERVICE" = yes ]; then
    install_service
    check_listens
    echo "listens at $LISTEN"
else
    echo "installed; start it: $FOLDER/venv/bin/distredge provider --name $NAME --listen $LISTEN --keys $FOLDER/keys"
fi

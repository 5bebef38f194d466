#!/bin/sh
# Installs what kvfuse is built with, on Debian 12 or Ubuntu 24.04. As root, or with sudo.
#   deploy/dependencies.sh [run|test]    run: build and run (default); test: that and what the tests need
set -eu

build="gcc libc6-dev cmake ninja-build pkg-config libucx-dev libuv1-dev libprotobuf-c-dev protobuf-c-compiler libxxhash-dev
 libinih-dev libjansson-dev libhiredis-dev uthash-dev libopenblas-serial-dev liblapacke-dev"
test="libcriterion-dev redis-server iproute2 python3 python3-dev python3-venv"

packages=$build
case "${1:-run}" in
    run) ;;
    test) packages="$build $test" ;;
    *) echo "usage: deploy/dependencies.sh [run|test]" >&2; exit 2 ;;
esac

command -v dpkg-query >/dev/null || {
    echo "kvfuse: this script knows Debian 12 and Ubuntu 24.04. Elsewhere install by hand, then build as README.md says:" >&2
    echo "  $packages" >&2
    exit 1
}

missing=
for package in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "kvfuse: to install$missing this needs root or sudo" >&2; exit 1; }
    as_root=sudo
fi
echo "kvfuse: installing$missing"
# /usr/sbin/policy-rc.d is left alone: Debian starts redis-server on installation; the tests use servers of their own.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
$as_root apt-get update -qq
# shellcheck disable=SC2086
if ! $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "kvfuse: apt-get could not install$missing (Ubuntu: is the 'universe' component on?)" >&2
    exit 1
fi

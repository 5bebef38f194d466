#!/bin/sh
# From a fresh machine to real KV in the store and back: installs, builds, starts a daemon, puts the sample that the
# repository ships, matches it, gets it back, compares the bytes, and stops the daemon.
#   deploy/quickstart.sh [build folder]
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}

work=$(mktemp -d)
daemon=
finish() {
    [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null; } || :
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

deploy/dependencies.sh run
echo "kvfuse: building in $build/"
{ cmake -S . -B "$build" -G Ninja -DKVF_TESTS=OFF && cmake --build "$build"; } >"$work/build.log" 2>&1 || {
    tail -n 40 "$work/build.log" >&2
    echo "kvfuse: the build failed" >&2
    exit 1
}

: >"$work/log"
"$build/daemon/kvfused" --address 127.0.0.1:0 --runtime-dir "$work" 2>"$work/log" &
daemon=$!
address=
for _ in $(seq 100); do
    address=$(sed -n 's/.*listening on \([^ ]*\)$/\1/p' "$work/log")
    [ -z "$address" ] || break
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.05
done
[ -n "$address" ] || { cat "$work/log" >&2; echo "kvfuse: the daemon did not start" >&2; exit 1; }
echo "kvfuse: kvfused (pid $daemon) listens on $address"

kvfuse="$build/client/kvfuse"
for transport in shared network; do
    echo
    case $transport in shared) echo "== through shared memory" ;; network) echo "== over the network (UCX, TCP)" ;; esac
    "$kvfuse" put --address "$address" --transport $transport --space "sample-$transport" tests/data/sample.safetensors
    "$kvfuse" get --address "$address" --transport $transport --space "sample-$transport" tests/data/sample.safetensors \
        --out "$work/$transport.safetensors" --verify
done
echo
echo "== fused, here and without the daemon"
for policy in exact 'error 0.05'; do
    "$kvfuse" fuse tests/data/sample.safetensors --policy "$policy"
    echo
done
"$kvfuse" stats --socket "$work/${address##*:}.stats" --brief
cat <<END

It works. To go on:
  start a daemon on 127.0.0.1:7311    $build/daemon/kvfused         (--help shows what can be set)
  watch it                            $kvfuse top
  measure it against the machine      $kvfuse bench
  use it from C                       client/include/kvfuse.h, client/examples/roundtrip.c
END

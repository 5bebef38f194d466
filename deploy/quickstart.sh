#!/bin/sh
# From a fresh machine to real KV in the store and back: installs, builds, starts a daemon, puts the sample that the
# repository ships under `exact` and `error 0.05`, matches it, gets it back, holds it against the original, says what it took, and stops the daemon.
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

kvfuse="$build/client/kvfuse"
sample=tests/data/sample.safetensors
start() { # [options of kvfused]
    : >"$work/log"
    "$build/daemon/kvfused" --address 127.0.0.1:0 --runtime-dir "$work" "$@" 2>"$work/log" &
    daemon=$!
    address=
    for _ in $(seq 100); do
        address=$(sed -n 's/.*listening on \([^ ]*\)$/\1/p' "$work/log")
        [ -z "$address" ] || break
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.05
    done
    [ -n "$address" ] || { cat "$work/log" >&2; echo "kvfuse: the daemon did not start" >&2; exit 1; }
    socket=$work/${address##*:}.stats
    echo "kvfuse: kvfused $* (pid $daemon) listens on $address"
}
stop() {
    kill "$daemon" && wait "$daemon"
    daemon=
}
coded() { # waits until all that was put is coded: of a space this small only when nothing came for two seconds
    for _ in $(seq 200); do
        left=$("$kvfuse" stats --socket "$socket" | sed -n 's/^fusion\.\(spaces_learning\|blocks_waiting\) //p' | tr '\n' ' ')
        [ "$left" = "0 0 " ] && return
        sleep 0.1
    done
    echo "kvfuse: the daemon does not come to an end with coding" >&2
    exit 1
}
there_and_back() { # space policy [options]: puts the sample, and holds what comes back against it
    space=$1 policy=$2
    shift 2
    "$kvfuse" put "$sample" --address "$address" --space "$space" --policy "$policy" "$@"
    [ "$policy" = exact ] && [ -z "$is_coded" ] || coded
    "$kvfuse" get "$sample" --address "$address" --space "$space" --policy "$policy" "$@" --out "$work/$space.safetensors" --verify
}

start
is_coded=
echo
echo "== exact, through shared memory: as it comes"
there_and_back shared exact --transport shared
echo
echo "== exact, over the network (UCX, TCP)"
there_and_back network exact --transport network
echo
echo "== error 0.05: every row within 5 % of its length; similar blocks fused"
there_and_back fused 'error 0.05'
"$kvfuse" stats --socket "$socket" --brief
stop
echo
start --code-exact on
is_coded=yes
echo
echo "== exact, coded: smaller, the same bits, slower to read"
there_and_back coded exact
"$kvfuse" stats --socket "$socket" --brief
cat <<END

It works. To go on:
  start a daemon on 127.0.0.1:7311    $build/daemon/kvfused         (--help shows what can be set)
  watch it                            $kvfuse top
  measure it against the machine      $kvfuse bench
  use it from C                       client/include/kvfuse.h, client/examples/roundtrip.c
END

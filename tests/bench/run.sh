#!/bin/sh
# The benchmark of the README: a daemon's figures and the machine's ceilings, from one run.
#   tests/bench/run.sh [--quick] [OUT]     OUT: a file for the JSON lines (BUILD/bench.jsonl); the table goes to stdout
# BUILD is the build folder (build). Each size has a daemon of its own, warm: its memory is prepared before the first put; the
# first puts alone meet a daemon that has just started. Needs an idle machine of two cores.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${BUILD:-$root/build} redis=$root/tests/bench/redis.sh
ms=2000 resident=10000000
if [ "${1:-}" = --quick ]; then
    ms=300 resident=200000
    shift
fi
case "$#${1:-}" in
    0 | 1[!-]*) ;;
    *) sed -n '3,5s/^# *//p' "$0" >&2; exit 2 ;;
esac
out=${1:-$build/bench.jsonl}
work=$(mktemp -d)
daemon=
stop() {
    [ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; } 2>/dev/null || :
    daemon=
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start OPTION…: a daemon that has just begun to listen
start() {
    : >"$work/log"
    begun=$(date +%s%N)
    "$build/daemon/kvfused" --address 127.0.0.1:0 --runtime-dir "$work" "$@" 2>"$work/log" &
    daemon=$!
    until grep -q 'listening on' "$work/log"; do
        kill -0 "$daemon" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
        sleep 0.005
    done
    listening_ms=$((($(date +%s%N) - begun) / 1000000))
    address=$(sed -n 's/.*listening on \([^ ]*\)$/\1/p' "$work/log")
    socket="$work/${address##*:}.stats"
}
stats() { "$build/client/kvfuse" stats --socket "$socket"; }
# start_warm OPTION…: a daemon that can take its whole budget without making pages
start_warm() {
    start "$@"
    until stats | awk '$1 == "tier_host.ready_bytes" {r = $2} $1 == "host_bytes" {h = $2} END {exit r < h * 0.98}'; do sleep 0.2; done
}
bench() { "$build/client/kvfuse" bench --address "$address" --socket "$socket" --json --ms $ms "$@"; }

: >"$out"
start --host-bytes 8GiB
echo "{\"op\": \"start\", \"host_gib\": 8, \"listening_ms\": $listening_ms}" >>"$out"
# At once, from a small set: to fill a large one gives the preparer a lead.
bench --busy-poll --ops put --sizes 256K --transports shared --no-ceilings --set-bytes 64M >"$work/first"
stats | awk '$1 == "tier_host.takes" {t = $2} $1 == "tier_host.unprepared_takes" {u = $2}
    END {printf "\"takes\": %d, \"unprepared_takes\": %d", t, u}' >"$work/takes"
sed "s/\"op\": \"put\"/\"op\": \"first puts\", $(cat "$work/takes")/" "$work/first" >>"$out"
stop
for size in 32K 256K 2M; do
    start_warm --host-bytes 3GiB
    bench --busy-poll --ops put,get --sizes $size --redis "$redis" >>"$out"
    [ $size != 256K ] || bench --busy-poll --ops put,get --sizes $size --clients 2 --no-ceilings >>"$out"
    stop
done
start_warm --host-bytes 256MiB --busy-poll
bench --busy-poll --ops match --no-ceilings >>"$out"
stop
start_warm --host-bytes 3GiB --busy-poll --max-keys 20000000
bench --busy-poll --ops match --no-ceilings --transports shared --resident $resident >>"$out"
stats | awk '
    $1 == "blocks" {b = $2} $1 == "index_bytes" {i = $2}
    END {printf "{\"op\": \"index\", \"resident\": %d, \"bytes_a_key\": %.1f}\n", b, i / b}' >>"$out"
stop
python3 "$root/tests/bench/table.py" "$out"

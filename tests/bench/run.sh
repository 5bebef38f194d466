#!/bin/sh
# The benchmark of the README: a daemon's figures and the machine's ceilings, from one run.
#   tests/bench/run.sh [--quick] [OUT]     OUT: a file for the JSON lines (build/bench.jsonl); the table goes to stdout
# Each size has a daemon of its own, warm: its memory is prepared before the first put. Needs an idle machine of two cores.
set -eu
cd "$(dirname "$0")/../.."
ms=2000 resident=10000000
if [ "${1:-}" = --quick ]; then
    ms=300 resident=200000
    shift
fi
out=${1:-build/bench.jsonl}
work=$(mktemp -d)
daemon=
stop() {
    [ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; } 2>/dev/null || :
    daemon=
}
trap 'stop; rm -rf "$work"' EXIT

# start OPTION…: a daemon, ready to take its whole budget without making pages
start() {
    : >"$work/log"
    begun=$(date +%s%N)
    build/daemon/kvfused --address 127.0.0.1:0 --runtime-dir "$work" "$@" 2>"$work/log" &
    daemon=$!
    until grep -q 'listening on' "$work/log"; do
        kill -0 "$daemon" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
        sleep 0.005
    done
    listening_ms=$((($(date +%s%N) - begun) / 1000000))
    address=$(sed -n 's/.*listening on \([^ ]*\)$/\1/p' "$work/log")
    socket="$work/${address##*:}.stats"
    until build/client/kvfuse stats --socket "$socket" |
        awk '$1 == "tier_host.ready_bytes" {r = $2} $1 == "host_bytes" {h = $2} END {exit r < h * 0.98}'; do sleep 0.2; done
}
bench() { build/client/kvfuse bench --address "$address" --socket "$socket" --json --ms $ms "$@" >>"$out"; }

: >"$out"
start --host-bytes 8GiB
echo "{\"op\": \"start\", \"host_gib\": 8, \"listening_ms\": $listening_ms}" >>"$out"
build/client/kvfuse bench --address "$address" --busy-poll --ops put --sizes 2M --transports shared --no-ceilings --ms 300 \
    --socket "$socket" >/dev/null # the first puts of its life, 6 GB or so
build/client/kvfuse stats --socket "$socket" | awk '
    $1 == "operations.put.latency_ns.p999" {p = $2} $1 == "tier_host.unprepared_takes" {u = $2}
    END {printf "{\"op\": \"first puts\", \"unprepared_segments\": %d, \"daemon_p999_us\": %.0f}\n", u, p / 1000}' >>"$out"
stop
for size in 32K 256K 2M; do
    start --host-bytes 3GiB
    bench --busy-poll --ops put,get --sizes $size --redis tests/bench/redis.sh
    stop
done
start --host-bytes 256MiB --busy-poll
bench --busy-poll --ops match --no-ceilings
stop
start --host-bytes 3GiB --busy-poll --max-keys 20000000
bench --busy-poll --ops match --no-ceilings --transports shared --resident $resident
build/client/kvfuse stats --socket "$socket" |
    awk '$1 == "blocks" {b = $2} $1 == "index_bytes" {i = $2} END {printf "{\"op\": \"index\", \"resident\": %d, \"bytes_a_key\": %.1f}\n", b, i / b}' >>"$out"
stop
python3 tests/bench/table.py "$out"

#!/bin/sh
# Replays request traces (Mooncake's format) against real daemons: with room for everything, then at 1, 5, 10 and 25 % of the
# trace's unique blocks, for the default eviction and LRU. Prints the prefix hit ratios as a table.
#   tests/replay/run.sh TRACE.jsonl…
set -eu
[ $# -gt 0 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
block=4096 slot=4224 segment=270336 # a stand-in, what it takes with its head, 64 of these
work=$(mktemp -d)
daemon=
stop() {
    [ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; } 2>/dev/null || :
    daemon=
}
trap 'stop; rm -rf "$work"' EXIT

# ratio TRACE BYTES POLICY: the hit ratio under a budget
ratio() {
    : >"$work/log"
    "$root/build/daemon/kvfused" --address 127.0.0.1:0 --runtime-dir "$work" --host-bytes "$2" --segment-bytes $segment --eviction "$3" \
        2>"$work/log" &
    daemon=$!
    until grep -q 'listening on' "$work/log"; do
        kill -0 "$daemon" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
        sleep 0.05
    done
    address=$(sed -n 's/.*listening on \([^ ]*\)$/\1/p' "$work/log")
    "$root/build/client/kvfuse" replay --address "$address" --block-bytes $block --json "$1" >"$work/result"
    stop
    sed 's/.*"prefix_hit_ratio": \([0-9.]*\).*"wrong": \([0-9]*\).*/\1 \2/' "$work/result" | {
        read -r hit wrong
        [ "$wrong" = 0 ] || echo "WRONG BYTES: $wrong blocks" >&2
        awk "BEGIN {printf \"%.1f\", 100 * $hit}"
    }
}

echo "| trace | unique blocks | eviction | all | 1 % | 5 % | 10 % | 25 % |"
echo "|---|---|---|---|---|---|---|---|"
for trace in "$@"; do
    unique=$(sed 's/.*"hash_ids": \[//; s/\].*//; s/, /\n/g' "$trace" | sort -u | grep -c .)
    for policy in s3fifo lru; do
        row="| $(basename "$trace" .jsonl) | $unique | $policy | $(ratio "$trace" $((unique * slot * 11 / 10 + (1 << 20))) $policy)"
        for percent in 1 5 10 25; do
            bytes=$(((unique * percent / 100 / 64 + 1) * segment))
            row="$row | $(ratio "$trace" $bytes $policy)"
        done
        echo "$row |"
    done
done

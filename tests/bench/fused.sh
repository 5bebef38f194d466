#!/bin/sh
# A fused space on this machine: what is held against the library's own ratio, what a put costs beside an exact one, and gets while encoders are
# at full load.
#   tests/bench/fused.sh FILE      KV as tests/fidelity/kv_model.py extract makes it
#   KVF_BUILD=build KVF_POLICY='error 0.05' KVF_CLIENTS=4
set -eu
cd "$(dirname "$0")/../.."
[ $# -eq 1 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
file=$1
build=${KVF_BUILD:-build}
policy=${KVF_POLICY:-error 0.05}
clients=${KVF_CLIENTS:-4}
work=$(mktemp -d)
daemon= load=
finish() {
    for pid in $load $daemon; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || :; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"$build/daemon/kvfused" --address 127.0.0.1:0 --runtime-dir "$work" --host-bytes 2GiB 2>"$work/log" &
daemon=$!
for _ in $(seq 100); do grep -q "listening on" "$work/log" && break; sleep 0.05; done
address=$(sed -n 's/.*listening on \([^ ]*\)$/\1/p' "$work/log")
socket=$work/${address##*:}.stats
store() { "$build/tests/bench/bench_store" "$@" --address "$address"; }
stat() { "$build/client/kvfuse" stats --socket "$socket" | sed -n "s/^$1 //p"; }
wait_coded() {
    for _ in $(seq 1200); do
        [ "$(stat fusion.blocks_waiting)" = 0 ] && return
        sleep 0.05
    done
    echo "fused.sh: the daemon does not come to an end with coding" >&2
    exit 1
}
drop() { "$build/client/kvfuse" spaces --address "$address" --drop "$1" >/dev/null; }

store put "$file" --space warm --policy exact >/dev/null # the daemon's memory is made, the file is in the page cache
drop warm
for round in 1 2 3 4 5; do
    store put "$file" --space "e$round" --policy exact >>"$work/put_exact"
    drop "e$round"
    store put "$file" --space "f$round" --policy "$policy" >>"$work/put_fused"
    wait_coded
    [ "$round" = 5 ] || drop "f$round"
done
client=0
pids=
while [ "$client" -lt "$clients" ]; do
    store put "$file" --space together --policy "$policy" --share "$client/$clients" >>"$work/together" &
    pids="$pids $!"
    client=$((client + 1))
done
for pid in $pids; do wait "$pid"; done
wait_coded
"$build/client/kvfuse" spaces --socket "$socket" >"$work/spaces"
"$build/client/kvfuse" fuse "$file" --policy "$policy" --json >"$work/library.json"
store latency "$file" --space together --policy "$policy" >"$work/quiet"
store get "$file" --space together --policy "$policy" --check >"$work/get"
store load "$file" --space load --policy "$policy" >"$work/load" &
load=$!
sleep 1
store latency "$file" --space together --policy "$policy" >"$work/loaded"
python3 tests/bench/fused_table.py "$work"

#!/bin/sh
# What fusing is worth on a slow link: two network namespaces joined by a veth shaped to a rate, kvfused in one, bench_store in the other.
# Logical GB/s (of block bytes) of puts and gets, exact and fused, gets cold (no unit held) and warm; beside the link as a bare TCP
# stream fills it, and the library's own ratio of the same file. Needs root and tc (iproute2).
#   tests/bench/network.sh FILE LEARN [rate …]  KV as tests/fidelity/kv_model.py extract makes it; rates as tc has them (1gbit 10gbit).
#                                               LEARN, another file of the same model, is put first where the client is to code FILE
#   KVF_BUILD=build KVF_POLICY='error 0.05'
set -eu
cd "$(dirname "$0")/../.."
[ $# -ge 2 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
file=$1 learn=$2
shift 2
[ $# -ge 1 ] || set -- 1gbit 10gbit
build=${KVF_BUILD:-build}
policy=${KVF_POLICY:-error 0.05}
id=$$
a=kvfa$id b=kvfb$id
work=$(mktemp -d)
daemon=
stop_daemon() {
    [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null; } || :
    daemon=
}
finish() {
    stop_daemon
    ip netns del "$a" 2>/dev/null || :
    ip netns del "$b" 2>/dev/null || :
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
can() { "$@" || { echo "network.sh: cannot: $*" >&2; exit 1; }; }
can ip netns add "$a"
can ip netns add "$b"
can ip link add "va$id" netns "$a" type veth peer name "vb$id" netns "$b"
ip -n "$a" addr add 10.78.0.1/24 dev "va$id"
ip -n "$b" addr add 10.78.0.2/24 dev "vb$id"
for n in "$a" "$b"; do ip -n "$n" link set lo up; done
ip -n "$a" link set "va$id" up
ip -n "$b" link set "vb$id" up
sleep 2 # the kernel's duplicate address detection; UCX lists devices once, at its start
unset UCX_NET_DEVICES
shape() {
    for end in "$a va$id" "$b vb$id"; do
        ip netns exec "${end% *}" tc qdisc del dev "${end#* }" root 2>/dev/null || :
        can ip netns exec "${end% *}" tc qdisc add dev "${end#* }" root tbf rate "$1" burst 1mb limit 8mb
    done
}
# The library's own ratio, in the same order of puts.
"$build/client/kvfuse" fuse "$file" --policy "$policy" --json >"$work/library.json"
ticks() { cut -d' ' -f14,15 "/proc/$daemon/stat" | tr ' ' '+'; }
run() { # label space policy mode [bench_store options]: a line of what both sides took
    label=$1 space=$2 kind=$3 mode=$4
    shift 4
    before=$(ticks)
    ip netns exec "$b" python3 tests/bench/timed.py "$build/tests/bench/bench_store" "$mode" "$file" --address 10.78.0.1:7311 \
        --transport network --space "$space" --policy "$kind" "$@" >"$work/out"
    echo "$rate|$label|$(($(ticks) - ($before)))|$(tr '\n' ';' <"$work/out")" >>"$work/lines"
}
wait_coded() {
    for _ in $(seq 600); do
        [ "$("$build/client/kvfuse" stats --socket "$work/7311.stats" | sed -n 's/^fusion.blocks_waiting //p')" = 0 ] && return
        sleep 0.1
    done
    echo "network.sh: the daemon does not come to an end with coding" >&2
    exit 1
}
: >"$work/lines"
for rate; do
    shape "$rate"
    ip netns exec "$a" "$build/daemon/kvfused" --address 10.78.0.1:7311 --runtime-dir "$work" --host-bytes 1GiB 2>"$work/log" &
    daemon=$!
    for _ in $(seq 100); do grep -q "listening on" "$work/log" && break; sleep 0.05; done
    ip netns exec "$a" python3 tests/bench/tcp_stream.py receive 10.78.0.1 7312 &
    receiver=$!
    sleep 0.3
    echo "$rate|link|0|$(ip netns exec "$b" python3 tests/bench/tcp_stream.py send 10.78.0.1 7312)" >>"$work/lines"
    wait "$receiver"
    run "exact, put" exact exact put
    run "exact" exact exact get
    run "$policy, put raw" raw "$policy" put
    wait_coded
    run "$policy" raw "$policy" get --check
    ip netns exec "$b" "$build/tests/bench/bench_store" put "$learn" --address 10.78.0.1:7311 --transport network --space fused \
        --policy "$policy" >/dev/null
    wait_coded
    run "$policy, put coded by the client" fused "$policy" put --put-mode fused
    stop_daemon
done
python3 tests/bench/network_table.py "$work/library.json" <"$work/lines"

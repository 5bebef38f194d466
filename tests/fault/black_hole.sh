#!/bin/sh
# A link that goes silent between two hosts (network namespaces joined by a veth): no packet comes any more, and no reset.
#   black_hole.sh KVFUSED KVFUSE
# The client's requests must end with a status inside their timeout; the daemon must close the session inside its own, with
# everything it held; and when the link is back, both must work again. Needs root (or sudo that asks nothing), iproute2, and
# / to be a mount point. Exits 77 where it cannot run, and says what was not tested.
set -eu
skip() {
    echo "NOT TESTED: a link that goes silent under puts and gets (black_hole.sh): $*" >&2
    exit 77
}
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || skip "it makes network namespaces, which takes root or sudo without a password"
    # As ctest cannot end a process of root, it ends itself.
    exec sudo -n env UCX_ERROR_SIGNALS= timeout --kill-after=5 170 "$0" "$@"
fi
kvfused=$1 kvfuse=$2
id=$$
a=kvf-a-$id b=kvf-b-$id
work=$(mktemp -d)
daemon= client=

fail() {
    echo "FAIL: $*" >&2
    for log in "$work"/*.log; do echo "--- $log" >&2; tail -n 20 "$log" >&2; done
    exit 1
}
finish() {
    for pid in $client $daemon; do kill -9 "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || :; done
    ip netns del "$a" 2>/dev/null || :
    ip netns del "$b" 2>/dev/null || :
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# stat NAME: a number of the daemon's stats
stat() { "$kvfuse" stats --socket "$work/7311.stats" | sed -n "s/^$1 //p"; }
# within SECONDS COMMAND…: it comes true in time
within() {
    limit=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt "$limit" ] || return 1
        sleep 0.1
    done
}
sessions_are() { [ "$(stat sessions)" = "$1" ]; }
is_over() { ! kill -0 "$1" 2>/dev/null; }

# can COMMAND…: it works here, or the test is skipped with its reason
can() { "$@" 2>"$work/reason" || skip "'$*' fails: $(head -n 1 "$work/reason")"; }

can ip netns add "$a"
can ip netns add "$b"
can ip netns exec "$a" true # not in a chroot
can ip link add "va$id" netns "$a" type veth peer name "vb$id" netns "$b"
ip -n "$a" addr add 10.77.0.1/24 dev "va$id"
ip -n "$b" addr add 10.77.0.2/24 dev "vb$id"
for n in "$a" "$b"; do ip -n "$n" link set lo up; done
ip -n "$a" link set "va$id" up
ip -n "$b" link set "vb$id" up
sleep 2 # the kernel's duplicate address detection; UCX lists devices once, at its start

unset UCX_NET_DEVICES
ip netns exec "$a" "$kvfused" --address 10.77.0.1:7311 --runtime-dir "$work" --host-bytes 256MiB --session-timeout 6s \
    --request-timeout 3s 2>"$work/kvfused.log" &
daemon=$!
within 30 grep -q 'listening on' "$work/kvfused.log" || fail "the daemon does not start"

cut() { # packets vanish in both directions, the links stay up: nobody is told
    ip netns exec "$a" tc qdisc add dev "va$id" root netem loss 100%
    ip netns exec "$b" tc qdisc add dev "vb$id" root netem loss 100%
}
mend() {
    ip netns exec "$a" tc qdisc del dev "va$id" root
    ip netns exec "$b" tc qdisc del dev "vb$id" root
}
if ! ip netns exec "$a" tc qdisc add dev "va$id" root netem loss 0% 2>/dev/null; then
    # a kernel without netem: a route that swallows packets does the same
    cut() {
        ip -n "$a" neigh replace 10.77.0.2 lladdr 02:00:00:00:00:01 dev "va$id" nud permanent
        ip -n "$b" neigh replace 10.77.0.1 lladdr 02:00:00:00:00:01 dev "vb$id" nud permanent
    }
    mend() {
        ip -n "$a" neigh del 10.77.0.2 dev "va$id"
        ip -n "$b" neigh del 10.77.0.1 dev "vb$id"
    }
else
    ip netns exec "$a" tc qdisc del dev "va$id" root
fi

for op in put get; do
    ip netns exec "$b" "$kvfuse" bench --address 10.77.0.1:7311 --timeout-ms 2000 --ops $op --sizes 256K --set-bytes 64M \
        --transports network --no-ceilings --ms 60000 --socket "$work/7311.stats" >"$work/client.log" 2>&1 &
    client=$!
    within 30 sessions_are 1 || fail "$op: the client does not connect"
    sleep 2
    is_over "$client" && fail "$op: the client ended too early"
    cut
    start=$(date +%s%N)
    within 20 is_over "$client" || fail "$op: the client hangs in a black hole"
    ms=$((($(date +%s%N) - start) / 1000000))
    wait "$client" && fail "$op: a client in a black hole says that all is well"
    client=
    grep -qE 'timed out|connection lost' "$work/client.log" || fail "$op: the client ended with another status"
    [ $ms -lt 6000 ] || fail "$op: the client's request ended after $ms ms, its timeout is 2000"
    echo "$op: the client's request ended $ms ms after the cut (timeout 2000 ms)"
    within 20 sessions_are 0 || fail "$op: the daemon keeps the session"
    [ "$(stat requests_in_flight)" = 0 ] || fail "$op: the daemon keeps requests"
    [ "$(stat staging_bytes)" = 0 ] || fail "$op: the daemon keeps staging"
    mend
    within 30 ip netns exec "$b" "$kvfuse" ping --address 10.77.0.1:7311 --timeout-ms 2000 --transport network ||
        fail "$op: no way back after the link was mended"
done
kill "$daemon"
wait "$daemon" || fail "the daemon did not end well"
daemon=
echo "ok"

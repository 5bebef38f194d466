#!/bin/sh
# The command line as a user meets it: the sample into a daemon and back over both transports, and what it says to mistakes.
#   cli.sh KVFUSED KVFUSE SAMPLE
set -eu
kvfused=$1 kvfuse=$2 sample=$3
work=$(mktemp -d)
daemon=

fail() {
    echo "FAIL: $*" >&2
    cat "$work/out" "$work/log" >&2 2>/dev/null || :
    exit 1
}
finish() {
    [ -z "$daemon" ] || { kill -9 "$daemon" && wait "$daemon"; } 2>/dev/null || :
    rm -rf "$work"
}
trap finish EXIT

# says CODE TEXT COMMAND…: it exits with CODE and prints TEXT
says() {
    want=$1 text=$2 code=0
    shift 2
    "$@" >"$work/out" 2>&1 || code=$?
    [ $code = "$want" ] || fail "'$*' exits with $code, not $want"
    grep -q -- "$text" "$work/out" || fail "'$*' does not say '$text'"
}

start() { # options of kvfused
    : >"$work/log"
    "$kvfused" --address 127.0.0.1:0 --runtime-dir "$work" --host-bytes 64MiB "$@" 2>"$work/log" &
    daemon=$!
    n=0
    until grep -q 'listening on' "$work/log"; do
        n=$((n + 1))
        [ $n -lt 200 ] || fail "the daemon does not start"
        sleep 0.05
    done
    address=$(sed -n 's/.*listening on \([^ ]*\)$/\1/p' "$work/log")
    socket="$work/${address##*:}.stats"
}
start

says 0 'round trips' "$kvfuse" ping --address "$address"
for transport in shared network; do
    says 0 '18 blocks stored .*, 2 were there already' \
        "$kvfuse" put --address "$address" --transport $transport --space $transport "$sample"
    says 0 '0 blocks stored .*, 20 were there already' \
        "$kvfuse" put --address "$address" --transport $transport --space $transport "$sample"
    says 0 'bit for bit' "$kvfuse" get --address "$address" --transport $transport --space $transport "$sample" \
        --out "$work/back.safetensors" --verify
    cmp -s "$sample" "$work/back.safetensors" || fail "$transport: the file that came back is another"
done
# layers alone
for transport in shared network; do
    says 0 'verify layers 1-2 of 20 blocks equal' "$kvfuse" get --address "$address" --transport $transport \
        --space $transport "$sample" --layers 1-2 --out "$work/part.safetensors" --verify
    ! cmp -s "$sample" "$work/part.safetensors" || fail "$transport: layers that nobody asked for came"
done
says 1 'there is no layer 99' "$kvfuse" get --address "$address" "$sample" --layers 0-99 --out "$work/b"
says 2 'layers is A-B' "$kvfuse" get --address "$address" "$sample" --layers 3-2 --out "$work/b"
# what one transport put, the other gets
says 0 'bit for bit' "$kvfuse" get --address "$address" --transport network --space shared "$sample" --out "$work/b" --verify

# mistakes
says 1 'cannot be reached' "$kvfuse" ping --address 127.0.0.1:1 --timeout-ms 1500
says 1 'is not an address' "$kvfuse" ping --address nonsense
says 1 'block_tokens: the space has 16, asked for 32' \
    "$kvfuse" put --address "$address" --space shared --block-tokens 32 "$sample"
says 1 'less than a block' "$kvfuse" put --address "$address" --space other --block-tokens 128 "$sample"
says 1 'No such file' "$kvfuse" put --address "$address" "$work/none.safetensors"
echo nonsense >"$work/broken.safetensors"
says 1 'broken.safetensors' "$kvfuse" put --address "$address" "$work/broken.safetensors"
says 1 "there is no space 'none'" "$kvfuse" get --address "$address" --space none "$sample" --out "$work/b"
"$kvfuse" spaces --socket "$socket" >"$work/out"
! grep -q 'space=none' "$work/out" || fail "a get made a space"
says 2 '\-\-out' "$kvfuse" get --address "$address" "$sample"
says 2 "no command 'nonsense'" "$kvfuse" nonsense
says 0 'Usage' "$kvfuse" --help
for command in ping put get stats spaces clients config top bench replay; do
    says 0 'Usage' "$kvfuse" $command --help
    says 0 'Usage' "$kvfuse" $command -h
    says 2 'unrecognized option' "$kvfuse" $command --nonsense
done
says 2 'is a list of put, get, match' "$kvfuse" bench --ops put,gets
says 2 'is a list of shared, network' "$kvfuse" bench --transports sharednetwork
says 1 'cannot open the stats socket' "$kvfuse" stats --socket "$work/none.stats"
says 1 'in use' "$kvfused" --address "$address" --runtime-dir "$work" --host-bytes 64MiB
says 2 'host-bytes' "$kvfused" --host-bytes 8XB
says 1 'cannot resolve' "$kvfused" --address no.such.host.invalid:7311 --runtime-dir "$work" --host-bytes 64MiB
says 0 'host-bytes' "$kvfused" --help
"$kvfused" --host-bytes 123MiB --print-config >"$work/kvfused.conf"
says 0 '^host-bytes = 123MiB' "$kvfused" --config "$work/kvfused.conf" --print-config

mkfifo "$work/pipe"
says 1 'no regular file' "$kvfuse" get --address "$address" --space shared "$sample" --out "$work/pipe"
[ -p "$work/pipe" ] || fail "a pipe was replaced by a file"
[ ! -e /dev/full ] || says 1 'cannot write the output' sh -c "'$kvfuse' spaces --socket '$socket' >/dev/full"

# a memory socket that cannot be seen: auto says so and goes by the network
memory="${socket%.stats}.mem"
mv "$memory" "$memory.away"
says 0 'no shared memory, so by the network: .* not to be seen' "$kvfuse" ping --address "$address"
says 1 'no shared memory: .* not to be seen' "$kvfuse" ping --address "$address" --transport shared
mv "$memory.away" "$memory"

# what admins see
says 0 '^blocks 36$' "$kvfuse" stats --socket "$socket"
says 0 '^staging_refused counter blocks Blocks of puts refused' "$kvfuse" stats --socket "$socket" --describe
names() { sed -E 's/ .*//; s/^(operations\.[a-z]+\.latency_ns)\..*/\1/; /^(address|ucx|version|statuses\..*|key_statuses\..*)$/d'; }
"$kvfuse" stats --socket "$socket" | names | uniq >"$work/numbers"
"$kvfuse" stats --socket "$socket" --describe | names >"$work/meanings"
sort "$work/numbers" >"$work/numbers.sorted"
sort "$work/meanings" | diff "$work/numbers.sorted" - >"$work/out" || fail "stats and what it describes are not the same numbers, each once"
says 0 '"put":{"requests":' "$kvfuse" stats --socket "$socket" --json
says 0 'space=shared policy="exact" model=' "$kvfuse" spaces --socket "$socket"
says 0 'host-bytes = 64MiB' "$kvfuse" config --socket "$socket"
says 0 'GB/s' "$kvfuse" top --socket "$socket" --count 2 --interval-ms 200

# a space under a bound: what was put is nearer than that, and what is not is noticed
"$kvfuse" fuse "$sample" --policy 'error 0.05' --out "$work/near.safetensors" >/dev/null
for transport in shared network; do
    says 0 '18 blocks stored' "$kvfuse" put --address "$address" --transport $transport --space bound-$transport \
        --policy 'error K=0.5,V=0.25' "$work/near.safetensors"
    says 0 'verify 20 blocks against .*: the largest row error is 0\.[12][0-9]* of its bound' "$kvfuse" get --address "$address" \
        --transport $transport --space bound-$transport --policy 'error V=0.25,K=0.5' "$sample" --out "$work/b" --verify
done
says 0 'verify layers 1-2 of 20 blocks against' "$kvfuse" get --address "$address" --space bound-shared \
    --policy 'error K=0.5,V=0.25' "$sample" --layers 1-2 --out "$work/b" --verify
says 0 'space=bound-shared policy="error K=0.5,V=0.25" model=' "$kvfuse" spaces --socket "$socket"
says 1 'error_v: the space has 0.25, asked for 0.5' \
    "$kvfuse" get --address "$address" --space bound-shared --policy 'error 0.5' "$sample" --out "$work/b"
says 1 'policy: the space has error, asked for exact' \
    "$kvfuse" get --address "$address" --space bound-shared "$sample" --out "$work/b"
says 0 '18 blocks stored' "$kvfuse" put --address "$address" --space tight --policy 'error 0.01' "$work/near.safetensors"
rm -f "$work/b"
says 1 'block 0 differs from .* by more than its bound' \
    "$kvfuse" get --address "$address" --space tight --policy 'error 0.01' "$sample" --out "$work/b" --verify
grep -q 'the largest row error is [1-9][0-9.]* of its bound' "$work/out" || fail "it does not say by how much"
[ ! -e "$work/b" ] || fail "a file that is beyond its bound was written"
says 0 '18 blocks stored' "$kvfuse" put --address "$address" --space ratio --policy 'ratio 8' "$sample"
says 0 'verify 20 blocks against' "$kvfuse" get --address "$address" --space ratio --policy 'ratio 8' "$sample" --out "$work/b" --verify
says 0 '18 blocks stored' "$kvfuse" put --address "$address" --space other-exact "$work/near.safetensors"
says 1 'request 0, block 0 differs' "$kvfuse" get --address "$address" --space other-exact "$sample" --out "$work/b" --verify
for command in put get bench replay; do
    says 2 "policy 'error' needs E or" "$kvfuse" $command --policy 'error 2' "$sample"
done
for command in put bench replay; do
    says 2 'put-mode is raw or fused' "$kvfuse" $command --put-mode coded "$sample"
done
says 2 'unrecognized option' "$kvfuse" get --put-mode raw "$sample"
for space in bound-shared bound-network tight ratio other-exact; do
    says 0 'is dropped' "$kvfuse" spaces --address "$address" --drop $space
done
# their memory comes back once nobody is at work on them: what is put next shall find room
number() { "$kvfuse" stats --socket "$socket" | sed -n "s/^$1 //p"; }
n=0
until [ "$("$kvfuse" spaces --socket "$socket" | sed -n 's/.* segments=\([0-9]*\) .*/\1/p' | awk -v size="$(number tier_host.segment_bytes)" '{ sum += $1 * size } END { print sum + 0 }')" = \
    "$(number tier_host.taken_bytes)" ] && [ "$(number tier_host.returned_bytes)" = 0 ]; do
    n=$((n + 1))
    [ $n -lt 200 ] || fail "the memory of dropped spaces does not come back"
    sleep 0.05
done

# the paper's form: planes as a whole are as near as was asked for
says 0 '18 blocks stored' "$kvfuse" put --address "$address" --space fuse --policy 'fuse 0.9' "$sample"
n=0
until "$kvfuse" stats --socket "$socket" | grep -q '^staging_bytes 0$'; do
    n=$((n + 1))
    [ $n -lt 200 ] || fail "the blocks are not fused"
    sleep 0.05
done
says 0 'verify 20 blocks against .*: the largest plane error is 0\.[0-9]* of its bound .*, the least cosine 0\.9[0-9]*, .* planes came back bit for bit' \
    "$kvfuse" get --address "$address" --space fuse --policy 'fuse 0.9' "$sample" --out "$work/b" --verify
says 0 'space=fuse policy="fuse 0.9" .* planes_fused=[1-9]' "$kvfuse" spaces --socket "$socket"
says 0 'planes fused [1-9]' "$kvfuse" top --socket "$socket" --count 2 --interval-ms 200
says 1 'tau: the space has 0.9, asked for 0.8' "$kvfuse" get --address "$address" --space fuse --policy 'fuse 0.8' "$sample" --out "$work/b"
rm -f "$work/b"
says 0 'is dropped' "$kvfuse" spaces --address "$address" --drop fuse

# a trace: ten prompts of eight blocks that share their first four
i=1
while [ $i -le 10 ]; do
    echo "{\"timestamp\": $i, \"input_length\": 4096, \"output_length\": 1, \"hash_ids\": [0, 1, 2, 3, ${i}1, ${i}2, ${i}3, ${i}4]}"
    i=$((i + 1))
done >"$work/trace.jsonl"
says 0 '"prefix_hit_ratio": 0.45,' "$kvfuse" replay --address "$address" --json "$work/trace.jsonl"
says 0 '"got": 36, "wrong": 0,' \
    "$kvfuse" replay --address "$address" --space bound --policy 'error 0.1' --put-mode raw --json "$work/trace.jsonl"
cp "$work/trace.jsonl" "$work/a \"trace\".jsonl"
says 0 'a \\"trace\\".jsonl' "$kvfuse" replay --address "$address" --json "$work/a \"trace\".jsonl"
echo '{"hash_ids": 7}' >"$work/bad.jsonl"
says 1 'bad.jsonl:1' "$kvfuse" replay --address "$address" "$work/bad.jsonl"

# a space goes, and comes back empty
says 0 "space 'replay' is dropped" "$kvfuse" spaces --address "$address" --drop replay
says 1 "space 'replay' is not dropped: not found" "$kvfuse" spaces --address "$address" --drop replay
says 2 'goes to --address' "$kvfuse" spaces --address "$address" --socket "$socket" --drop shared
"$kvfuse" spaces --socket "$socket" >"$work/out"
! grep -q 'space=replay' "$work/out" || fail "the space is still there"
says 0 '"prefix_hit_ratio": 0.45,' "$kvfuse" replay --address "$address" --json "$work/trace.jsonl"

# a measurement, small
says 0 '32 KiB x 16 x 2 clients' "$kvfuse" bench --address "$address" --socket "$socket" --no-ceilings --ms 100 --sizes 32K \
    --set-bytes 4M --depth 2 --clients 2 --ops put --transports network
says 0 '"op": "match"' "$kvfuse" bench --address "$address" --socket "$socket" --no-ceilings --json --ms 100 --sizes 32K \
    --set-bytes 4M --depth 2
for space in bound bench-32768 bench-128; do # room for what is read
    says 0 'is dropped' "$kvfuse" spaces --address "$address" --drop $space
done
says 0 '"policy": "error 0.1", "put_mode": "raw"' "$kvfuse" bench --address "$address" --socket "$socket" --no-ceilings --json \
    --ms 100 --sizes 32K --set-bytes 4M --depth 2 --ops get --policy 'error 0.1'

# a daemon that hangs
kill -STOP "$daemon"
says 1 "$socket does not answer within 2 s" "$kvfuse" stats --socket "$socket"
kill -CONT "$daemon"

stop() {
    kill "$daemon"
    wait "$daemon" || fail "SIGTERM: the daemon exits with $?"
    daemon=
}
stop
[ ! -e "$socket" ] || fail "the daemon left its socket behind"

# a budget that holds blocks back: put waits for it, and says so; what is not coded yet comes as it was put
start --staging-bytes 1MiB
says 0 '18 blocks stored' "$kvfuse" put --address "$address" --space slow "$sample"
grep -q 'the daemon held blocks back' "$work/out" || fail "put does not say what it waited for"
says 1 'nothing got through for --timeout-ms (300)' \
    "$kvfuse" put --address "$address" --space learns --policy 'error 0.05' --timeout-ms 300 "$sample"
says 0 'refused ' "$kvfuse" top --socket "$socket" --count 1
says 0 'no error' "$kvfuse" get --address "$address" --space learns --policy 'error 0.05' "$sample" --out "$work/b" --verify
grep -q 'are not coded yet' "$work/out" || fail "get does not say that blocks came as they were put"
says 0 'blocks stored' "$kvfuse" put --address "$address" --space learns --policy 'error 0.05' "$sample"
stop
echo "ok"

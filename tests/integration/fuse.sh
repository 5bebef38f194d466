#!/bin/sh
# kvfuse fuse as a user meets it, on real KV: every policy, what it prints and writes, and what it says to mistakes.
#   fuse.sh KVFUSE SAMPLE
set -eu
kvfuse=$1 sample=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAIL: $*" >&2
    cat "$work/out" >&2 2>/dev/null || :
    exit 1
}

# says CODE TEXT COMMAND…: it exits with CODE and prints TEXT
says() {
    want=$1 text=$2 code=0
    shift 2
    "$@" >"$work/out" 2>&1 || code=$?
    [ $code = "$want" ] || fail "'$*' exits with $code, not $want"
    grep -q -- "$text" "$work/out" || fail "'$*' does not say '$text'"
}

# fuses POLICY OPTION…: it works, and the JSON object stands in $work/json
fuses() {
    policy=$1
    shift
    "$kvfuse" fuse "$sample" --policy "$policy" --json "$@" >"$work/json" 2>"$work/out" || fail "'$policy' exits with $?"
    for key in policy bytes_in bytes_held ratio max_row_error encode_gbps decode_gbps; do
        grep -q "\"$key\": " "$work/json" || fail "'$policy' prints no $key"
    done
    [ "$(value bytes_in)" = 7372800 ] || fail "'$policy': not all bytes went in"
}

value() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" "$work/json"; }

# holds "VALUE OPERATOR VALUE"
holds() {
    awk "BEGIN { exit !($1) }" || fail "'$policy': not so: $1 in $(cat "$work/json")"
}

# the restored file has the original's size, tokens and metadata, and other bytes of kv, unless it is exact
is_restored() {
    [ "$(wc -c <"$work/back")" = "$(wc -c <"$sample")" ] || fail "'$policy': the restored file has another size"
    ! cmp -s "$sample" "$work/back" || fail "'$policy': the restored file is the original: nothing was coded"
    "$kvfuse" fuse "$work/back" --policy int8 >"$work/out" 2>&1 || fail "'$policy': the restored file is no KV file"
}

fuses exact --out "$work/back"
cmp -s "$sample" "$work/back" || fail "exact: the file that came back is another"
holds "$(value max_row_error) == 0 && $(value rows_lost) == 0 && $(value ratio) > 1.45"
fuses exact --block 12
holds "$(value rows_lost) == 0 && $(value ratio) > 1.4"

for error in 0.02 0.1; do
    fuses "error $error" --out "$work/back"
    is_restored
    holds "$(value max_row_error) <= $error * 1.00001 && $(value max_row_error) > 0.9 * $error"
done
wide=$(value ratio)
fuses 'error 0.02'
holds "$(value ratio) > 3 && $wide > 1.5 * $(value ratio)"
holds "$(value ratio_without_basis) > $(value ratio)"
fuses 'error 0.05' --no-tokens --basis hadamard --block 12
fuses 'error 0.05' --basis cross
holds "$(value max_row_error) <= 0.0500005 && $(value ratio) > 3"
fuses 'error V=0.1,K=0.02'
holds "$(value max_row_error_k) <= 0.0200002 && $(value max_row_error_v) > 0.09 && $(value max_row_error_v) <= 0.100001"

holds "$(value predicted_ratio) > 0.85 * $(value ratio) && $(value predicted_ratio) < 1.15 * $(value ratio)"

fuses 'ratio 5' --out "$work/back"
is_restored
holds "$(value ratio) > 4.5 && $(value ratio) < 5.5 && $(value max_row_error) < 0.1"

fuses int8 --out "$work/back"
is_restored
holds "$(value bytes_held) == 7372800 * (64 + 2) / 128 && $(value max_row_error) < 0.03"
fuses int4 --out "$work/back"
is_restored
holds "$(value bytes_held) == 7372800 * (32 + 2) / 128 && $(value max_row_error) > 0.1 && $(value max_row_error) < 0.5"
fuses int8 --block 12 # 80 tokens: the last block is short
holds "$(value bytes_held) == 7372800 * (64 + 2) / 128"
# the seed's algorithms: blocks that fuse are far off, and the guard keeps them near
fuses 'bff 0.8' --out "$work/back" --table "$work/table"
is_restored
holds "$(value ratio) > 1.5 && $(value ratio) < 4 && $(value max_row_error) > 0.5"
bff=$(value mean_row_error)
grep -q '^{"policy":"bff 0.8","block_tokens":16,"blocks_a_request":5,"layers":\[{"k":{"units":[0-9]*,"index":\[0,' "$work/table" ||
    fail "the table is none"
fuses 'guarded 0.8'
holds "$(value ratio) > 1.2 && $(value mean_row_error) < 0.5 * $bff && $(value predicted_ratio) > 1"
fuses 'cff 0.7' --block 12
holds "$(value ratio) >= 1"
fuses 'ff 0.8' --block 12
holds "$(value ratio) > 1.5 && $(value predicted_ratio) > 1"
fuses 'bff 1' # nothing but what is the same to the bit fuses, and the rest comes back as it was
holds "$(value mean_row_error) < 0.002 && $(value ratio) >= 1"
fuses 'bff 0.8' --block 100 # no whole block
holds "$(value bytes_held) == 7372800 && $(value max_row_error) == 0"
says 0 'predicts a ratio' "$kvfuse" fuse "$sample" --policy 'bff 0.8'

says 0 'ratio   [1-9]' "$kvfuse" fuse "$sample" --policy int8

# mistakes
says 2 "no policy 'nonsense', but .*int8" "$kvfuse" fuse "$sample" --policy nonsense
for bad in 'error 0' 'error 1.5' 'error -1' 'error nan' 'error K=0.1' 'error K=0.1,K=0.1' 'error K=0.1,V=2' 'error'; do
    says 2 "policy 'error' needs" "$kvfuse" fuse "$sample" --policy "$bad"
done
says 2 "policy 'ratio' needs" "$kvfuse" fuse "$sample" --policy 'ratio 1'
says 2 "policy 'ratio' needs a number of 1.5 to 64" "$kvfuse" fuse "$sample" --policy 'ratio 500'
says 1 'even a bound of .* takes more' "$kvfuse" fuse "$sample" --policy 'ratio 64'
says 2 "policy 'exact' takes nothing behind it" "$kvfuse" fuse "$sample" --policy 'exact 1'
says 2 "policy 'bff' needs a cosine" "$kvfuse" fuse "$sample" --policy 'bff 1.5'
says 2 'has no fused block table' "$kvfuse" fuse "$sample" --policy int8 --table "$work/table"
says 1 'No such file' "$kvfuse" fuse "$sample" --policy 'bff 0.8' --table "$work/none/table"
says 2 'takes nothing behind it' "$kvfuse" fuse "$sample" --policy 'int8 4'
says 2 'which --policy' "$kvfuse" fuse "$sample"
says 2 'which file' "$kvfuse" fuse --policy int8
says 2 'basis is klt, cross or hadamard' "$kvfuse" fuse "$sample" --policy 'error 0.1' --basis dct
says 2 'unrecognized option' "$kvfuse" fuse --nonsense
says 0 'Usage' "$kvfuse" fuse --help
says 0 'Usage' "$kvfuse" fuse -h
says 1 'No such file' "$kvfuse" fuse "$work/none" --policy int8
echo '{"not": "KV"}' >"$work/broken"
says 1 'broken' "$kvfuse" fuse "$work/broken" --policy int8
says 1 'No such file' "$kvfuse" fuse "$sample" --policy int8 --out "$work/none/back"
mkfifo "$work/pipe"
says 1 'no regular file' "$kvfuse" fuse "$sample" --policy int8 --out "$work/pipe"
(trap '' XFSZ; ulimit -f 1000; says 1 'File too large' "$kvfuse" fuse "$sample" --policy int8 --out "$work/large")
for left in "$work"/large*; do [ ! -e "$left" ] || fail "a failure left $left"; done
[ ! -e /dev/full ] || says 1 'cannot write the output' sh -c "'$kvfuse' fuse '$sample' --policy int8 >/dev/full"
echo "ok"

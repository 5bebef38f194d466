#!/bin/sh
# coder_levels.sh PROGRAM - every level of kernels codes the same bytes and decodes the same values.
# A level that the processor lacks runs as the highest that it has: then two outputs are of one level, and equal.
set -eu
program=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for level in ref avx2 avx512; do
    KVF_CPU=$level "$program" >"$folder/$level"
done
[ -s "$folder/ref" ]
for level in avx2 avx512; do
    diff "$folder/ref" "$folder/$level"
done

#!/usr/bin/env python3
"""Makes the README's table out of the JSON lines of tests/bench/run.sh."""
import json
import sys

lines = [json.loads(line) for line in open(sys.argv[1])]


def size(bytes_):
    return f"{bytes_ >> 20} MiB" if bytes_ >= 1 << 20 else f"{bytes_ >> 10} KiB"


print("| op | transport | block | clients | GB/s | p50 / p99 µs of 16 | cpu s/GB | ratio to memcpy | to bare UCX (AM) | one-sided | to Redis |")
print("|---|---|---|---|---|---|---|---|---|---|---|")
for line in lines:
    if line["op"] not in ("put", "get"):
        continue
    ratios = {c["name"]: f"{c['ratio']:.2f} ({c['gbps']:.1f})" for c in line["ceilings"]}
    way = "shm" if line["transport"] == "shared" else "tcp"
    cell = lambda *names: next((ratios[n] for n in names if n in ratios), "")
    print(f"| {line['op']} | {line['transport']} | {size(line['block_bytes'])} | {line['clients']} | {line['gbps']:.1f} | "
          f"{line['p50_us']:.0f} / {line['p99_us']:.0f} | {line['cpu_s_per_gb']:.2f} | {cell('memcpy')} | "
          f"{cell('ucx_am_' + way)} | {cell('ucx_rma_' + way)} | {cell('redis_unix', 'redis_tcp')} |")
print()
print("| match of 128 keys | transport | resident keys | in flight | p50 / p99 µs | million keys/s |")
print("|---|---|---|---|---|---|")
for line in lines:
    if line["op"] == "match":
        print(f"| | {line['transport']} | {line['resident']:,} | {line['depth']} | {line['p50_us']:.1f} / {line['p99_us']:.1f} | "
              f"{line['keys_a_second'] / 1e6:.1f} |")
for line in lines:
    if line["op"] == "start":
        print(f"\nstart with {line['host_gib']} GiB of host memory: listening after {line['listening_ms']} ms")
    if line["op"] == "first puts":
        print(f"first puts, {size(line['block_bytes'])}, from the moment it listens: {line['gbps']:.1f} GB/s, p50 / p99 / p99.9 of "
              f"{line['batch']}: {line['p50_us']:.0f} / {line['p99_us']:.0f} / {line['p999_us']:.0f} µs; "
              f"{line['unprepared_takes']} of {line['takes']} segments were taken before their pages were made")
    if line["op"] == "index":
        print(f"\nindex and eviction policy: {line['bytes_a_key']} bytes a key at {line['resident']:,} keys")

"""The table of network.sh: reads its lines, RATE|LABEL|daemon's ticks|JSON objects of bench_store, and the library's figures."""
import json
import os
import sys

TICK = os.sysconf("SC_CLK_TCK")


def rows(lines):
    link = {}
    for line in lines:
        rate, label, ticks, rest = line.rstrip("\n").split("|", 3)
        if label == "link":
            link[rate] = float(rest)
            continue
        found = [json.loads(part) for part in rest.split(";") if part]
        cpu = next(one["cpu_s"] for one in found if one["what"] == "cpu")
        runs = [one for one in found if one["what"] != "cpu"]
        seconds = sum(one["seconds"] for one in runs)
        for one in runs:
            yield rate, link[rate], label, one, cpu / seconds, int(ticks) / TICK / seconds


def main():
    with open(sys.argv[1]) as file:
        library = json.load(file)
    ratio = library["ratio_without_basis"]
    print(f"library's ratio of this file {library['ratio']:.2f}, without the basis {ratio:.2f}\n")
    print("| link | bare TCP GB/s | op | logical GB/s | × bare TCP | × bare TCP × ratio | p50 / p99 ms of 16 | cores: client, daemon | worst row |")
    print("|---|---|---|---|---|---|---|---|---|")
    for rate, bare, label, one, client, daemon in rows(sys.stdin):
        gbps = one["gbps"]
        of_ratio = "" if label.startswith("exact") else f"{gbps * 1e9 / bare / ratio:.2f}"
        name = label if one["what"] == "put" else f"{label}, {one['what']}"
        worst = f"{one['worst_row']:.4f}" if "worst_row" in one else ""
        print(f"| {rate} | {bare / 1e9:.3f} | {name} | {gbps:.3f} | {gbps * 1e9 / bare:.2f} | {of_ratio} | "
              f"{one['p50_us'] / 1e3:.1f} / {one['p99_us'] / 1e3:.1f} | {client:.2f}, {daemon:.2f} | {worst} |")


main()

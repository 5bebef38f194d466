"""What fused.sh measured, as text: reads the files of its folder."""
import json
import re
import statistics
import sys
from pathlib import Path

work = Path(sys.argv[1])


def lines(name):
    return [json.loads(line) for line in (work / name).read_text().splitlines()]


def space(name):
    line = next(one for one in (work / "spaces").read_text().splitlines() if f"space={name} " in one)
    return {key: value.strip('"') for key, value in re.findall(r'(\w+)=("[^"]*"|\S+)', line)}


library = json.loads((work / "library.json").read_text())
print("| of the same puts | MB held | ratio | of the library's |")
print("|---|---|---|---|")
print(f"| library, one process | {library['bytes_held'] / 1e6:.2f} | {library['ratio']:.3f} | |")
for name, what in (("f5", "daemon, one client"), ("together", "daemon, several clients at once")):
    held = int(space(name)["bytes_held"])  # blocks that were there already are put, too
    print(f"| {what} | {held / 1e6:.2f} | {library['bytes_in'] / held:.3f} | {library['bytes_held'] / held:.3f} |")

exact, fused = lines("put_exact"), lines("put_fused")
print("\n| put, shared memory | GB/s | p50 / p99 ms of 16 blocks | busy blocks |")
print("|---|---|---|---|")
for name, runs in (("exact", exact), ("fused", fused)):
    print(f"| {name} | {statistics.median(one['gbps'] for one in runs):.2f} | "
          f"{statistics.median(one['p50_us'] for one in runs) / 1e3:.2f} / {statistics.median(one['p99_us'] for one in runs) / 1e3:.2f} | "
          f"{sum(one['busy'] for one in runs)} |")
ratio = statistics.median(a["p50_us"] / b["p50_us"] for a, b in zip(fused, exact))
print(f"\nA put's acknowledgement takes {ratio:.2f} times an exact one's (median of {len(fused)} pairs).")

print("\n| get of 16 blocks | p50 / p99 ms | logical GB/s |")
print("|---|---|---|")
for name, file in (("encoders idle", "quiet"), ("encoders at full load", "loaded")):
    one = lines(file)[0]
    print(f"| {name} | {one['p50_us'] / 1e3:.2f} / {one['p99_us'] / 1e3:.2f} | {one['gbps']:.2f} |")
for one in lines("get"):
    print(f"\n{one['what']}: {one['gbps']:.2f} GB/s, largest row error {one['worst_row']:.4f}", end="")
print()

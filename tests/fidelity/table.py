#!/usr/bin/env python3
"""Every policy of `kvfuse fuse` on files of KV, and what it does to the model: one markdown table.

  table.py KVFUSE FILE.safetensors…
"""
import json
import os
import subprocess
import sys
import tempfile

import kv_model

POLICIES = [["exact"], ["error 0.02"], ["error 0.05"], ["error 0.1"], ["error 0.05", "--no-tokens"],
            ["error 0.05", "--basis", "hadamard"],
            ["error 0.02", "--basis", "cross"], ["error 0.05", "--basis", "cross"], ["ratio 8"], ["int8"], ["int4"],
            *[[f"{seed} {threshold}"] for seed in ("bff", "cff", "guarded") for threshold in (0.7, 0.8, 0.9)]]


def fuse(kvfuse, path, policy, out):
    """What `kvfuse fuse` says of it, or None after saying why not."""
    result = subprocess.run([kvfuse, "fuse", path, "--policy", *policy, "--out", out, "--json"], capture_output=True,
                            text=True, check=False)
    if result.returncode != 0:
        print(result.stderr.strip(), file=sys.stderr, flush=True)
        return None
    return json.loads(result.stdout)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    kvfuse, files = sys.argv[1], sys.argv[2:]
    model, _ = kv_model.load_model()
    print("| file | policy | ratio | without basis | predicted | KL, nats | top-1 | max row error | mean |\n"
          "|---|---|---|---|---|---|---|---|---|", flush=True)
    failed = False
    for path in files:
        name = os.path.splitext(os.path.basename(path))[0]
        original = kv_model.Original(model, path)
        for policy in POLICIES:
            with tempfile.TemporaryDirectory() as folder:
                out = os.path.join(folder, "restored.safetensors")
                said = fuse(kvfuse, path, policy, out)
                if said is None:
                    failed = True
                    continue
                score = original.score(out)
            predicted = f"{said['predicted_ratio']:.2f}" if "predicted_ratio" in said else ""
            print(f"| {name} | {' '.join(policy)} | {said['ratio']:.2f} | {said['ratio_without_basis']:.2f} | {predicted} | "
                  f"{score['kl']:.5f} | {score['top1']:.3f} | {said['max_row_error']:.4f} | {said['mean_row_error']:.4f} |",
                  flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())

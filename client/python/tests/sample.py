"""Real KV: tests/data/sample.safetensors, and how far rows are from what they were."""

from __future__ import annotations

import array
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import kvfuse

PATH = Path(__file__).resolve().parents[3] / "tests/data/sample.safetensors"
TOKENS = 16


class Sample:
    """The blocks of the sample: key, bytes, position, token ids, key of the one before."""

    def __init__(self) -> None:
        raw = PATH.read_bytes()
        head_bytes = struct.unpack("<Q", raw[:8])[0]
        head = json.loads(raw[8 : 8 + head_bytes])
        self._data = memoryview(raw)[8 + head_bytes :]
        self._kv, self._tokens = head["kv"], head["tokens"]
        self.requests, layers, planes, self.tokens, heads, dims = self._kv["shape"]
        self.row_bytes = 2 * dims
        frequencies = [float(f) for f in head["__metadata__"]["rope_inv_freq"].split()]
        self.layout = kvfuse.Layout(layers=layers, planes=planes, kv_heads=heads, head_dim=dims, block_tokens=TOKENS, dtype="bf16",
                                    rope_style="neox", rope_dim=dims, rope_frequencies=[frequencies], model="sample")

    def blocks(self) -> Iterator[kvfuse.Block]:
        """Pieces are as they lie in the file: one for each layer and plane, not copied."""
        planes = self.layout.layers * self.layout.planes
        begin, token_bytes = self._kv["data_offsets"][0], self.layout.kv_heads * self.row_bytes
        ids_begin, ids_each = self._tokens["data_offsets"][0], self._tokens["shape"][1]
        for r in range(self.requests):
            for b in range(self.tokens // TOKENS):
                at = [begin + ((r * planes + p) * self.tokens + b * TOKENS) * token_bytes for p in range(planes)]
                pieces = [self._data[a : a + TOKENS * token_bytes] for a in at]
                ids_at = ids_begin + 4 * (r * ids_each + b * TOKENS)
                yield kvfuse.Block(b"sample-%d-%d" % (r, b), pieces, position=b * TOKENS,
                                   token_ids=self._data[ids_at : ids_at + 4 * TOKENS].cast("I"),
                                   previous=b"sample-%d-%d" % (r, b - 1) if b else None)


def read_bf16(data: bytes | memoryview) -> list[float]:
    halves = array.array("H", bytes(data))
    return list(struct.unpack(f"<{len(halves)}f", b"".join(struct.pack("<I", h << 16) for h in halves)))


def worst_row(was: bytes, now: bytes, row_bytes: int) -> float:
    """The largest ‖x − x̂‖ / ‖x‖ of all rows; infinite where a row of zeros is not zero."""
    x, y = read_bf16(was), read_bf16(now)
    dims, worst = row_bytes // 2, 0.0
    for i in range(0, len(x), dims):
        norm = math.sqrt(sum(v * v for v in x[i : i + dims]))
        error = math.sqrt(sum((a - b) ** 2 for a, b in zip(x[i : i + dims], y[i : i + dims])))
        worst = max(worst, error / norm if norm else math.inf if error else 0.0)
    return worst

"""Real KV in a fused space: every row within its bound, and the get tells the bound."""

from __future__ import annotations

import time

import pytest
from conftest import connect, names
from sample import Sample, worst_row

import kvfuse
from kvfuse import Block

CODED_S = 20
EPSILON = 0.05


@pytest.mark.parametrize("put_mode", ["raw", "fused"])
def test_rows_of_a_fused_space_are_within_the_bound(daemon, put_mode):
    sample = Sample()
    with connect(daemon.address, put_mode=put_mode) as client:
        name = next(names)
        space = client.space(name, sample.layout, policy=f"error {EPSILON}")
        blocks = list(sample.blocks())
        space.put(blocks, timeout=CODED_S, await_room=True).wait().raise_for_status()
        deadline = time.monotonic() + CODED_S
        while daemon.stat("fusion.blocks_waiting") or daemon.stat("staging_bytes"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        outs = [bytearray(sample.layout.block_bytes) for _ in blocks]
        result = space.get([Block(b.key, o) for b, o in zip(blocks, outs)], bounds=True).wait().raise_for_status()
        assert result.bounds is not None and len(result.bounds) == len(blocks)
        for pair in result.bounds:
            assert pair == pytest.approx((EPSILON, EPSILON))
        worst = 0.0
        for i in (0, 7, 19):
            was = b"".join(bytes(piece) for piece in blocks[i].pieces)
            assert was != outs[i], "nothing was coded"
            worst = max(worst, worst_row(was, bytes(outs[i]), sample.row_bytes))
        assert 0 < worst <= EPSILON * (1 + 1e-6)
        # a layer alone is the same rows
        each = sample.layout.layer_bytes
        layers = bytearray(2 * each)
        told = space.get([Block(blocks[7].key, layers)], first_layer=5, num_layers=2, bounds=True).wait().raise_for_status()
        assert told.bounds == [pytest.approx((EPSILON, EPSILON))] and layers == outs[7][5 * each : 7 * each]
        client.drop(name)

"""Tables of a space under policy fuse: shared vectors and gains are the blocks that a get brings."""

from __future__ import annotations

import gc
import time

import pytest
from conftest import connect, names
from sample import Sample, read_bf16

import kvfuse
from kvfuse import Block, Status, Table

FUSED_S = 20
ROUNDING = 2.0**-8  # of a bf16


def put_and_wait(daemon, space, blocks):
    """Puts, and waits until all is fused."""
    space.put(blocks).wait().raise_for_status()
    deadline = time.monotonic() + FUSED_S
    while daemon.stat("fusion.blocks_waiting") or daemon.stat("staging_bytes"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_table_is_the_blocks(daemon):
    sample = Sample()
    with connect(daemon.address) as client:
        name = next(names)
        space = client.space(name, sample.layout, policy="fuse 0.8")
        blocks = list(sample.blocks())[:10]
        put_and_wait(daemon, space, blocks)
        keys = [b.key for b in blocks] + [b"nobody"]
        result = space.get_table(keys, first_layer=3, num_layers=2).wait()
        assert result.status is Status.PARTIAL and result.statuses == [Status.OK] * 10 + [Status.ERR_NOT_FOUND]
        table = result.table
        assert table is not None and (table.first_layer, table.num_layers, table.num_planes, table.num_blocks) == (3, 2, 4, 11)
        assert table.vector_bytes == sample.layout.layer_bytes // 2 and 4 < table.num_vectors < 40, "vectors are shared"
        outs = [bytearray(2 * sample.layout.layer_bytes) for _ in blocks]
        space.get([Block(b.key, out) for b, out in zip(blocks, outs)], first_layer=3, num_layers=2).wait().raise_for_status()
        client.drop(name)
    checked = 0
    for plane in range(4):
        assert table.numbers[plane, 10] == Table.NONE
        for i, out in enumerate(outs):
            gain, vector = table.gains[plane, i], table.vector(table.numbers[plane, i])
            if table.turns[plane, i]:
                assert plane % 2 == 0, "V has no position"
                continue
            got = out[plane * table.vector_bytes : (plane + 1) * table.vector_bytes]
            if gain == 1:
                assert got == bytes(vector)
            else:
                for x, y in zip(read_bf16(got), read_bf16(vector)):
                    assert x == pytest.approx(gain * y, rel=ROUNDING, abs=1e-30)
            checked += 1
    assert checked >= 20, "V at least"


def test_views_outlive_table_and_client(daemon):
    sample = Sample()
    with connect(daemon.address) as client:
        name = next(names)
        space = client.space(name, sample.layout, policy="fuse 0.9")
        block = next(sample.blocks())
        put_and_wait(daemon, space, [block])
        table = space.get_table([block.key]).wait().raise_for_status().table
        assert table is not None
        numbers, vector, first = table.numbers, table.vector(0), bytes(table.vector(0))
        with pytest.raises(IndexError, match="no vector"):
            table.vector(table.num_vectors)
        dropped = space.get_table([block.key])
        client.drop(name)
        del table, dropped
    gc.collect()
    assert bytes(vector) == first and numbers[0, 0] < Table.NONE
    assert vector.readonly and numbers.readonly
    assert first in [bytes(piece) for piece in block.pieces], "nobody joined it"


def test_only_fused_spaces_have_tables(client, space):
    with pytest.raises(kvfuse.Error) as caught:
        space.get_table([b"key"])
    assert caught.value.status is Status.ERR_UNSUPPORTED
    with pytest.raises(ValueError, match="no layers"):
        space.get_table([b"key"], first_layer=4)

"""Bytes in, the same bytes out, whatever they lie in."""

from __future__ import annotations

import array
import ctypes

import pytest
from conftest import not_tested

import kvfuse
from kvfuse import Block, Status


def test_put_match_get_delete_give_what_was_put(space, make_block):
    keys, data = zip(*(make_block(i) for i in range(20)))
    put = space.put([Block(k, d) for k, d in zip(keys, data)]).wait()
    assert put.status is Status.OK and put.statuses == [Status.OK] * 20 and put.bounds is None
    assert space.match([*keys, b"none"]).wait().matched == 20
    assert space.match([b"none", *keys]).wait() == kvfuse.Result(Status.OK, [], 0)
    out = [bytearray(space.layout.block_bytes) for _ in keys]
    got = space.get([Block(k, o) for k, o in zip(keys, out)], bounds=True).wait()
    assert got.status is Status.OK and got.bounds == [(0.0, 0.0)] * 20
    assert out == list(data)
    assert space.delete([keys[3], b"none"]).wait().statuses == [Status.OK, Status.NOT_FOUND]
    assert space.match(keys).wait().matched == 3


def test_second_put_of_a_key_exists_and_leaves_the_first(space, make_block):
    key, data = make_block(1)
    space.put([Block(key, data)]).wait().raise_for_status()
    again = space.put([Block(key, bytes(len(data)))]).wait().raise_for_status()
    assert again.statuses == [Status.EXISTS]
    out = bytearray(len(data))
    space.get([Block(key, out)]).wait()
    assert out == data


def test_some_missing_is_partial_and_all_missing_is_not_found(space, make_block):
    key, data = make_block(2)
    space.put([Block(key, data)]).wait()
    outs = [bytearray(len(data)) for _ in range(3)]
    result = space.get([Block(key, outs[0]), Block(b"a", outs[1]), Block(b"b", outs[2])]).wait()
    assert result.status is Status.PARTIAL and result.statuses == [Status.OK, Status.NOT_FOUND, Status.NOT_FOUND]
    with pytest.raises(kvfuse.Error, match="2 of 3 keys failed, the first .number 1.: not found") as raised:
        result.raise_for_status()
    assert raised.value.status is Status.PARTIAL and outs[0] == data
    with pytest.raises(kvfuse.NotFound) as raised:
        space.get([Block(b"a", outs[0])]).wait().raise_for_status()
    assert raised.value.name == "KVF_ERR_NOT_FOUND" and str(raised.value) == "not found"


def cut(memory, sizes):
    view, at = memoryview(memory).cast("B"), 0
    pieces = []
    for size in sizes:
        pieces.append(view[at : at + size])
        at += size
    assert at == len(view)
    return pieces


def test_pieces_may_be_cut_anywhere(space, make_block):
    key, data = make_block(3)
    n = len(data)
    space.put([Block(key, cut(data, [1, 2, 0, 509, n - 513, 1]))]).wait().raise_for_status()
    out = bytearray(n)
    space.get([Block(key, tuple(cut(out, [7, n - 8, 1])))]).wait().raise_for_status()
    assert out == data
    # backwards in memory, and pieces of several kinds
    backwards = bytearray(n)
    half = cut(backwards, [n // 2, n // 2])
    space.get([Block(key, [half[1], half[0]])]).wait().raise_for_status()
    assert backwards == data[n // 2 :] + data[: n // 2]


def test_any_buffer_will_do(space, make_block):
    key, data = make_block(4)
    n = len(data)
    first, second, third = array.array("H", data[:512]), (ctypes.c_char * 512).from_buffer_copy(data[512:1024]), data[1024:]
    space.put([Block(key, [first, second, third])]).wait().raise_for_status()
    out = [array.array("q", bytes(n // 2)), (ctypes.c_char * (n // 2))()]
    space.get([Block(key, out)]).wait().raise_for_status()
    assert b"".join(bytes(o) for o in out) == data


def test_pointers_reach_memory_without_any_object(space, make_block):
    key, data = make_block(5)
    n = len(data)
    source, target = ctypes.create_string_buffer(data, n), ctypes.create_string_buffer(n)
    a, b = ctypes.addressof(source), ctypes.addressof(target)
    space.put([Block(key, [kvfuse.Pointer(a, 100), kvfuse.Pointer(a + 100, n - 100)])]).wait().raise_for_status()
    space.get([Block(key, kvfuse.Pointer(b, n))]).wait().raise_for_status()
    assert target.raw == data
    ctypes.memset(b, 0, n)
    table = array.array("Q", [x for i in range(0, n, 32) for x in (b + i, 32)])
    space.get([Block(key, kvfuse.Pointers(table, owner=target))]).wait().raise_for_status()
    assert target.raw == data


@pytest.mark.parametrize("first, count", [(0, 1), (1, 2), (2, 0), (3, 1), (0, 0)])
def test_layers_can_be_got_alone(space, make_block, first, count):
    key, data = make_block(6)
    space.put([Block(key, data)]).wait().raise_for_status()
    each = space.layout.layer_bytes
    last = first + count if count else space.layout.layers
    out = bytearray((last - first) * each)
    space.get([Block(key, out)], first_layer=first, num_layers=count).wait().raise_for_status()
    assert out == data[first * each : last * each]


def test_memory_of_the_library_is_memory(client, space, make_block):
    key, data = make_block(7)
    memory = client.memory(2 * len(data))
    assert memory.nbytes == 2 * len(data) and memory.address and memory.exports == 0
    with memoryview(memory) as view:
        view[: len(data)] = data
        space.put([Block(key, view[: len(data)])]).wait().raise_for_status()
        space.get([Block(key, view[len(data) :])]).wait().raise_for_status()
        assert view[len(data) :] == data
        with pytest.raises(BufferError, match="use this memory"):
            memory.free()
    whole = space.get([Block(key, kvfuse.Pointer(memory.address, len(data)))])
    whole.wait().raise_for_status()
    memory.free()
    memory.free()
    assert memory.nbytes == 0
    with pytest.raises(BufferError, match="freed"):
        memoryview(memory)


def test_registered_memory_is_the_callers_own(client, space, make_block):
    key, data = make_block(8)
    cache = bytearray(4096 * 16)
    registration = client.register(cache)
    with pytest.raises(BufferError):
        cache.append(0)
    space.put([Block(key, data)]).wait().raise_for_status()
    space.get([Block(key, memoryview(cache)[: len(data)])]).wait().raise_for_status()
    registration.unregister()
    registration.unregister()
    assert cache[: len(data)] == data
    cache.append(0)


def test_nothing_asked_is_done_at_once(space):
    for request in (space.put([]), space.get([]), space.match([]), space.delete([])):
        assert request.done() and request.wait() == kvfuse.Result(Status.OK, [], 0)


def test_blocks_may_come_from_any_iterable(space, make_block):
    keys = [make_block(i)[0] for i in range(3)]
    space.put(Block(*make_block(i)) for i in range(3)).wait().raise_for_status()
    assert space.match(iter(keys)).wait().matched == 3
    assert space.match(dict.fromkeys(keys)).wait().matched == 3


@pytest.mark.parametrize("ids", [range(8), list(range(8)), array.array("I", range(8)), array.array("i", range(8)),
                                 array.array("q", range(8)), (ctypes.c_uint32 * 8)(*range(8))])
def test_token_ids_may_be_any_integers(space, make_block, ids):
    key, data = make_block(9)
    space.put([Block(key, data, position=16, token_ids=ids, previous=b"before")]).wait().raise_for_status()


def test_numpy_arrays_are_used_where_they_lie(space, make_block):
    try:
        import numpy as np
    except ImportError:
        not_tested("numpy arrays")
    key, data = make_block(10)
    cache = np.zeros((4, 2, 3, 8, 2, 16), np.uint16)  # [layer, plane, page, token, head, dim]
    source = np.frombuffer(data, np.uint16).reshape(4, 2, 8, 2, 16)
    space.put([Block(key, source, token_ids=np.arange(8))]).wait().raise_for_status()
    space.get([Block(key, [cache[layer, plane, 1] for layer in range(4) for plane in range(2)])]).wait().raise_for_status()
    assert (cache[:, :, 1] == source).all() and not cache[:, :, 0].any() and not cache[:, :, 2].any()
    # one table of (address, bytes), made at once
    cache[:] = 0
    addresses = cache.ctypes.data + cache.strides[0] * np.arange(4)[:, None] + cache.strides[1] * np.arange(2) + 2 * cache.strides[2]
    table = np.empty((8, 2), np.uint64)
    table[:, 0], table[:, 1] = addresses.ravel(), cache.strides[2]
    space.get([Block(key, kvfuse.Pointers(table, cache))]).wait().raise_for_status()
    assert (cache[:, :, 2] == source).all() and not cache[:, :, :2].any()
    with pytest.raises(ValueError, match="block 0, piece 0: .*not C-contiguous"):
        space.get([Block(key, cache[:, :, 1])])


def test_torch_tensors_are_used_where_they_lie(space, make_block):
    try:
        import torch
    except ImportError:
        not_tested("torch tensors")
    key, data = make_block(11)
    source = torch.frombuffer(bytearray(data), dtype=torch.bfloat16).reshape(4, 2, 8, 2, 16)
    cache = torch.zeros((4, 2, 3, 8, 2, 16), dtype=torch.bfloat16)
    space.put([Block(key, source)]).wait().raise_for_status()
    pieces = [cache[layer, plane, 1] for layer in range(4) for plane in range(2)]
    request = space.get([Block(key, pieces)])
    del pieces
    request.wait().raise_for_status()
    assert cache[:, :, 1].view(torch.int16).equal(source.view(torch.int16))
    assert not cache[:, :, 0].any() and not cache[:, :, 2].any()
    with pytest.raises(ValueError, match="block 0, piece 0: the tensor is not contiguous"):
        space.get([Block(key, cache[:, :, 1])])
    with pytest.raises(ValueError, match="block 0, piece 0: a tensor on meta: only those on the CPU"):
        space.get([Block(key, torch.zeros(space.layout.block_bytes, dtype=torch.uint8, device="meta"))])


def test_a_large_batch_comes_back_whole(client, make_block):
    layout = kvfuse.Layout(layers=30, kv_heads=3, head_dim=64, block_tokens=16, model="large")
    space = client.space("large", layout)
    n, count = layout.block_bytes, 60
    data = bytearray(b"".join(bytes([i]) * n for i in range(count)))
    view = memoryview(data)
    keys = [b"%d" % i for i in range(count)]
    space.put([Block(k, view[i * n : (i + 1) * n]) for i, k in enumerate(keys)]).wait().raise_for_status()
    out = bytearray(len(data))
    pieces = [cut(memoryview(out)[i * n : (i + 1) * n], [n // 60] * 60) for i in range(count)]
    space.get([Block(k, p) for k, p in zip(keys, pieces)]).wait().raise_for_status()
    assert out == data
    client.drop("large")

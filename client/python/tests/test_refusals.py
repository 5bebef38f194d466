"""What cannot be asked is refused at once, by name, and nothing is started."""

from __future__ import annotations

import array

import pytest
from conftest import connect

import kvfuse
from kvfuse import Block

N = 4096  # bytes of a block of the layout fixture


def test_layout_knows_its_sizes(layout):
    assert layout.block_bytes == N and layout.layer_bytes == N // 4
    assert layout == kvfuse.Layout(layers=4, kv_heads=2, head_dim=16, block_tokens=8, model="pytest")
    fp32 = kvfuse.Layout(layers=1, planes=1, kv_heads=1, head_dim=3, block_tokens=5, dtype="fp32")
    assert fp32.block_bytes == 60


def test_layout_survives_pickling(layout):
    import copy
    import pickle

    rope = kvfuse.Layout(layers=2, rope_style="gptj", rope_dim=4, rope_frequencies=[[1, 0.5]] * 2)
    for one in (layout, rope):
        assert pickle.loads(pickle.dumps(one)) == one and copy.deepcopy(one).block_bytes == one.block_bytes


@pytest.mark.parametrize("wrong", [
    {"layers": 0}, {"layers": -1}, {"layers": 1 << 40}, {"planes": 3}, {"kv_heads": 129}, {"head_dim": 1025}, {"block_tokens": 0},
    {"dtype": "int8"}, {"rope_style": "spiral"}, {"rope_style": "neox"}, {"rope_dim": 8}, {"model": "x" * 256},
    {"rope_style": "neox", "rope_dim": 4, "rope_frequencies": [[1.0]]},
    {"rope_style": "neox", "rope_dim": 4, "rope_frequencies": [[1.0, 0.5]] * 3},
])
def test_what_is_no_layout_is_a_value_error(wrong):
    with pytest.raises(ValueError):
        kvfuse.Layout(**{"layers": 2, **wrong})


@pytest.mark.parametrize("block, error, text", [
    (Block(b"", bytes(N)), ValueError, "block 0: key has 0 bytes, not 1 to 64"),
    (Block(b"x" * 65, bytes(N)), ValueError, "block 0: key has 65 bytes"),
    (Block("text", bytes(N)), TypeError, "block 0: key is bytes, not str"),
    (Block(b"k", bytes(N - 1)), ValueError, f"block 0: its pieces hold {N - 1} bytes, where {N} are asked for"),
    (Block(b"k", [bytes(N), b"x"]), ValueError, f"block 0: its pieces hold {N + 1} bytes"),
    (Block(b"k", []), ValueError, "block 0: its pieces hold 0 bytes"),
    (Block(b"k", [bytes(N // 2), 7]), TypeError, "block 0, piece 1: int has neither the buffer protocol"),
    (Block(b"k", "text"), TypeError, "block 0, piece 0: str has neither"),
    (Block(b"k", memoryview(bytes(2 * N))[::2]), ValueError, "block 0, piece 0: .*not C-contiguous"),
    (Block(b"k", kvfuse.Pointer("a", 1)), TypeError, "block 0, piece 0: "),
    (Block(b"k", kvfuse.Pointer(-1, 1)), ValueError, "block 0, piece 0: "),
    (Block(b"k", kvfuse.Pointers(bytes(24))), ValueError, "block 0, pieces: the table is not"),
    (Block(b"k", kvfuse.Pointers(7)), TypeError, "block 0, pieces: "),
    (Block(b"k", bytes(N), position=-1), ValueError, "block 0, position: "),
    (Block(b"k", bytes(N), position="1"), TypeError, "block 0, position: "),
    (Block(b"k", bytes(N), token_ids=range(7)), ValueError, "block 0, token_ids: 7 token ids, where a block has 8 tokens"),
    (Block(b"k", bytes(N), token_ids=[-1] * 8), ValueError, "block 0, token_ids: "),
    (Block(b"k", bytes(N), token_ids=array.array("q", [-1] * 8)), ValueError, "block 0, token_ids: a token id is beyond 32 bits"),
    (Block(b"k", bytes(N), token_ids=["a"] * 8), TypeError, "block 0, token_ids: "),
    (Block(b"k", bytes(N), token_ids=array.array("d", range(8))), ValueError, "block 0, token_ids: 64 bytes of 'd' are not 8 integers"),
    (Block(b"k", bytes(N), token_ids=8), TypeError, "block 0, token_ids: "),
    (Block(b"k", bytes(N), previous=b""), ValueError, "block 0: previous has 0 bytes"),
    (Block(b"k", bytes(N), previous=5), TypeError, "block 0: previous is bytes, not int"),
    (b"no block", AttributeError, "key"),
])
def test_what_is_no_block_is_refused_by_name(space, block, error, text):
    with pytest.raises(error, match=text):
        space.put([block])
    assert space.match([b"k"]).wait().matched == 0
    good = Block(b"good", bytes(N))
    with pytest.raises(error):
        space.put([good, block])
    assert space.match([b"good"]).wait().matched == 0


def test_a_get_needs_memory_that_it_may_write(space):
    for piece in (bytes(N), memoryview(bytearray(N)).toreadonly()):
        with pytest.raises(ValueError, match="block 0, piece 0: .*(not writable|read-only)"):
            space.get([Block(b"k", piece)])


def test_refused_memory_is_let_go(space):
    memory = bytearray(N)
    with pytest.raises(ValueError):
        space.get([Block(b"k", memory), Block(b"k", bytearray(1))])
    memory.append(0)


@pytest.mark.parametrize("first, count", [(4, 1), (-1, 1), (0, 5), (3, 2), (0, -1)])
def test_layers_that_are_not_there_are_refused(space, first, count):
    with pytest.raises(ValueError, match="there are no layers"):
        space.get([Block(b"k", bytearray(N))], first_layer=first, num_layers=count)


def test_keys_are_a_sequence_of_bytes(space):
    with pytest.raises(TypeError, match="not a key"):
        space.match(b"abc")
    with pytest.raises(TypeError, match="block 1: key is bytes, not str"):
        space.delete([b"a", "b"])


@pytest.mark.parametrize("policy", ["", "exactly", "error", "error 2", "ratio 1"])
def test_what_is_no_policy_is_a_value_error(client, layout, policy):
    with pytest.raises(ValueError):
        client.space("s", layout, policy=policy)


@pytest.mark.parametrize("wrong", [{"transport": "pigeon"}, {"put_mode": "cooked"}, {"connect_timeout": -1}, {"request_timeout": float("nan")}])
def test_what_is_no_option_is_a_value_error(daemon, wrong):
    with pytest.raises(ValueError):
        connect(daemon.address, **wrong)


def test_memory_of_no_bytes_is_a_value_error(client):
    for nbytes in (0, -5):
        with pytest.raises(ValueError):
            client.memory(nbytes)
    for what in (7, "text", None):
        with pytest.raises(TypeError, match="memory: .* has neither the buffer protocol"):
            client.register(what)

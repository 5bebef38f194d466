"""What the adapters for other caches share: layouts for opaque pages, and a store that comes and goes."""

from __future__ import annotations

import random
import signal

import pytest
from waiting import until

import kvfuse
from kvfuse.adapter import Store, key_of, opaque_layout


def test_pages_of_any_size_have_a_layout():
    sizes = [1, 2, 3, 511, 4096, 2 * 4099 * 31, 2 * 1048573, 33554432, 2 * 80 * 256 * 8 * 128 * 2, 576 * 61 * 64 * 2]
    rng = random.Random(1)
    for nbytes in sizes + [rng.randrange(1, 1 << rng.randrange(4, 28)) for _ in range(300)]:
        layout = opaque_layout(nbytes, "m")
        assert nbytes <= layout.block_bytes <= nbytes + max(1, nbytes // 500), nbytes
    assert opaque_layout(33554432, "m").block_bytes == 33554432
    for wrong in (0, -1, 1 << 40):
        with pytest.raises(ValueError):
            opaque_layout(wrong, "m")


def test_keys_of_any_length_have_a_key():
    keys = {key_of(text) for text in ("", "a", "ä" * 300, "b" * 64, "b" * 65)}
    assert len(keys) == 5 and all(len(key) == 32 for key in keys)


@pytest.mark.parametrize("wrong", [{"transport": "pigeon"}, {"policy": "exactly"}, {"connect_timeout": -1}, {"transprot": "auto"}])
def test_a_wrong_option_is_an_error_at_once(daemon, wrong):
    options = {"policy": "exact", **wrong}
    with pytest.raises((ValueError, TypeError)):
        Store(daemon.address, "pytest", **options)


def test_a_store_that_is_not_there_yet_is_found_later(own_daemon):
    layout = opaque_layout(4096, "later")
    own_daemon.signal(signal.SIGKILL)
    store = Store(own_daemon.address, "pytest", "exact", connect_timeout=0.5)
    try:
        door = store.open("later", layout)
        assert not door.wait(5) and door.space() is None
        told = []
        door.enter(told.append)
        assert told == [None]
        own_daemon.start()
        until(lambda: door.space() is not None)
        door.enter(told.append)
        assert told[1] is door.space()
    finally:
        store.close()
    assert door.space() is None


def test_a_space_of_another_layout_is_no_space_until_it_is_dropped(own_daemon):
    with kvfuse.Client(own_daemon.address) as client:
        client.space("taken", opaque_layout(4096, "theirs"))
        store = Store(own_daemon.address, "pytest", "exact")
        try:
            door = store.open("taken", opaque_layout(4096, "ours"))
            assert not door.wait(5)
            client.drop("taken")
            until(lambda: door.space() is not None)
        finally:
            store.close()

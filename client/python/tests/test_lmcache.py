"""kvfuse.lmcache behind LMCache's own native_plugin adapter and its storage manager, configured as LMCache is on its command line."""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import threading
import time

import pytest
from conftest import NOT_TESTED
from sample import Sample, worst_row
from waiting import until

import kvfuse
from kvfuse.adapter import key_of
from kvfuse.lmcache import Connector

os.environ.update(LMCACHE_TRACK_USAGE="false", DO_NOT_TRACK="1")
try:
    import torch
    from lmcache.v1.distributed.api import GroupedObjectKeys, MemoryLayoutDesc, ObjectKey, PrefetchTaskSpec
    from lmcache.v1.distributed.config import get_arg_parser, parse_args_to_config
    from lmcache.v1.distributed.l2_adapters import create_l2_adapter
    from lmcache.v1.distributed.l2_adapters.config import add_l2_adapters_args, parse_args_to_l2_adapters_config
    from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import NativeConnectorL2Adapter, _object_key_to_string
    from lmcache.v1.distributed.storage_manager import StorageManager
    from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj
except ImportError as error:
    why = f"kvfuse.lmcache: LMCache is not installed ({error}); tests/engine/adapters.sh has it"
    NOT_TESTED.append(why)
    pytest.skip(why, allow_module_level=True)

SHAPE = (2, 4, 32, 128)
BYTES = 2 * 2 * 4 * 32 * 128


def config(daemon, **params):
    """What stands behind --l2-adapter."""
    return json.dumps({"type": "native_plugin", "module_path": "kvfuse.lmcache", "class_name": "Connector",
                       "adapter_params": {"address": daemon.address, "space": f"pytest-{random.random()}", **params}})


def make(text):
    parser = add_l2_adapters_args(argparse.ArgumentParser())
    adapter = create_l2_adapter(parse_args_to_l2_adapters_config(parser.parse_args(["--l2-adapter", text])).adapters[0])
    assert type(adapter) is NativeConnectorL2Adapter
    return adapter


@pytest.fixture
def adapter(daemon, request):
    adapter = make(config(daemon, **getattr(request, "param", {"object_bytes": BYTES})))
    yield adapter
    adapter.close()


def key(i, **other):
    usual = {"chunk_hash": random.Random(i).randbytes(32), "model_name": "org/a-model-of-a-long-name", "kv_rank": 0xFF}
    return ObjectKey(**{**usual, **other})


def thing(data, physical=0):
    """An object as LMCache's L1 has it."""
    raw = torch.frombuffer(bytearray(data).ljust(physical, b"\xee"), dtype=torch.uint8)
    about = MemoryObjMetadata(shape=torch.Size([len(data)]), dtype=torch.uint8, address=0, phy_size=len(raw), ref_count=1,
                              fmt=MemoryFormat.BINARY)
    return TensorMemoryObj(raw, about, None)


def data(i, nbytes=BYTES):
    return random.Random(i).randbytes(nbytes)


def full(i, nbytes=BYTES):
    return thing(data(i, nbytes))


def empty(nbytes=BYTES):
    return thing(bytes(nbytes))


def bytes_of(things):
    return [bytes(t.byte_array) for t in things]


def ended(fd, take, seconds=15):
    """What `take` returns once it returns something: woken by the descriptor that LMCache polls, nothing else."""
    end = time.monotonic() + seconds
    while True:
        found = take()
        if found:
            return found
        assert select.select([fd], [], [], end - time.monotonic())[0], "never told"
        os.read(fd, 8)


def store(adapter, keys, things):
    task = adapter.submit_store_task(keys, things)
    done = ended(adapter.get_store_event_fd(), adapter.pop_completed_store_tasks)
    assert list(done) == [task]
    return done[task].is_successful()


def lookup(adapter, keys):
    task = adapter.submit_lookup_and_lock_task(keys, {})
    return ended(adapter.get_lookup_and_lock_event_fd(), lambda: adapter.query_lookup_and_lock_result(task) or None).get_indices_list()


def load(adapter, keys, things):
    task = adapter.submit_load_task(keys, things)
    return ended(adapter.get_load_event_fd(), lambda: adapter.query_load_result(task) or None).get_indices_list()


@pytest.mark.parametrize("adapter", [{"object_bytes": BYTES, "transport": transport} for transport in ("shared", "network")], indirect=True)
def test_what_is_stored_is_found_and_loaded(adapter):
    keys, things = [key(i) for i in range(12)], [full(i) for i in range(12)]
    assert lookup(adapter, keys) == [] and load(adapter, keys, [empty() for _ in keys]) == []
    assert store(adapter, keys[:8], things[:8])
    out = [empty() for _ in keys]
    assert lookup(adapter, keys) == list(range(8)) and load(adapter, keys, out) == list(range(8))
    assert bytes_of(out[:8]) == bytes_of(things[:8])
    mixed = [11, 3, 9, 10, 0, 7, 8, 1]  # not a prefix: each is told
    assert lookup(adapter, [keys[i] for i in mixed]) == [1, 4, 5, 7]
    assert load(adapter, [keys[i] for i in mixed], [empty() for _ in mixed]) == [1, 4, 5, 7]
    assert store(adapter, keys[:8], things[:8])  # again: they are there
    assert adapter.get_usage().total_bytes_used == 8 * BYTES
    adapter.delete(keys[:3] + keys[10:])
    assert lookup(adapter, keys) == list(range(3, 8)) and adapter.get_usage().total_bytes_used == 5 * BYTES


def test_keys_differ_by_all_that_lmcache_tells(adapter):
    others = [{}, {"model_name": "other"}, {"kv_rank": 1}, {"object_group_id": 1}, {"cache_salt": "s" * 128}]
    for i, other in enumerate(others):
        assert lookup(adapter, [key(0, **other)]) == []
        assert store(adapter, [key(0, **other)], [full(i)])
    out = [empty() for _ in others]
    assert load(adapter, [key(0, **other) for other in others], out) == list(range(len(others)))
    assert bytes_of(out) == [data(i) for i in range(len(others))]


@pytest.mark.parametrize("adapter", [{}, {"object_bytes": [3001, 1]}], indirect=True)
def test_objects_of_any_size_may_be_in_one_batch(adapter):
    sizes = [BYTES, 1, 3001, 3001, BYTES // 2, 2 * 4099 * 31, 7]
    keys, things, out = [key(i) for i in range(len(sizes))], [full(i, n) for i, n in enumerate(sizes)], [empty(n) for n in sizes]
    assert store(adapter, keys, things)
    assert lookup(adapter, keys + [key(99)]) == list(range(len(sizes)))
    assert load(adapter, keys, out) == list(range(len(sizes))) and bytes_of(out) == bytes_of(things)
    assert load(adapter, keys[:1], [empty(BYTES // 2)]) == []  # there, but not of that size


def test_memory_behind_an_object_is_left_alone(adapter):
    assert store(adapter, [key(1)], [thing(data(1), physical=BYTES + 4096)])
    out = thing(bytes(BYTES), physical=BYTES + 4096)
    assert load(adapter, [key(1)], [out]) == [0]
    assert bytes(out.raw_data[:BYTES].numpy()) == data(1) and bytes(out.raw_data[BYTES:].numpy()) == b"\xee" * 4096


def test_a_fresh_process_finds_objects_of_the_size_that_it_was_told(daemon):
    text = config(daemon)
    first = make(text)
    assert lookup(first, [key(1)]) == []
    assert store(first, [key(1)], [full(1)])
    first.close()
    untold, told = make(text), make(text[:-2] + f', "object_bytes": {BYTES}}}}}')
    assert lookup(untold, [key(1)]) == [] and lookup(told, [key(1)]) == [0]
    assert load(untold, [key(1)], [empty()]) == [0] and lookup(untold, [key(1)]) == [0]
    untold.close()
    told.close()


def test_many_threads_are_each_told_once(daemon):
    """Through the connector alone, as LMCache's demultiplexer calls it: a completion that another call takes is not lost."""
    connector = Connector(daemon.address, space=f"threads-{random.random()}", object_bytes=1024)
    told, numbers, sets, stop = {}, [], [], threading.Event()

    def drain():
        poller = select.poll()
        poller.register(connector.event_fd(), select.POLLIN)
        while not stop.is_set():
            if poller.poll(2000):
                for number, ok, error, found in connector.drain_completions():
                    assert number not in told
                    told[number] = (ok, error, found)

    def work(n):
        for i in range(50):
            keys = [f"{n}-{i}-{j}" for j in range(3)]
            sets.append(connector.submit_batch_set(keys, [bytearray(1024) for _ in keys]))
            numbers.append(connector.submit_batch_exists([*keys, "no", *keys]))
            numbers.append(connector.submit_batch_get(keys, [bytearray(1024) for _ in keys]))

    threads = [threading.Thread(target=drain), *(threading.Thread(target=work, args=(n,)) for n in range(6))]
    for thread in threads:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    until(lambda: len(told) == 6 * 50 * 3)
    assert sorted(numbers + sets) == sorted(told) and all(told[number] == (True, "", None) for number in sets)
    everything = connector.submit_batch_exists([f"{n}-{i}-{j}" for n in range(7) for i in range(50) for j in range(3)])
    assert until(lambda: told.get(everything)) == (True, "", [True] * 900 + [False] * 150)
    stop.set()
    connector.submit_batch_exists([])
    threads[0].join()
    connector.close()
    connector.close()


def test_an_end_that_another_call_comes_upon_is_told_at_once(own_daemon):
    """Starting a request takes the completions that wait, so the client's descriptor alone would stay silent until the next end."""
    connector = Connector(own_daemon.address, space="upon", object_bytes=1024, request_timeout=5, ping_interval=30)
    first = connector.submit_batch_set(["a"], [bytearray(1024)])
    time.sleep(0.5)  # it ended; nobody drained
    own_daemon.signal(signal.SIGSTOP)
    connector.submit_batch_get(["a"], [bytearray(1024)])
    while True:
        assert select.select([connector.event_fd()], [], [], 1)[0], "not told"
        told = connector.drain_completions()
        if told:
            break
    assert told == [(first, True, "", None)]
    own_daemon.signal(signal.SIGCONT)
    connector.close()


def test_known_rows_come_back_within_the_bound(daemon):
    sample = Sample()
    layout, bound = sample.layout, 0.05
    geometry = {"layers": layout.layers, "kv_heads": layout.kv_heads, "head_dim": layout.head_dim, "tokens": layout.block_tokens}
    adapter = make(config(daemon, policy=f"error {bound}", geometry=geometry))
    blocks = list(sample.blocks())[:8]
    planes = [[bytes(b.pieces[2 * layer + plane]) for plane in range(2) for layer in range(layout.layers)] for b in blocks]
    wholes = [b"".join(p) for p in planes]  # [plane, layer, token, head, dim], as LMCache has it
    keys = [key(i) for i in range(len(blocks))]
    assert store(adapter, keys, [thing(whole) for whole in wholes])
    out = [empty(layout.block_bytes) for _ in keys]

    def is_coded():
        assert load(adapter, keys, out) == list(range(len(keys)))
        return bytes_of(out) != wholes

    until(is_coded, 30)
    time.sleep(0.5)
    assert load(adapter, keys, out) == list(range(len(keys)))
    for whole, got in zip(wholes, bytes_of(out)):
        assert 0 < worst_row(whole, got, 2 * layout.head_dim) <= bound
    # the store has them as [layer, plane, token, head, dim]
    block, space = bytearray(layout.block_bytes), adapter._client._doors[layout.block_bytes].space()
    space.get([kvfuse.Block(key_of(_object_key_to_string(keys[0])), block)]).wait().raise_for_status()
    assert 0 < worst_row(b"".join(bytes(piece) for piece in blocks[0].pieces), bytes(block), 2 * layout.head_dim) <= bound
    assert (space.layout.layers, space.layout.planes, space.layout.block_tokens) == (layout.layers, 2, layout.block_tokens)
    assert not store(adapter, [key(99)], [full(99)])  # of no known rows: not kept under a bound
    adapter.close()


def wait_with(what, seconds):
    begun = time.monotonic()
    result = what()
    assert time.monotonic() - begun < seconds
    return result


def test_a_store_that_is_away_is_a_miss_and_found_later(own_daemon):
    own_daemon.signal(signal.SIGKILL)
    adapter = wait_with(lambda: make(config(own_daemon, object_bytes=BYTES)), 5)
    keys = [key(i) for i in range(4)]
    assert lookup(adapter, keys) == [] and load(adapter, keys, [empty() for _ in keys]) == []
    assert not store(adapter, keys, [full(i) for i in range(4)])
    adapter.delete(keys)
    own_daemon.start()
    until(lambda: store(adapter, keys, [full(i) for i in range(4)]))
    assert lookup(adapter, keys) == [0, 1, 2, 3]
    own_daemon.signal(signal.SIGKILL)
    assert wait_with(lambda: lookup(adapter, keys), 3) == []
    until(lambda: not adapter._client._store.is_connected())
    assert wait_with(lambda: lookup(adapter, keys), 0.3) == []  # known to be away: nothing waits
    assert wait_with(lambda: load(adapter, keys, [empty() for _ in keys]), 0.3) == []
    own_daemon.start()
    until(lambda: store(adapter, keys, [full(i) for i in range(4)]), 20)
    out = [empty() for _ in keys]
    assert load(adapter, keys, out) == [0, 1, 2, 3] and bytes_of(out) == [data(i) for i in range(4)]
    adapter.close()


def test_a_store_that_stands_still_is_a_miss_in_time(own_daemon):
    adapter = make(config(own_daemon, object_bytes=BYTES, lookup_timeout=0.3, request_timeout=0.6, ping_interval=30))
    assert store(adapter, [key(1)], [full(1)])
    own_daemon.signal(signal.SIGSTOP)
    begun = time.monotonic()
    task = adapter.submit_load_task([key(1)], [empty()])
    adapter.submit_store_task([key(2)], [full(2)])
    assert time.monotonic() - begun < 0.2  # neither waits
    assert wait_with(lambda: lookup(adapter, [key(1)]), 3) == []
    loaded = ended(adapter.get_load_event_fd(), lambda: adapter.query_load_result(task) or None)
    assert loaded.get_indices_list() == [] and time.monotonic() - begun < 5
    own_daemon.signal(signal.SIGCONT)
    until(lambda: lookup(adapter, [key(1)]) == [0])
    wait_with(adapter.close, 10)


def test_a_space_that_was_dropped_is_made_again(daemon):
    adapter = make(config(daemon, object_bytes=BYTES))
    assert store(adapter, [key(1)], [full(1)])
    with kvfuse.Client(daemon.address) as client:
        client.drop(adapter._client._doors[BYTES].name)
    assert lookup(adapter, [key(1)]) == [] and not store(adapter, [key(1)], [full(1)])
    until(lambda: store(adapter, [key(1)], [full(1)]))
    assert lookup(adapter, [key(1)]) == [0]
    adapter.close()


def test_spaces_of_another_fingerprint_are_not_used(daemon):
    text = config(daemon, object_bytes=BYTES, fingerprint="bf16")
    first, other = make(text), make(text.replace('"bf16"', '"fp16"'))
    assert store(first, [key(1)], [full(1)])
    assert lookup(other, [key(1)]) == [] and load(other, [key(1)], [empty()]) == [] and not store(other, [key(1)], [full(1)])
    first.close()
    other.close()


@pytest.mark.parametrize("wrong", [{"adress": "x"}, {"transport": "pigeon"}, {"policy": "error 0.1"}, {"policy": "exactly"},
                                   {"geometry": {"layers": 4}}, {"geometry": {"heads": 4}}, {"object_bytes": 0}, {"space": "a b"}])
def test_a_wrong_parameter_fails_where_lmcache_starts(daemon, wrong):
    with pytest.raises((ValueError, TypeError)):
        make(config(daemon, **wrong))


def test_lmcaches_storage_manager_stores_and_prefetches(daemon):
    """L1 in this process, kvfuse as L2; nothing of LMCache replaced."""
    text = config(daemon, object_bytes=BYTES)
    arguments = ["--l1-size-gb", "0.02", "--eviction-policy", "LRU", "--no-l1-use-lazy", "--l2-adapter", text]
    manager = StorageManager(parse_args_to_config(get_arg_parser().parse_args(arguments)))
    description = MemoryLayoutDesc(shapes=[torch.Size(SHAPE)], dtypes=[torch.bfloat16])
    keys = [key(i) for i in range(20)]
    try:
        objects = manager.reserve_write(keys, description)
        assert set(objects) == set(keys)
        for i, k in enumerate(keys):
            objects[k].raw_data[:BYTES].copy_(torch.frombuffer(bytearray(data(i)), dtype=torch.uint8))
        manager.finish_write(keys)
        until(lambda: [u.total_bytes_used for usages in manager.get_l2_usages_by_type().values() for u in usages] == [20 * BYTES])
        manager.clear(force=True)
        assert manager.report_status()["l1_manager"]["total_object_count"] == 0
        group = GroupedObjectKeys(keys=[*keys, key(77)], object_group_id=0, layout_desc=description)
        handle = manager.submit_prefetch_task(PrefetchTaskSpec(key_groups=[group]))
        assert manager.wait_prefetch_status(handle, 10)
        result = manager.query_prefetch_status(handle)
        assert result.l1_hit_count == 0 and result.l2_hit_count == 20
        with manager.read_prefetched_results(keys) as read:
            assert [bytes(o.byte_array) for o in read] == [data(i) for i in range(20)]
        manager.finish_read_prefetched(keys)
    finally:
        manager.close()

"""kvfuse.sglang as the dynamic backend of SGLang's own HiCacheController and host pools, on the CPU, configured as on its command
line."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time

import pytest
from conftest import NOT_TESTED
from sample import worst_row
from waiting import until

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "0")
try:
    import torch
    from sglang.srt.managers.cache_controller import HiCacheController
    from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator
    from sglang.srt.mem_cache.device_pool_info import KVBufferLayout, KVBuffers, MHABufferInfo, MLABufferInfo
    from sglang.srt.mem_cache.hicache_storage import (
        HiCacheStorage,
        HiCacheStorageConfig,
        HiCacheStorageExtraInfo,
        PoolName,
        PoolTransfer,
    )
    from sglang.srt.mem_cache.hybrid_cache.hybrid_cache_controller import HybridCacheController
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
    from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
    from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost
    from sglang.srt.mem_cache.storage import StorageBackendFactory
    from sglang.srt.mem_cache.utils import get_storage_hash_str
    from sglang.srt.runtime_context import get_parallel
except ImportError as error:
    why = f"kvfuse.sglang: SGLang is not installed ({error}); tests/engine/adapters.sh has it"
    NOT_TESTED.append(why)
    pytest.skip(why, allow_module_level=True)

LAYERS, HEADS, DIM, PAGE, TOKENS = 4, 2, 16, 8, 256
PAGES = 6
LAYOUTS = ("layer_first", "page_first", "page_first_direct")
HOST = {"device_capacity_tokens": TOKENS, "start_layer": 0, "end_layer": LAYERS}
ONE_RANK = {"attn_dcp_size": 1, "attn_dcp_rank": 0, "tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_tp_rank": 0,
            "attn_tp_size": 1, "attn_dp_rank": 0, "attn_dp_size": 1}


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory):
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("ranks") / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    with get_parallel().override(**ONE_RANK):
        yield
    torch.distributed.destroy_process_group()


def host_pool(layout, dtype=torch.bfloat16):
    buffers = [torch.zeros(TOKENS, HEADS, DIM, dtype=dtype) for _ in range(2 * LAYERS)]
    k, v = buffers[:LAYERS], buffers[LAYERS:]

    def pointers(tensors):
        return torch.tensor([tensor.data_ptr() for tensor in tensors], dtype=torch.uint64)

    kv = KVBuffers(k=tuple(k), v=tuple(v), k_data_ptrs=pointers(k), v_data_ptrs=pointers(v), layout=KVBufferLayout.NHD)
    info = MHABufferInfo(buffers=kv, page_size=PAGE, head_num=HEADS, head_dim=DIM, v_head_dim=DIM, dtype=dtype, device=torch.device("cpu"))
    return MHATokenToKVPoolHost(info, 2.0, 0, PAGE, layout, pin_memory=False, **HOST)


def command_line(daemon, v1=1, more=None, **settings):
    """What stands behind --hicache-storage-backend-extra-config."""
    return json.dumps({"backend_name": "kvfuse", "module_path": "kvfuse.sglang", "class_name": "HiCacheKvfuse", "interface_v1": v1,
                       "prefetch_threshold": PAGE, **(more or {}), "kvfuse": {"address": daemon.address, **settings}})


def latent_pool(layout):
    """Of a model with MLA."""
    buffers = tuple(torch.zeros(TOKENS, 1, 32 + 16, dtype=torch.bfloat16) for _ in range(LAYERS))
    info = MLABufferInfo(buffers=buffers, data_ptrs=torch.tensor([b.data_ptr() for b in buffers], dtype=torch.uint64),
                         layer_indices=tuple(range(LAYERS)), device_layer_num=LAYERS, page_size=PAGE, kv_lora_rank=32, qk_rope_head_dim=16,
                         kv_cache_dim=48, dtype=torch.bfloat16, device=torch.device("cpu"))
    pool = MLATokenToKVPoolHost(info, 2.0, 0, PAGE, layout, pin_memory=False, target_layer_num=LAYERS, **HOST)
    pool.kv_buffer.copy_(torch.randn(pool.kv_buffer.shape))
    return pool


@contextlib.contextmanager
def engine(text, layout="layer_first", model="org/model", dtype=torch.bfloat16):
    """The controller, with its own threads; a host pool of random values."""
    device = MHATokenToKVPool(TOKENS, PAGE, dtype, HEADS, DIM, LAYERS, "cpu", False)
    pool = host_pool(layout, dtype)
    pool.kv_buffer.copy_(torch.randn(pool.kv_buffer.shape))
    extra, threshold = HybridCacheController.parse_storage_backend_extra_config(text)[:2]
    allocator = PagedTokenToKVPoolAllocator(TOKENS, PAGE, dtype, "cpu", device, False)
    controller = HiCacheController(allocator, pool, PAGE, torch.distributed.group.WORLD, None, io_backend="direct", model_name=model,
                                   storage_backend="dynamic", prefetch_threshold=threshold, storage_backend_extra_config=extra)
    assert type(controller.storage_backend).__name__ == "HiCacheKvfuse" and isinstance(controller.storage_backend, HiCacheStorage)
    try:
        yield controller
    finally:
        controller.detach_storage_backend()


def prompt(seed, pages=PAGES):
    return random.Random(seed).choices(range(50000), k=pages * PAGE)


def back_up(controller, tokens, indices):
    """Tokens that SGLang says are written."""
    controller.write_storage(indices, tokens, get_storage_hash_str(tokens, None, page_size=PAGE), prefix_keys=[])
    return controller.ack_backup_queue.get(timeout=20).completed_tokens


def prefetch(controller, tokens):
    """What the scheduler does for a request: asks, gives room to what was found. Tokens that came, and their place in the host pool."""
    operation = controller.prefetch("request", tokens, prefix_keys=[])
    found = controller.prefetch_hit_queue.get(timeout=20)
    assert found is operation
    if not found.storage_hit_count:
        return 0, None
    operation.host_indices = controller.mem_pool_host.alloc(found.storage_hit_count)
    controller.prefetch_buffer.put(operation)
    came = 0
    while True:
        ack = controller.ack_prefetch_queue.get(timeout=20)
        if ack.completed_req:
            return came, operation.host_indices
        came = ack.completed_tokens


def rows(pool, indices):
    """[plane, layer, token, head, dim] of tokens of a host pool of any layout."""
    buffer = pool.kv_buffer
    if pool.layout == "layer_first":
        return buffer[:, :, indices]
    if pool.layout == "page_first":
        return buffer[:, indices].transpose(1, 2)
    return buffer.transpose(1, 2).reshape(2, LAYERS, -1, HEADS, DIM)[:, :, indices]


def same(a, b):
    return a.contiguous().view(torch.int16).equal(b.contiguous().view(torch.int16))


@pytest.mark.parametrize("transport", ["shared", "network"])
@pytest.mark.parametrize("v1", [1, 0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages_written_are_prefetched_by_another_engine(daemon, layout, v1, transport):
    text, tokens = command_line(daemon, v1, space=f"trip-{layout}-{v1}-{transport}", client={"transport": transport}), prompt(1)
    with engine(text, layout) as one, engine(text, layout) as two:
        assert bool(one.storage_backend._pool_memory) == bool(v1)  # registered
        assert prefetch(two, tokens) == (0, None)
        one.mem_pool_host.alloc(3 * PAGE)
        indices = one.mem_pool_host.alloc(len(tokens))
        assert back_up(one, tokens, indices) == len(tokens)
        assert back_up(one, tokens, indices) == len(tokens)  # again: it is there
        other = two.mem_pool_host.kv_buffer.clone()
        came, places = prefetch(two, tokens + prompt(2))
        assert came == len(tokens)
        assert same(rows(two.mem_pool_host, places), rows(one.mem_pool_host, indices))
        untouched = torch.ones(two.mem_pool_host.size, dtype=bool)
        untouched[places] = False
        before = two.mem_pool_host.kv_buffer
        two.mem_pool_host.kv_buffer = other
        was = rows(two.mem_pool_host, torch.nonzero(untouched).ravel())
        two.mem_pool_host.kv_buffer = before
        assert same(rows(two.mem_pool_host, torch.nonzero(untouched).ravel()), was)


def test_pages_go_by_their_addresses_alone(daemon):
    with engine(command_line(daemon, space="copies")) as controller:
        assert controller.page_set_func == controller._page_set_zero_copy and controller.page_get_func == controller._page_get_zero_copy
        pages = controller.storage_backend._pages
        indices = controller.mem_pool_host.alloc(2 * PAGE)
        block = pages.blocks(["a", "b"], indices, None)[1]
        addresses, sizes = controller.mem_pool_host.get_page_buffer_meta(indices)
        n = len(addresses) // 2
        assert block.pieces.table.tolist() == [list(piece) for piece in zip(addresses[n:], sizes[n:])]


def test_engines_that_differ_never_meet(daemon):
    tokens = prompt(3)
    with engine(command_line(daemon, space="differ")) as one:
        indices = one.mem_pool_host.alloc(len(tokens))
        assert back_up(one, tokens, indices) == len(tokens)
        text = command_line(daemon, space="differ")
        others = [(text, {"model": "org/other"}), (text, {"layout": "page_first"}), (text, {"dtype": torch.float16}),
                  (command_line(daemon, 0, space="differ"), {}), (command_line(daemon, space="differ", fingerprint="v2"), {}),
                  (command_line(daemon, space="else"), {})]
        for text, how in others:
            with engine(text, **how) as two:
                assert prefetch(two, tokens) == (0, None)
        with get_parallel().override(tp_rank=1, tp_size=2), engine(command_line(daemon, space="differ")) as two:
            assert prefetch(two, tokens) == (0, None)
        with engine(command_line(daemon, space="differ")) as two:
            assert prefetch(two, tokens)[0] == len(tokens)


@pytest.mark.parametrize("rope", [None, {"style": "neox", "dim": DIM, "theta": 10000.0}])
def test_rows_of_any_layout_meet_within_the_bound(daemon, rope):
    bound = 0.05
    text = command_line(daemon, 1, {"hicache_storage_pass_prefix_keys": True}, space=f"rows-{rope is None}", policy=f"error {bound}",
                        rope=rope)
    tokens = prompt(4)
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(engine(text, layout)) for layout in LAYOUTS]
        first = engines[0]
        indices = first.mem_pool_host.alloc(len(tokens))
        assert back_up(first, tokens, indices) == len(tokens)
        was = rows(first.mem_pool_host, indices)
        layout = first.storage_backend._pages.layout
        assert (layout.layers, layout.planes, layout.kv_heads, layout.head_dim, layout.block_tokens) == (LAYERS, 2, HEADS, DIM, PAGE)

        def is_coded():
            came, places = prefetch(engines[1], tokens)
            assert came == len(tokens)
            is_same = same(rows(engines[1].mem_pool_host, places), was)
            engines[1].mem_pool_host.free(places)
            return not is_same

        until(is_coded, 30)
        time.sleep(0.5)
        for controller in engines:
            came, places = prefetch(controller, tokens)
            assert came == len(tokens)
            got = rows(controller.mem_pool_host, places)
            assert 0 < worst_row(bytes_of(was), bytes_of(got), 2 * DIM) <= bound


def bytes_of(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("policy", ["exact", "error 0.05"])
def test_latent_pages_are_one_for_all_ranks(daemon, policy):
    def backend(layout, rank, text):
        config = HiCacheStorageConfig(rank, 2, 0, 1, 0, 1, True, False, layout == "page_first", "org/latent", extra_config=json.loads(text))
        pool = latent_pool(layout)
        made = StorageBackendFactory.create_backend("dynamic", config, pool)
        made.register_mem_pool_host(pool)
        return made, pool

    text, keys = command_line(daemon, space=f"latent-{policy[:5]}", policy=policy), list("abc")
    for layout, other in (("page_first", "page_first"), ("page_first_direct", "page_first_direct"), ("page_first", "page_first_direct")):
        if policy == "exact" and layout != other:
            continue  # opaque: they do not meet
        (one, pool), (two, second) = backend(layout, 0, text), backend(other, 1, text)
        indices, places = pool.alloc(3 * PAGE), second.alloc(5 * PAGE)[2 * PAGE :]

        def rows_of(pool, indices):  # [layer, token, dim]
            return (pool.kv_buffer[indices].transpose(0, 1) if pool.layout == "page_first" else
                    pool.kv_buffer.transpose(0, 1).reshape(LAYERS, -1, 48)[:, indices]).reshape(LAYERS, -1, 48)

        assert one.batch_set_v1([layout + other + key for key in keys], indices) == [True] * 3
        assert two.batch_exists([layout + other + key for key in [*keys, "d"]]) == 3
        assert two.batch_get_v1([layout + other + key for key in keys], places) == [True] * 3
        assert worst_row(bytes_of(rows_of(pool, indices)), bytes_of(rows_of(second, places)), 2 * 48) <= (0 if policy == "exact" else 0.05)
        one.close()
        two.close()


def test_positions_and_previous_pages_are_told(daemon):
    with engine(command_line(daemon, space="where", policy="error 0.1")) as controller:
        indices = controller.mem_pool_host.alloc(3 * PAGE)

        def places(prefix_keys):
            blocks = controller.storage_backend._pages.blocks(list("cde"), indices, HiCacheStorageExtraInfo(prefix_keys=prefix_keys))
            return [(block.position, block.previous) for block in blocks]

        from kvfuse.adapter import key_of

        c, d = key_of("c"), key_of("d")
        assert places(["a", "b"]) == [(2 * PAGE, key_of("b")), (3 * PAGE, c), (4 * PAGE, d)]
        assert places([]) == places(None) == [(0, None), (PAGE, c), (2 * PAGE, d)]


def test_clear_empties_the_store(daemon):
    tokens = prompt(5)
    with engine(command_line(daemon, space="clear")) as controller:
        indices = controller.mem_pool_host.alloc(len(tokens))
        assert back_up(controller, tokens, indices) == len(tokens)
        assert controller.storage_backend.exists(get_storage_hash_str(tokens, None, page_size=PAGE)[0])
        assert controller.storage_backend.clear() is True
        until(lambda: back_up(controller, prompt(6), indices) == len(tokens))
        assert prefetch(controller, tokens) == (0, None)


def test_single_pages_and_side_pools(daemon):
    with engine(command_line(daemon, 0, space="single")) as controller:
        backend = controller.storage_backend
        page = controller.mem_pool_host.get_data_page(0)
        target = torch.zeros_like(page)
        assert not backend.exists("key") and backend.get("key", target) is None
        assert backend.set("key", page) and backend.exists("key")
        assert backend.get("key", target) is target and same(target, page)
        assert backend.get("key") is None and backend.get("key", torch.zeros(3)) is None and not backend.set("other", torch.zeros(3))
        assert backend.batch_get_v1(["key"], torch.arange(PAGE)) == [False] and backend.batch_set_v1(["key"], torch.arange(PAGE)) == [False]
        mamba = [PoolTransfer(name=PoolName.MAMBA, keys=["key"], host_indices=torch.arange(PAGE))]
        assert backend.batch_exists_v2(["key"]).kv_hit_pages == 1
        assert backend.batch_exists_v2(["key"], mamba).kv_hit_pages == 0
        assert backend.batch_get_v2(mamba) == {PoolName.MAMBA: [False]} and backend.batch_set_v2(mamba) == {PoolName.MAMBA: [False]}
        backend.close()
        assert not backend.exists("key") and not backend.set("key", page) and backend.get("key", target) is None and not backend.clear()


def test_a_store_that_is_away_is_a_miss_and_found_later(own_daemon):
    tokens = prompt(7)
    own_daemon.signal(signal.SIGKILL)
    with engine(command_line(own_daemon)) as controller:
        indices = controller.mem_pool_host.alloc(len(tokens))
        assert prefetch(controller, tokens) == (0, None) and back_up(controller, tokens, indices) == 0
        own_daemon.start()
        until(lambda: back_up(controller, tokens, indices) == len(tokens))
        assert prefetch(controller, tokens)[0] == len(tokens)
        own_daemon.signal(signal.SIGKILL)
        begun = time.monotonic()
        assert prefetch(controller, tokens) == (0, None) and time.monotonic() - begun < 3
        until(lambda: not controller.storage_backend._store.is_connected())
        begun = time.monotonic()
        assert prefetch(controller, tokens) == (0, None) and back_up(controller, tokens, indices) == 0
        assert time.monotonic() - begun < 0.5  # known to be away: nothing waits
        own_daemon.start()
        until(lambda: back_up(controller, tokens, indices) == len(tokens), 20)


def test_a_store_that_stands_still_is_a_miss_in_time(own_daemon):
    tokens = prompt(8)
    text = command_line(own_daemon, lookup_timeout=0.3, request_timeout=0.6, client={"ping_interval": 30})
    with engine(text) as controller:
        indices = controller.mem_pool_host.alloc(len(tokens))
        assert back_up(controller, tokens, indices) == len(tokens)
        own_daemon.signal(signal.SIGSTOP)
        begun = time.monotonic()
        assert prefetch(controller, tokens) == (0, None) and back_up(controller, prompt(9), indices) == 0
        assert time.monotonic() - begun < 6
        own_daemon.signal(signal.SIGCONT)
        until(lambda: prefetch(controller, tokens)[0] == len(tokens))


@pytest.mark.parametrize("v1, wrong", [
    (1, {"adress": "x"}), (1, {"client": {"transport": "pigeon"}}), (1, {"policy": "exactly"}), (1, {"space": "a b"}),
    (0, {"policy": "error 0.1"}), (1, {"policy": "error 0.1", "rope": {"style": "spiral", "dim": 2, "theta": 1.0}})])
def test_a_wrong_setting_fails_where_sglang_starts(daemon, v1, wrong):
    with pytest.raises((ValueError, TypeError)):
        with engine(command_line(daemon, v1, **wrong)):
            pass


def test_a_policy_that_needs_rows_says_which_pools_have_them(daemon):
    with pytest.raises(ValueError, match="needs to know rows, which a MHATokenToKVPoolHost of layout page_head, .* does not tell"):
        with engine(command_line(daemon, policy="error 0.1"), "page_head"):
            pass

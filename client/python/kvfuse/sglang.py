"""A kvfuse store as the storage (L3) of SGLang's HiCache, by its dynamic backend.

    python -m sglang.launch_server … --enable-hierarchical-cache --hicache-storage-backend dynamic
        --hicache-storage-backend-extra-config '{"backend_name": "kvfuse", "module_path": "kvfuse.sglang",
        "class_name": "HiCacheKvfuse", "interface_v1": 1, "kvfuse": {"address": "127.0.0.1:7311"}}'

Nothing of SGLang is patched. "kvfuse" holds Settings. A page of HiCache (page_size tokens, all layers, of one rank) is one block, whose
key is a hash of SGLang's page hash; a batch of pages is one request.

**Give "interface_v1": 1.** Then pages go from and to HiCache's host memory where they lie, in the pieces that get_page_buffer_meta of
the host pool tells (layouts layer_first, page_first, page_first_direct, …); that memory is registered with the network. Without it
SGLang copies each page into a tensor of its own and back. The two keep their bytes in different orders, so each has spaces of its own.

A space's name is `space/DIGEST` of all that changes a page's bytes: model, ranks, dtype, page size, order of bytes, policy. Engines that
differ in any of it never meet. What SGLang does not tell (revision, quantisation, which of two fp8 kinds) belongs into `fingerprint`.

Failures. A store that is away, slow, full, or holds another layout is a miss (None, False, 0 pages), in time: lookups end within
lookup_timeout, the rest within request_timeout, nothing waits for a connection. One that was away is found again.

Under `exact` a page is opaque bytes, so pools of any kind and dtype do. Other policies need to know rows: with interface_v1, bf16, fp16
or fp32, and MHA pools (layer_first, page_first, page_first_direct) or MLA pools (the last two), the store gets pages as [layer, plane,
token, head, dim], in whatever order they lie; engines of different layouts then share them. `rope` says how K carries its position, so
that it can be undone; positions come only with "hicache_storage_pass_prefix_keys": true beside "interface_v1". Token ids do not come
through this interface.

Not supported: the side pools of hybrid models (Mamba, SWA, sparse indexers; batch_…_v2). They are never found, so such models get
nothing from the store.
"""

# Where the package is checked there are no SGLang and no torch.
# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy
import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, PoolTransferResult

from .adapter import CONNECT_S, LOOKUP_S, REQUEST_S, Door, Store, check_name, key_of, logger, opaque_layout
from .block import Block, Pointers
from .client import Client
from .layout import Layout
from .request import Request
from .space import Space
from .status import Error, Status

if TYPE_CHECKING:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig, HiCacheStorageExtraInfo, PoolTransfer
    from sglang.srt.mem_cache.pool_host import HostKVCache

_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What "kvfuse" of the extra config may hold. Times are seconds.

    address           of the daemon
    space             begins the spaces' names
    policy            of the spaces: "exact", "error E", "ratio R", …
    rope              {"style": "neox" or "gptj", "dim": leading dims that are rotated, "theta": base} of plain RoPE, or
                      {"style", "dim", "frequencies": [1 or layers, dim / 2]}; for policies other than exact
    fingerprint       what else changes the bytes
    lookup_timeout, connect_timeout, request_timeout
    client            any other options of kvfuse.Client
    """

    address: str = "127.0.0.1:7311"
    space: str = "sglang"
    policy: str = "exact"
    rope: dict[str, Any] | None = None
    fingerprint: str = ""
    lookup_timeout: float = LOOKUP_S
    connect_timeout: float = CONNECT_S
    request_timeout: float = REQUEST_S
    client: dict[str, Any] = dataclasses.field(default_factory=dict)

    def rope_of_layout(self) -> dict[str, Any]:
        """As arguments of Layout."""
        if not self.rope:
            return {}
        dim = self.rope["dim"]
        frequencies = self.rope.get("frequencies") or [[self.rope["theta"] ** (-i / dim) for i in range(0, dim, 2)]]
        return {"rope_style": self.rope["style"], "rope_dim": dim, "rope_frequencies": frequencies}


class HiCacheKvfuse(HiCacheStorage):
    """Methods are SGLang's; hicache_storage.py there says what each means. ValueError, TypeError: a setting is none."""

    def __init__(self, storage_config: HiCacheStorageConfig, kwargs: dict[str, Any] | None = None) -> None:
        extra = storage_config.extra_config or {}
        self._settings = s = Settings(**extra.get("kvfuse", {}))
        check_name(s.space)
        self._is_v1 = bool(extra.get("interface_v1", 0))
        self._config = storage_config
        self._pages: _Pages | None = None
        self._door: Door | None = None
        self._pool: HostKVCache | None = None
        self._pool_memory: list[Any] = []
        if s.policy != "exact" and not self._is_v1:
            raise ValueError(f'policy {s.policy!r} needs to know rows: give "interface_v1": 1')
        self._store = Store(s.address, "sglang", s.policy, self._register_memory, connect_timeout=s.connect_timeout,
                            request_timeout=s.request_timeout, **s.client)

    def register_mem_pool_host(self, mem_pool_host: HostKVCache) -> None:
        super().register_mem_pool_host(mem_pool_host)
        s = self._settings
        self._pages = (_Rows if s.policy != "exact" else _Pieces if self._is_v1 else _Flat)(mem_pool_host, s, self._fingerprint())
        layout = self._pages.layout
        digest = hashlib.sha256(repr((layout, s.policy)).encode()).hexdigest()[:16]
        self._pool = mem_pool_host
        if self._store.client is not None:
            self._register_memory(self._store.client)
        self._door = self._store.open(f"{s.space}/{digest}", layout)
        self._door.wait(s.connect_timeout)

    def close(self) -> None:
        """Ends what is in flight. Afterwards everything is a miss."""
        self._door = None
        self._store.close()

    def clear(self) -> bool:
        """Drops the space, whoever else uses it."""
        door, client = self._door, self._store.client
        if door is None or client is None or door.space() is None:
            return False
        try:
            client.drop(door.name)
        except Error as error:
            if error.status is not Status.NOT_FOUND:
                return False
        self._store.reopen(door)
        return True

    # ---- pages where they lie ----

    def batch_get_v1(self, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None = None) -> list[bool]:
        return self._get(keys, lambda pages: pages.blocks(keys, host_indices, extra_info)) if self._is_v1 else [False] * len(keys)

    def batch_set_v1(self, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None = None) -> list[bool]:
        return self._set(keys, lambda pages: pages.blocks(keys, host_indices, extra_info)) if self._is_v1 else [False] * len(keys)

    # ---- pages as tensors ----

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> torch.Tensor | None:
        return self.batch_get([key], [target_location])[0]

    def batch_get(self, keys: list[str], target_locations: Any = None, target_sizes: Any = None) -> list[torch.Tensor | None]:
        targets = target_locations or ()
        if self._is_v1 or len(targets) != len(keys) or any(target is None for target in targets):
            return [None] * len(keys)
        found = self._get(keys, lambda pages: pages.blocks_of(keys, targets))
        return [target if is_found else None for target, is_found in zip(targets, found)]

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        return self.batch_set([key], [value])

    def batch_set(self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None) -> bool:
        if self._is_v1 or values is None or len(values) != len(keys):
            return False
        return all(self._set(keys, lambda pages: pages.blocks_of(keys, values)))

    # ---- lookups ----

    def exists(self, key: str) -> bool:
        return self.batch_exists([key]) == 1

    def batch_exists(self, keys: list[str], extra_info: HiCacheStorageExtraInfo | None = None) -> int:
        def match(space: Space, pages: _Pages) -> int:
            return space.match([key_of(key) for key in keys], timeout=self._settings.lookup_timeout).wait().matched

        return int(self._use(match, 0))

    # ---- side pools of hybrid models: never there ----

    def batch_exists_v2(self, keys: list[str], pool_transfers: list[PoolTransfer] | None = None,
                        extra_info: HiCacheStorageExtraInfo | None = None) -> PoolTransferResult:
        if not pool_transfers:
            return PoolTransferResult(self.batch_exists(keys, extra_info), {})
        return PoolTransferResult.empty()

    def batch_get_v2(self, transfers: list[PoolTransfer], extra_info: HiCacheStorageExtraInfo | None = None) -> dict[str, list[bool]]:
        return {transfer.name: [False] * len(transfer.keys or ()) for transfer in transfers}

    def batch_set_v2(self, transfers: list[PoolTransfer], extra_info: HiCacheStorageExtraInfo | None = None) -> dict[str, list[bool]]:
        return {transfer.name: [False] * len(transfer.keys or ()) for transfer in transfers}

    # ---- inside ----

    def _use(self, call: Callable[[Space, _Pages], Any], miss: Any) -> Any:
        """call(space, pages), or `miss` where there is no space or anything fails."""
        door, pages = self._door, self._pages
        space = door.space() if door is not None else None
        if space is None or pages is None:
            return miss
        try:
            return call(space, pages)
        except Exception as error:  # a failure of ours is never SGLang's
            self._store.warn("a request cannot be made: %s", error)
            return miss

    def _transfer(self, keys: Sequence[str], start: Callable[[Space, _Pages], Request], kept: tuple[Status, ...]) -> list[bool]:
        def run(space: Space, pages: _Pages) -> list[bool]:
            return [status in kept for status in start(space, pages).wait().statuses]

        return list(self._use(run, [False] * len(keys)))

    def _get(self, keys: Sequence[str], blocks: Callable[[_Pages], list[Block]]) -> list[bool]:
        return self._transfer(keys, lambda space, pages: space.get(blocks(pages)), (Status.OK,))

    def _set(self, keys: Sequence[str], blocks: Callable[[_Pages], list[Block]]) -> list[bool]:
        def put(space: Space, pages: _Pages) -> Request:
            request = space.put(blocks(pages))
            if self._door is not None:
                self._door.seen(request.wait().status)
            return request

        return self._transfer(keys, put, (Status.OK, Status.EXISTS))

    def _fingerprint(self) -> str:
        c = self._config
        parts = [f"model={c.model_name}", f"pp={c.pp_rank}of{c.pp_size}", f"cp={c.attn_cp_rank}of{c.attn_cp_size}",
                 f"dcp={c.dcp_rank}of{c.dcp_size}"]
        if not c.is_mla_model:  # whose pages are the same in all ranks
            parts.append(f"tp={c.tp_rank}of{c.tp_size}")
        text = " ".join([*parts, self._settings.fingerprint])
        return f"{hashlib.sha256(text.encode()).hexdigest()[:16]} {text}"

    def _register_memory(self, client: Client) -> None:
        """The pool's, as soon as there is both a pool and a store."""
        buffer = getattr(self._pool, "kv_buffer", None)
        if not self._is_v1 or self._pool_memory or not isinstance(buffer, torch.Tensor):
            return
        try:
            self._pool_memory.append(client.register(buffer))
        except (Error, ValueError, TypeError) as error:  # requests then register what they need
            logger.info("kvfuse: the host pool's memory is not registered: %s", error)


class _Pages:
    """How a host pool's pages become blocks: one of the three below."""

    layout: Layout

    def blocks(self, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None) -> list[Block]:
        """Of pages where they lie."""
        raise NotImplementedError("pages where they lie: they need \"interface_v1\": 1")

    def blocks_of(self, keys: Sequence[str], tensors: Sequence[torch.Tensor]) -> list[Block]:
        """Of pages as flat tensors."""
        raise NotImplementedError("pages as flat tensors: not with \"interface_v1\": 1")


class _Flat(_Pages):
    """Pages as SGLang flattens them, in tensors that it makes."""

    def __init__(self, pool: HostKVCache, settings: Settings, fingerprint: str) -> None:
        page = pool.get_dummy_flat_data_page()
        self._nbytes = page.numel() * page.element_size()
        self.layout = opaque_layout(self._nbytes, _model(f"flat {_shape(pool)}", fingerprint))
        self._padding = bytearray(self.layout.block_bytes - self._nbytes)

    def blocks_of(self, keys: Sequence[str], tensors: Sequence[torch.Tensor]) -> list[Block]:
        return [Block(key_of(key), [tensor, self._padding]) for key, tensor in zip(keys, tensors)]


class _Pieces(_Pages):
    """Pages as the pieces that they lie in, in the order in which the pool tells them: opaque bytes."""

    def __init__(self, pool: HostKVCache, settings: Settings, fingerprint: str) -> None:
        self._pool = pool
        addresses, sizes = pool.get_page_buffer_meta(torch.arange(_page_rows(pool)))
        self._num_pieces = len(addresses)
        self._nbytes = sum(sizes)
        self.layout = self._make_layout(settings, fingerprint)
        padding = numpy.zeros(self.layout.block_bytes - self._nbytes, numpy.uint8)
        self._owner = (pool.kv_buffer, padding)
        self._padding = (padding.ctypes.data, padding.nbytes) if padding.nbytes else None

    def _make_layout(self, settings: Settings, fingerprint: str) -> Layout:
        return opaque_layout(self._nbytes, _model(f"pieces {_shape(self._pool)}", fingerprint))

    def blocks(self, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None) -> list[Block]:
        addresses, sizes = self._pool.get_page_buffer_meta(host_indices)
        if len(addresses) != self._num_pieces * len(keys):
            raise ValueError(f"{len(addresses)} pieces of {len(keys)} pages: a page has {self._num_pieces}")
        pieces = numpy.array((addresses, sizes), numpy.uint64).T.reshape(len(keys), self._num_pieces, 2)
        tables = numpy.ascontiguousarray(self._cut(pieces))
        return [Block(key_of(key), Pointers(table, self._owner), **where)
                for key, table, where in zip(keys, tables, self._places(keys, extra_info))]

    def _cut(self, pieces: Any) -> Any:
        """pieces [page, piece, (address, bytes)] as the block's."""
        if self._padding is None:
            return pieces
        padding = numpy.broadcast_to(numpy.array(self._padding, numpy.uint64), (len(pieces), 1, 2))
        return numpy.concatenate((pieces, padding), axis=1)

    def _places(self, keys: list[str], extra_info: HiCacheStorageExtraInfo | None) -> list[dict[str, Any]]:
        return [{}] * len(keys)


class _Rows(_Pieces):
    """Pages cut into pieces so that a block is [layer, plane, token, head, dim], for policies that look into it."""

    def _make_layout(self, settings: Settings, fingerprint: str) -> Layout:
        pool = self._pool
        is_mha, is_mla = hasattr(pool, "v_head_dim"), hasattr(pool, "kv_cache_dim")
        heads, dim = (pool.head_num, pool.head_dim) if is_mha else (1, getattr(pool, "kv_cache_dim", 0))
        layout = Layout(layers=pool.layer_num, planes=2 if is_mha else 1, kv_heads=heads, head_dim=dim or 1, block_tokens=pool.page_size,
                        dtype=_DTYPES.get(pool.dtype, "fp32"), model=_model("rows", fingerprint), **settings.rope_of_layout())
        layouts = ("layer_first", "page_first", "page_first_direct") if is_mha else ("page_first", "page_first_direct")
        if (not (is_mha or is_mla) or pool.layout not in layouts or pool.dtype not in _DTYPES or layout.block_bytes != self._nbytes or
                self._num_pieces != layout.planes * (layout.layers if pool.layout == "layer_first" else 1)):
            raise ValueError(f"policy {settings.policy!r} needs to know rows, which a {type(pool).__name__} of layout {pool.layout}, "
                             f"{pool.dtype}, does not tell: use policy exact")
        layers, tokens = layout.layers, layout.block_tokens
        row = layout.layer_bytes // layout.planes // tokens
        self._offsets = {"layer_first": numpy.zeros((1, 1), numpy.uint64),
                         "page_first": (numpy.arange(layers)[:, None] + layers * numpy.arange(tokens)).astype(numpy.uint64) * row,
                         "page_first_direct": numpy.arange(layers, dtype=numpy.uint64)[:, None] * tokens * row}[pool.layout]
        self._piece_bytes = row if pool.layout == "page_first" else row * tokens
        return layout

    def _cut(self, pieces: Any) -> Any:
        layout = self.layout
        planes = pieces[:, :, 0].reshape(len(pieces), -1, layout.planes)  # [page, layer or 1, plane]
        addresses = planes[..., None] + self._offsets[:, None, :]  # [page, layer, plane, token or 1]
        return numpy.stack((addresses, numpy.full_like(addresses, self._piece_bytes)), axis=-1).reshape(len(pieces), -1, 2)

    def _places(self, keys: list[str], extra_info: HiCacheStorageExtraInfo | None) -> list[dict[str, Any]]:
        before = extra_info.prefix_keys if extra_info is not None else None
        first = len(before or ())
        chain = [*(before or ())[-1:], *keys]
        previous = [None] * (len(keys) + 1 - len(chain)) + [key_of(key) for key in chain[:-1]]
        return [{"position": (first + i) * self.layout.block_tokens, "previous": key} for i, key in enumerate(previous)]


def _page_rows(pool: HostKVCache) -> int:
    """Entries of host_indices that a page has."""
    return int(getattr(pool, "logical_page_size", 0) or pool.page_size)


def _shape(pool: HostKVCache) -> str:
    dtype = str(pool.dtype).removeprefix("torch.")
    return f"{type(pool).__name__} {pool.layout} {dtype} page={_page_rows(pool)} layers={getattr(pool, 'layer_num', '')}"


def _model(order: str, fingerprint: str) -> str:
    """For Layout.model."""
    text = f"sglang {order} {fingerprint}"
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]} {text}".encode()[:255].decode(errors="ignore")

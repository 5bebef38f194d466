"""Worker side, loading: between steps, or layer by layer within one. What fails is reported, and vLLM computes it."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import collections
import dataclasses

import torch

import kvfuse

from .cache import PagedCache
from .plan import Load
from .settings import Settings
from .store import Store, logger


@dataclasses.dataclass
class _Get:
    """A get under way: blocks into pages, or into `staged` [blocks, num_layers × page] if that is not None."""

    load: Load
    keys: list[bytes]
    block_ids: list[int]
    first_layer: int
    num_layers: int
    staged: torch.Tensor | None = None
    request: kvfuse.Request | None = None


class _Getter:
    """Starts gets and ends them."""

    def __init__(self, settings: Settings, cache: PagedCache) -> None:
        self._settings = settings
        self._cache = cache
        self.failed_block_ids: set[int] = set()
        self.loaded = self.failed = 0  # blocks

    def start(self, store: Store, get: _Get) -> bool:
        """False: it could not be started, and its blocks have failed."""
        space, cache = store.space(), self._cache
        if space is not None:
            layer_bytes = get.num_layers * cache.page_bytes
            try:
                if cache.can_scatter:
                    pieces: list[object] = [cache.pointers(b, get.first_layer, get.num_layers) for b in get.block_ids]
                else:
                    get.staged = torch.empty(len(get.keys), layer_bytes // cache.dtype.itemsize, dtype=cache.dtype)
                    address = get.staged.data_ptr()
                    pieces = [kvfuse.Pointer(address + i * layer_bytes, layer_bytes) for i in range(len(get.keys))]
                blocks = [kvfuse.Block(key, piece) for key, piece in zip(get.keys, pieces)]
                get.request = space.get(blocks, self._settings.load_timeout, get.first_layer, get.num_layers)
                return True
            except Exception:  # a failure of ours is never the engine's
                logger.exception("kvfuse: a get could not be started")
        self.fail(get.block_ids)
        return False

    def finish(self, store: Store, get: _Get) -> bool:
        """Takes what a get brought to its pages; waits for it if it is under way. Whether all of it came."""
        assert get.request is not None
        result = get.request.wait()
        store.seen(result)
        missing = [b for b, status in zip(get.block_ids, result.statuses) if status < 0 or result.status < 0]
        if get.staged is not None and len(missing) < len(get.block_ids):
            try:
                self._cache.write(get.block_ids, get.staged, get.first_layer, get.num_layers)  # a failed block's bytes are computed over
            except Exception:
                logger.exception("kvfuse: blocks that came could not be copied to their pages")
                missing = get.block_ids
        get.staged = None
        self.fail(missing)
        self.loaded += len(get.block_ids) - len(missing)
        return not missing

    def fail(self, block_ids: list[int]) -> None:
        self.failed_block_ids.update(block_ids)
        self.failed += len(block_ids)

    def take_failed(self) -> set[int]:
        failed, self.failed_block_ids = self.failed_block_ids, set()
        return failed


class AsyncLoader(_Getter):
    """Loads between steps: a queue of gets, of which load_bytes are under way. Nothing ever waits."""

    def __init__(self, settings: Settings, cache: PagedCache) -> None:
        super().__init__(settings, cache)
        self._queue: collections.deque[_Get] = collections.deque()
        self._under_way: list[_Get] = []
        self._left: collections.Counter[str] = collections.Counter()  # gets of each request that are not finished
        self._finished: set[str] = set()
        self._at_once = max(1, settings.load_bytes // cache.layout.block_bytes)
        self._blocks_a_get = max(1, self._at_once // 4)

    def add(self, load: Load) -> None:
        for at in range(0, len(load.keys), self._blocks_a_get):
            part = slice(at, at + self._blocks_a_get)
            self._queue.append(_Get(load, load.keys[part], load.block_ids[part], 0, len(self._cache.layers)))
            self._left[load.request_id] += 1

    def advance(self, store: Store) -> set[str]:
        """Ends and starts gets. The requests of which nothing is left to load."""
        self._end(store)
        under_way = sum(len(get.keys) for get in self._under_way)
        while self._queue and (not under_way or under_way + len(self._queue[0].keys) <= self._at_once):
            get = self._queue.popleft()
            if self.start(store, get):
                self._under_way.append(get)
                under_way += len(get.keys)
            else:
                self._finish_one(get)
        finished, self._finished = self._finished, set()
        return finished

    def _end(self, store: Store) -> None:
        under_way = []
        for get in self._under_way:
            if get.request is not None and get.request.done():
                self.finish(store, get)
                self._finish_one(get)
            else:
                under_way.append(get)
        self._under_way = under_way

    def _finish_one(self, get: _Get) -> None:
        request_id = get.load.request_id
        self._left[request_id] -= 1
        if not self._left[request_id]:
            del self._left[request_id]
            self._finished.add(request_id)


class LayerLoader(_Getter):
    """Loads within the step: a few layers at a time, two such gets under way, each waited for where its first layer is used.

    A store that fails holds the step up for load_timeout at most, twice.
    """

    def __init__(self, settings: Settings, cache: PagedCache) -> None:
        super().__init__(settings, cache)
        self._queue: collections.deque[list[_Get]] = collections.deque()  # the gets of some layers, all requests
        self._under_way: collections.deque[list[_Get]] = collections.deque()
        self._layer_numbers = {name: number for number, name in enumerate(cache.layer_names)}

    def begin(self, store: Store, loads: list[Load]) -> None:
        count, step = len(self._cache.layers), self._settings.layers_per_get
        for first in range(0, count, step):
            self._queue.append([_Get(load, load.keys, load.block_ids, first, min(step, count - first)) for load in loads])
        self._start_next(store)
        self._start_next(store)

    def _start_next(self, store: Store) -> None:
        if self._queue:
            self._under_way.append([get for get in self._queue.popleft() if self.start(store, get)])

    def wait_for(self, store: Store, layer_name: str) -> None:
        """Until this layer is in its pages, or has failed."""
        number = self._layer_numbers.get(layer_name, 0)
        while self._under_way and (not self._under_way[0] or self._under_way[0][0].first_layer <= number):
            self._finish_first(store)

    def finish_all(self, store: Store) -> None:
        while self._under_way:
            self._finish_first(store)

    def _finish_first(self, store: Store) -> None:
        came = [self.finish(store, get) for get in self._under_way.popleft()]
        if not came or not all(came):
            for gets in self._queue:  # the step's results are of no use: the rest would only hold it up
                for get in gets:
                    self.fail(get.block_ids)
            self._queue.clear()
        self._start_next(store)

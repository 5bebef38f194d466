"""The worker's side: loads and saves of one worker's pages."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch

import kvfuse

from ..adapter import check_name
from .cache import PagedCache, Unsupported
from .fingerprint import space_name
from .loads import AsyncLoader, LayerLoader
from .plan import StepPlan, WorkerSpace
from .saves import Saver
from .settings import Settings
from .store import Store, logger

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


class Worker:
    """Methods are called in the order of a step: bind, begin_step (behind the model where nothing is loaded within the step),
    wait_for_layer, end_step, take_finished, take_failed. Engine's thread."""

    def __init__(self, config: VllmConfig, caches: KVCacheConfig, settings: Settings) -> None:
        self._config = config
        self._caches = caches
        self._settings = settings
        self._store: Store | None = None
        self._saver: Saver | None = None
        self._loader: AsyncLoader | LayerLoader | None = None
        self.space = WorkerSpace(unsupported="the KV caches are not there yet")
        self._refused: set[int] = set()  # pages that were to be loaded while there is no store
        self._finished: set[str] = set()
        self._raised: BaseException | None = None

    def register(self, tensors: dict[str, torch.Tensor]) -> None:
        """Told of the paged cache, once, at start-up. Does not wait for the store."""
        from vllm.distributed.parallel_state import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size

        s, rank, size = self._settings, get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
        try:
            cache = PagedCache(self._config, self._caches, tensors, rank, s.in_pages)
            name = s.space or space_name(self._config, s.policy, cache.layout)
            if size > 1:
                name += f".tp{rank}of{size}"
            check_name(name)
        except Exception as error:  # a failure of ours is never the engine's
            self.space = WorkerSpace(unsupported=str(error) or repr(error))
            logger.warning("kvfuse: not used: %s", error, exc_info=not isinstance(error, Unsupported))
            return
        self.space = WorkerSpace(name, cache.layout_fields)
        self._saver = Saver(s, cache)
        self._loader = AsyncLoader(s, cache) if s.load == "async" else LayerLoader(s, cache)
        if self._config.kv_transfer_config.is_kv_producer:
            self._store = Store(s, name, cache.layout, self._saver.open)
        else:
            self._store = Store(s, name, cache.layout)
        logger.info("kvfuse: %d layers, pages %s, bytes in the store as %s, loads %s", len(cache.layers), cache.order.digest,
                    "pages" if s.in_pages else "rows", s.load)

    def bind(self) -> None:
        """A step is about to begin."""
        self._raised = sys.exc_info()[1]

    def begin_step(self, plan: StepPlan) -> None:
        if self._store is None or self._loader is None:
            for load in plan.loads:
                self._refused.update(load.block_ids)
                self._finished.add(load.request_id)
        elif isinstance(self._loader, AsyncLoader):
            for load in plan.loads:
                self._loader.add(load)
        elif plan.loads:
            self._loader.begin(self._store, plan.loads)

    def wait_for_layer(self, layer_name: str) -> None:
        if isinstance(self._loader, LayerLoader) and self._store is not None:
            self._loader.wait_for(self._store, layer_name)

    def end_step(self, plan: StepPlan) -> None:
        if self._store is None or self._saver is None:
            return
        is_void = sys.exc_info()[1] is not self._raised  # vLLM ends a step also when the model raised in the middle of it
        if isinstance(self._loader, LayerLoader):
            self._loader.finish_all(self._store)
            is_void = is_void or bool(self._loader.failed_block_ids)  # attention has read pages that did not come
        self._saver.reap(self._store)
        for save in plan.saves:
            if is_void:
                self._saver.dropped += len(save.keys)
            else:
                self._saver.save(self._store, save)

    def take_finished(self) -> set[str]:
        """Requests whose asynchronous loads have ended, well or not."""
        finished, self._finished = self._finished, set()
        if isinstance(self._loader, AsyncLoader) and self._store is not None:
            finished |= self._loader.advance(self._store)
        return finished if self._settings.load == "async" else set()

    def take_failed(self) -> set[int]:
        """Pages that were to be loaded and were not, told once."""
        failed, self._refused = self._refused, set()
        return failed | self._loader.take_failed() if self._loader is not None else failed

    def close(self) -> None:
        if self._loader is not None and self._saver is not None:
            logger.info("kvfuse: blocks loaded %d, not loaded %d; saved %d, failed %d, dropped %d",
                        self._loader.loaded, self._loader.failed, self._saver.saved, self._saver.failed, self._saver.dropped)
            self._saver.close()
        if self._store is not None:
            try:
                self._store.close()
            except (kvfuse.Error, BufferError):
                logger.debug("kvfuse: the client was not closed in order", exc_info=True)
            self._store = None

"""The scheduler's side: what of a prompt is in the store, and which blocks the workers load and save."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from typing import TYPE_CHECKING

import numpy as np

import kvfuse

from .adapters import Adapters
from .plan import Load, Save, StepPlan, WorkerSpace
from .settings import Settings
from .store import Store, logger

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

_MATCH_AGAIN_S = 1.0  # an answer this old, of a request that still waits, is asked for again
_ASK_AGAIN_S = 0.005  # while a producer's blocks are awaited
# in a request's kv_transfer_params:
PRODUCED = "kvfuse_blocks"  # how many blocks a producer has put, or is about to
SAVE = "kvfuse_save"  # false: nothing of it is put


@dataclasses.dataclass
class _Tracked:
    """What is known of a request.

    matched   blocks, from the first on, that are in the store; None: not known
    at_local  blocks that vLLM's own cache had when it last asked
    expected  blocks that are computed if the planned load succeeds; 0: none is planned
    saved     the next block to save; None: not scheduled yet
    may_come  the store could be asked
    is_stale  it began before reset()
    """

    request: Request
    keys: list[bytes] = dataclasses.field(default_factory=list)
    lora: bytes | None = None
    matches: list[kvfuse.Request] | None = None
    asked_at: float = 0.0
    first_asked_at: float = 0.0
    answered: bool = False
    matched: int | None = None
    at_local: int = 0
    expected: int = 0
    loading: set[int] = dataclasses.field(default_factory=set)
    may_load: bool = True
    may_save: bool = True
    may_come: bool = False
    is_stale: bool = False
    saved: int | None = None


class Scheduler:
    """All methods on the scheduler's thread. None of them waits."""

    def __init__(self, config: VllmConfig, settings: Settings) -> None:
        transfer = config.kv_transfer_config
        self._settings = settings
        self._is_async = settings.load == "async"
        self._loads_any, self._saves_any = transfer.is_kv_consumer, transfer.is_kv_producer
        self._is_only_producer = self._saves_any and not self._loads_any
        self._block_tokens: int = config.cache_config.block_size
        self._saves_generated = settings.save_generated and config.speculative_config is None
        self._hash: str = config.cache_config.prefix_caching_hash_algo
        self._hash_tokens: int | None = getattr(config.cache_config, "hash_block_size", None)
        self._stores: list[Store] = []
        self._tracked: dict[str, _Tracked] = {}
        self._planned: list[Load] = []
        self._void: set[int] = set()  # pages that a load within a step left undefined, and that nobody has computed since
        self._adapters = Adapters()
        self._epoch = b""  # of the weights, if they were changed in place

    def open(self, spaces: list[WorkerSpace]) -> None:
        """Told of the workers' spaces, once, at start-up."""
        unsupported = [space.unsupported for space in spaces if space.unsupported]
        if any(space.layout.get("block_tokens", self._block_tokens) != self._block_tokens for space in spaces):
            unsupported.append(f"the workers' blocks do not have {self._block_tokens} tokens")
        if self._hash_tokens not in (None, self._block_tokens):
            unsupported.append(f"vLLM hashes {self._hash_tokens} tokens at a time, its blocks have {self._block_tokens}")
        if self._hash.startswith("xxhash"):
            unsupported.append(f"prefix_caching_hash_algo {self._hash}: its collisions would be wrong bytes; take sha256 or sha256_cbor")
        if unsupported:
            logger.warning("kvfuse: not used: %s", unsupported[0])
            return
        self._stores = [Store(self._settings, space.name, kvfuse.Layout(**space.layout)) for space in spaces]  # type: ignore[arg-type]

    def reset(self) -> None:
        """The weights may have been changed in place: what was stored by then is not used any more, and others do not use what will be."""
        self._epoch = os.urandom(16)
        for tracked in self._tracked.values():
            tracked.is_stale = True

    def close(self) -> None:
        self._adapters.close()
        self._tracked.clear()
        for store in self._stores:
            try:
                store.close()
            except (kvfuse.Error, BufferError):
                logger.debug("kvfuse: the client was not closed in order", exc_info=True)
        self._stores = []

    # ---- what is in the store ----

    def add(self, request: Request) -> None:
        """A request has come: the store is asked at once, so that the answer is there when it is scheduled."""
        if self._stores:
            self._ask(self._track(request))

    def matched_tokens(self, request: Request, computed: int) -> int | None:
        """Tokens beyond `computed` that can be loaded; None: the store is still being asked."""
        if not self._loads_any or not self._stores:
            return 0
        tracked = self._track(request)
        if not tracked.may_load or tracked.is_stale:
            return 0
        if not self._answer(tracked):
            return None
        tracked.at_local = computed // self._block_tokens
        # vLLM needs the last token's output, so at least that one is computed
        blocks = min(tracked.matched or 0, (request.num_tokens - 1) // self._block_tokens) - tracked.at_local
        tokens = blocks * self._block_tokens
        return tokens if tokens > 0 and tokens >= self._settings.min_load_tokens else 0

    def _track(self, request: Request) -> _Tracked:
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            may_save = (request.kv_transfer_params or {}).get(SAVE) is not False
            tracked = self._tracked[request.request_id] = _Tracked(request, may_save=may_save)
            self._adapters.seen(request.lora_request)
        return tracked

    def _has_keys(self, tracked: _Tracked) -> bool:
        """Whether it is known what its blocks' bytes depend on."""
        if tracked.lora is None:
            tracked.lora = self._adapters.digest_of(tracked.request.lora_request)
        return tracked.lora is not None and not tracked.is_stale

    def _keys_of(self, tracked: _Tracked, count: int) -> list[bytes]:
        """The keys of the first `count` blocks: vLLM's hashes, which are chained from the prompt's beginning."""
        hashes, more = tracked.request.block_hashes, self._epoch + (tracked.lora or b"")
        for i in range(len(tracked.keys), min(count, len(hashes))):
            own = bytes(hashes[i])
            tracked.keys.append(hashlib.sha256(own + more).digest() if more else own)
        return tracked.keys[:count]

    def _ask(self, tracked: _Tracked) -> None:
        """Asks all workers' spaces, unless there is nothing to ask."""
        now = time.monotonic()
        tracked.matches, tracked.answered, tracked.matched = None, True, None
        tracked.asked_at = now
        tracked.first_asked_at = tracked.first_asked_at or now
        count = len(tracked.request.block_hashes)
        spaces = [store.space() for store in self._stores]
        tracked.may_come = self._has_keys(tracked) and not any(space is None for space in spaces)
        if not count or not tracked.may_come:
            return
        try:
            keys = self._keys_of(tracked, count)
            tracked.matches = [space.match(keys, self._settings.match_timeout) for space in spaces if space is not None]
            tracked.answered = False
        except Exception:  # a failure of ours is never the engine's
            logger.debug("kvfuse: a match could not be started", exc_info=True)
            self._stores[0].say("match", "kvfuse: the store cannot be asked; prompts are computed")

    def _answer(self, tracked: _Tracked) -> bool:
        """Whether it is known what the store has. Asks, or asks again, where that is due."""
        now = time.monotonic()
        if tracked.answered and now - tracked.asked_at > _MATCH_AGAIN_S or not tracked.asked_at:
            self._ask(tracked)
        if not tracked.answered:
            self._take_answer(tracked, now)
        if not tracked.answered:
            return False
        params = tracked.request.kv_transfer_params or {}
        awaited = params.get(PRODUCED) if tracked.may_come else None
        if isinstance(awaited, int) and (tracked.matched or 0) < min(awaited, len(tracked.request.block_hashes)):
            if now - tracked.first_asked_at < self._settings.handoff_wait:
                if now - tracked.asked_at > _ASK_AGAIN_S:
                    self._ask(tracked)
                return False
        return True

    def _take_answer(self, tracked: _Tracked, now: float) -> None:
        assert tracked.matches is not None
        if all(match.done() for match in tracked.matches):
            results = [match.wait() for match in tracked.matches]
            for store, result in zip(self._stores, results):
                store.seen(result)
            tracked.matched = min(result.matched for result in results) if all(r.status >= 0 for r in results) else None
        elif now - tracked.asked_at > 2 * self._settings.match_timeout:
            self._stores[0].timed_out()
        else:
            return
        tracked.answered, tracked.matches = True, None

    # ---- loads and saves ----

    def allocated(self, request: Request, block_ids: list[int], external_tokens: int) -> None:
        """vLLM has pages for what is to be loaded."""
        tracked = self._tracked.get(request.request_id)
        if tracked is None or external_tokens <= 0:
            return
        first, end = tracked.at_local, tracked.at_local + external_tokens // self._block_tokens
        tracked.expected = end
        tracked.loading = set(block_ids[first:end])
        self._void -= tracked.loading
        self._planned.append(Load(request.request_id, self._keys_of(tracked, end)[first:], block_ids[first:end]))

    def failed(self, block_ids: set[int]) -> None:
        """Workers could not load these: their requests compute, save what they compute, and do not ask again."""
        if self._saves_any and not self._is_async:  # vLLM has these in its prefix cache already
            self._void |= block_ids
        for tracked in self._tracked.values():
            if not tracked.loading.isdisjoint(block_ids):
                tracked.may_load = False
                tracked.saved = None

    def loaded(self, request_ids: set[str]) -> None:
        """An asynchronous load has ended: its pages may soon be another's."""
        for request_id in request_ids:
            tracked = self._tracked.get(request_id)
            if tracked is not None:
                tracked.loading = set()

    def plan(self, output: SchedulerOutput) -> StepPlan:
        plan = StepPlan(loads=self._planned)
        self._planned = []
        if self._saves_any and self._stores:
            cached = output.scheduled_cached_reqs
            scheduled = [(new.req_id, new.num_computed_tokens) for new in output.scheduled_new_reqs]
            scheduled += zip(cached.req_ids, cached.num_computed_tokens)
            if self._void:
                self._look_for_void(output, scheduled)
            for request_id, computed in scheduled:
                self._plan_save(plan, output, request_id, computed)
        return plan

    def _look_for_void(self, output: SchedulerOutput, scheduled: list[tuple[str, int]]) -> None:
        """A request for which a void page counts as computed saves nothing any more; one that computes all of the page mends it.
        scheduled: requests, and how many of their tokens count as computed."""
        mended: set[int] = set()
        for request_id, computed in scheduled:
            tracked = self._tracked.get(request_id)
            end = computed + output.num_scheduled_tokens.get(request_id, 0)
            for i, page in enumerate(self._pages_of(output, request_id)):
                page_end = (i + 1) * self._block_tokens
                if page not in self._void or page_end > end:
                    continue
                if page_end > computed:
                    mended.add(page)
                elif tracked is not None:
                    tracked.may_save = False
        self._void -= mended

    @staticmethod
    def _pages_of(output: SchedulerOutput, request_id: str) -> list[int]:
        """Empty: not known."""
        state = output.kv_connector_block_state
        pages = state.get_block_ids(request_id) if state is not None else None
        return pages[0] if pages is not None else []

    def _plan_save(self, plan: StepPlan, output: SchedulerOutput, request_id: str, computed: int) -> None:
        tracked, tokens = self._tracked.get(request_id), self._block_tokens
        if tracked is None or not tracked.may_save or not self._has_keys(tracked):
            return
        if tracked.saved is None:
            tracked.saved = self._first_to_save(tracked, computed)
        # Tokens that are only guessed (speculation) or not known yet (asynchronous scheduling) are not in num_tokens
        request = tracked.request
        known = request.num_tokens if self._saves_generated else request.num_prompt_tokens
        end = min(computed + output.num_scheduled_tokens.get(request_id, 0), known) // tokens
        end = min(end, len(request.block_hashes))
        if end <= tracked.saved or any(store.space(is_for_puts=True) is None for store in self._stores):
            return
        pages = self._pages_of(output, request_id)
        if not pages:
            return
        first, tracked.saved = tracked.saved, end
        keys = self._keys_of(tracked, end)
        ids = np.array(request.all_token_ids[first * tokens:end * tokens], dtype=np.int64).astype(np.uint32).reshape(-1, tokens)
        plan.saves.append(Save(keys[first:], pages[first:end], keys[first - 1] if first else None, first * tokens, ids))

    def _first_to_save(self, tracked: _Tracked, computed: int) -> int:
        """The first block that the store is not known to have: not what came from it; what vLLM's own cache had, if the store lacks it."""
        if tracked.matches is not None and not tracked.answered:
            self._take_answer(tracked, time.monotonic())
        computed_blocks = computed // self._block_tokens
        if tracked.matched is None:
            return computed_blocks
        if tracked.expected and computed_blocks < tracked.expected:  # a load failed there
            return min(tracked.matched, computed_blocks)
        return tracked.matched

    def finished(self, request: Request) -> dict[str, int] | None:
        """A request has ended. A producer tells a consumer how many of its prompt's blocks to await."""
        tracked = self._tracked.pop(request.request_id, None)
        if tracked is None or not self._is_only_producer or self._epoch:  # after reset() nobody else has these keys
            return None
        blocks = min(max(tracked.saved or 0, tracked.matched or 0), request.num_prompt_tokens // self._block_tokens)
        return {PRODUCED: blocks}

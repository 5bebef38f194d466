"""Worker side, saving: full blocks are copied to staging at the step's end, and put from there while the engine goes on."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import dataclasses

import torch

import kvfuse

from .cache import PagedCache
from .plan import Save
from .settings import Settings
from .staging import Slots
from .store import Store, logger


@dataclasses.dataclass
class _Put:
    request: kvfuse.Request
    first: int
    count: int


class Saver:
    """Pages may be reused as soon as a request ends, so nothing is put out of them. What finds no room in staging is not saved."""

    def __init__(self, settings: Settings, cache: PagedCache) -> None:
        self._settings = settings
        self._cache = cache
        self._memory: kvfuse.Memory | None = None
        self._staged: torch.Tensor | None = None  # [slots, elements of a block]
        self._slots = Slots(0)
        self._puts: list[_Put] = []
        self.saved = self.dropped = self.failed = 0  # blocks

    def open(self, client: kvfuse.Client) -> None:
        """Makes the staging: in memory that a daemon on this host reads itself. Background thread, before the space is open."""
        block_bytes = self._cache.layout.block_bytes
        count = max(1, self._settings.save_bytes // block_bytes)
        self._memory = client.memory(count * block_bytes)
        self._staged = torch.frombuffer(memoryview(self._memory), dtype=self._cache.dtype).view(count, -1)
        self._slots = Slots(count)

    def close(self) -> None:
        """Before the client is closed, so that nobody views its memory any more."""
        self._puts.clear()
        self._staged = None

    def save(self, store: Store, save: Save) -> None:
        space = store.space(is_for_puts=True)
        done = 0
        while space is not None and self._staged is not None and done < len(save.keys):
            first, count = self._slots.take(len(save.keys) - done)
            if not count:
                store.say("full", "kvfuse: saves outrun the store: some blocks are not saved (save_bytes is %d)", self._settings.save_bytes)
                break
            self._put(space, save, done, first, count)
            done += count
        self.dropped += len(save.keys) - done

    def _put(self, space: kvfuse.Space, save: Save, at: int, first: int, count: int) -> None:
        staged = self._staged
        assert staged is not None and self._memory is not None
        block_bytes, tokens = self._cache.layout.block_bytes, self._cache.layout.block_tokens
        try:
            self._cache.read(save.block_ids[at:at + count], staged[first:first + count])
            blocks = []
            for i in range(count):
                n = at + i
                piece = kvfuse.Pointer(self._memory.address + (first + i) * block_bytes, block_bytes)
                blocks.append(kvfuse.Block(save.keys[n], piece, position=save.position + n * tokens, token_ids=save.token_ids[n],
                                           previous=save.keys[n - 1] if n else save.previous))
            self._puts.append(_Put(space.put(blocks, timeout=self._settings.save_timeout, await_room=True), first, count))
        except Exception:  # a failure of ours is never the engine's
            logger.exception("kvfuse: a put could not be started")
            self._slots.give(first, count)
            self.failed += count

    def reap(self, store: Store) -> None:
        """Frees the staging of puts that have ended. Never waits."""
        if not self._puts:
            return
        waiting = []
        for put in self._puts:
            if not put.request.done():
                waiting.append(put)
                continue
            result = put.request.wait()
            self._slots.give(put.first, put.count)
            if kvfuse.Status.ERR_BUSY in result.statuses:
                store.say("busy", "kvfuse: the store had no room within save_timeout (are its encoders behind?): some blocks are not saved")
            stored = sum(status >= 0 for status in result.statuses) if result.status >= 0 else 0
            self.saved += stored
            self.failed += put.count - stored
            store.seen(result, is_put=True)
        self._puts = waiting

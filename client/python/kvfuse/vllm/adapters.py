"""The content of LoRA adapters, of which vLLM's block hashes know only name and path."""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
import time
from typing import TYPE_CHECKING

from .fingerprint import folder_digest
from .store import logger

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

_LOOK_AGAIN_S = 1.0
_MOST = 4096  # that are remembered


@dataclasses.dataclass
class _Adapter:
    """files: names, sizes and times of change, of which digest is. None: not known. trouble: what was last said of it."""

    looked_at: float
    trouble: str = ""
    files: str | None = None
    digest: bytes | None = None


class Adapters:
    """Digests of adapters' files, read in a thread of its own, again when the files have changed. Scheduler's thread; nothing waits."""

    def __init__(self) -> None:
        self._adapters: dict[str, _Adapter] = {}
        self._paths: queue.SimpleQueue[tuple[str, _Adapter] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def seen(self, lora: LoRARequest | None) -> None:
        """A request with this adapter has come: its files are looked at, unless they just were."""
        if lora is None:
            return
        now, adapter = time.monotonic(), self._adapters.get(lora.lora_path)
        if adapter is not None and now - adapter.looked_at < _LOOK_AGAIN_S:
            return
        if adapter is None:
            if len(self._adapters) >= _MOST:
                self._adapters.clear()
            adapter = self._adapters[lora.lora_path] = _Adapter(now)
        adapter.looked_at = now
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kvfuse-lora", daemon=True)
            self._thread.start()
        self._paths.put((lora.lora_path, adapter))

    def digest_of(self, lora: LoRARequest | None) -> bytes | None:
        """What to mix into the keys. b"": there is no adapter. None: its content is not known, or not yet, so nothing is stored for it."""
        if lora is None:
            return b""
        adapter = self._adapters.get(lora.lora_path)
        return adapter.digest if adapter is not None else None

    def close(self) -> None:
        self._paths.put(None)

    def _run(self) -> None:
        while (item := self._paths.get()) is not None:
            path, adapter = item
            try:
                files = _files_of(path)
                if files != adapter.files:
                    adapter.digest = None
                    digest = folder_digest(path)
                    adapter.digest, adapter.files = digest.encode() if digest else None, files
                    self._say(path, adapter, "" if digest else "it lies in no folder here")
            except Exception as error:  # a failure of ours is never the engine's
                adapter.digest = adapter.files = None
                self._say(path, adapter, f"it cannot be read: {error}")

    @staticmethod
    def _say(path: str, adapter: _Adapter, trouble: str) -> None:
        if trouble and trouble != adapter.trouble:
            logger.warning("kvfuse: nothing is stored for the adapter %s: %s", path, trouble)
        adapter.trouble = trouble


def _files_of(path: str) -> str:
    if not os.path.isdir(path):
        return ""
    with os.scandir(path) as entries:
        stats = sorted((entry.name, entry.stat()) for entry in entries)
    return " ".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)

"""The content of LoRA adapters, of which vLLM's block hashes know only name and path."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING

from .fingerprint import folder_digest
from .store import logger

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

_MOST = 4096  # that are remembered


class Adapters:
    """Digests of adapters' files, read in a thread of its own. Scheduler's thread; nothing waits."""

    def __init__(self) -> None:
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._digests: dict[str, concurrent.futures.Future[bytes | None]] = {}

    def seen(self, lora: LoRARequest | None) -> None:
        """A request with this adapter has come: its files are read, unless they were, or again where vLLM loads them again."""
        if lora is None or (lora.lora_path in self._digests and not getattr(lora, "load_inplace", False)):
            return
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, "kvfuse-lora")
        if len(self._digests) >= _MOST:
            self._digests.clear()
        self._digests[lora.lora_path] = self._thread.submit(_read, lora.lora_path)

    def digest_of(self, lora: LoRARequest | None) -> bytes | None:
        """What to mix into the keys. b"": there is no adapter. None: its content is not known, or not yet, so nothing is stored for it."""
        if lora is None:
            return b""
        digest = self._digests.get(lora.lora_path)
        return digest.result() if digest is not None and digest.done() else None

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)


def _read(path: str) -> bytes | None:
    try:
        digest = folder_digest(path)
    except OSError as error:
        logger.warning("kvfuse: the adapter %s cannot be read, so nothing is stored for it: %s", path, error)
        return None
    if digest is None:
        logger.warning("kvfuse: the adapter %s lies in no folder here, so nothing is stored for it", path)
    return digest.encode() if digest else None

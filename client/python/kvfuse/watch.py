"""asyncio: one reader a loop on the client's descriptor."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable


class Watch:
    """The loops that watch a client.

    Each has a duplicate of the descriptor: it stays valid until that loop has let go of it, also when the client is closed in another
    thread. Readers stay until then. Threads: any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptors: dict[asyncio.AbstractEventLoop, int] = {}

    def add(self, loop: asyncio.AbstractEventLoop, duplicate_of: Callable[[], int], on_readable: Callable[[], object]) -> None:
        """Makes `loop` (the running one) call `on_readable` while completions wait, if it does not yet. duplicate_of() makes a descriptor."""
        if loop in self._descriptors:
            return
        self._forget_closed_loops()
        duplicate = duplicate_of()
        try:
            loop.add_reader(duplicate, on_readable)
        except BaseException:
            os.close(duplicate)
            raise
        with self._lock:
            self._descriptors[loop] = duplicate

    def _forget_closed_loops(self) -> None:
        with self._lock:
            for loop in [loop for loop in self._descriptors if loop.is_closed()]:
                os.close(self._descriptors.pop(loop))

    def remove_all(self) -> None:
        """The client is closed: every loop lets go, in its own thread."""
        with self._lock:
            descriptors, self._descriptors = self._descriptors, {}
        running = asyncio._get_running_loop()
        for loop, descriptor in descriptors.items():
            if loop is running:
                _let_go(loop, descriptor)
                continue
            try:
                loop.call_soon_threadsafe(_let_go, loop, descriptor)
            except RuntimeError:  # it is closed
                os.close(descriptor)


def _let_go(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    loop.remove_reader(descriptor)
    os.close(descriptor)

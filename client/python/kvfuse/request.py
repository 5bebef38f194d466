"""Requests under way, and what came of them."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ._native import ffi
from .status import STATUS_OF, Status, error_of, status_of
from .table import Table

if TYPE_CHECKING:
    from ._blocks import Batch
    from .client import Client


@dataclasses.dataclass(slots=True)
class Result:
    """What came of a request.

    status    of all: OK (each key has OK or EXISTS), what all failed with if it was one thing, or PARTIAL
    statuses  of each key, in the order of the call; empty for a match
    matched   of a match: how many keys, from the first on, are readable
    bounds    of a get with bounds=True: (ε of K, ε of V) of each block that came, 0: exact; else None
    table     of a get_table; else None
    """

    status: Status
    statuses: list[Status]
    matched: int = 0
    bounds: list[tuple[float, float]] | None = None
    table: Table | None = None

    def raise_for_status(self) -> Result:
        """Raises kvfuse.Error, or the subclass that the status has, unless it is OK. Returns the result itself."""
        if self.status is Status.OK:
            return self
        failed = [(i, status) for i, status in enumerate(self.statuses) if status < 0]
        if self.status is not Status.PARTIAL or not failed:
            raise error_of(self.status)
        first, status = failed[0]
        raise error_of(self.status, f"{len(failed)} of {len(self.statuses)} keys failed, the first (number {first}): {status.text}")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Request:
    """A put, get, get_table, match or delete under way. Made by the methods of Space.

    It keeps the memory of its blocks alive until its completion is seen: by wait(), await, done(), Client.poll(), or the next call on
    the client. It may be dropped before: it goes on, and its memory with it. From any thread.
    """

    __slots__ = ("_client", "_number", "_batch", "_c_statuses", "_c_bounds", "_c_table", "_count", "_result", "_is_waited_for", "_event",
                 "_futures", "__weakref__")

    def __init__(self, client: Client, batch: Batch | None, count: int, c_statuses: Any = None, c_bounds: Any = None,
                 c_table: Any = None) -> None:
        self._client = client
        self._number = 0
        self._batch = batch
        self._count = count
        self._c_statuses = c_statuses
        self._c_bounds = c_bounds
        self._c_table = c_table  # set by the library when the completion is taken
        self._result: Result | None = None
        self._is_waited_for = False  # a thread is inside kvf_wait_request for it
        self._event: threading.Event | None = None  # for other threads that wait
        self._futures: list[asyncio.Future[None]] = []

    def done(self) -> bool:
        """Whether it is completed. Looks, without waiting."""
        if self._result is None:
            self._client._look()
        if self._result is None:
            return False
        self._let_go()
        return True

    def wait(self) -> Result:
        """Waits for its completion, without the GIL. Every request ends within its timeout, so this does; Ctrl-C is seen then."""
        if self._result is None:
            self._client._wait(self)
        return self._take_result()

    def __await__(self) -> Generator[Any, None, Result]:
        """Waits for its completion in an asyncio loop. If the await is cancelled the request goes on, and can be awaited again."""
        if self._result is None:
            future = self._client._watch(self)
            if future is not None:
                yield from future
        return self._take_result()

    def _take_result(self) -> Result:
        self._let_go()  # another thread may have taken the completion, and be about to
        self._client._reported(self)
        assert self._result is not None
        return self._result

    def __repr__(self) -> str:
        return f"<kvfuse.Request {self._number}: {'under way' if self._result is None else self._result.status.name}>"

    def _finish(self, status: int, matched: int) -> None:
        """The completion is here. Under the client's lock; _let_go() follows, outside of it. Done again where a signal came in between."""
        if self._result is None:
            self._result = self._read_result(status_of(status), matched)
        if self._event is not None:
            self._event.set()
        running = asyncio._get_running_loop()
        for future in self._futures:
            loop = future.get_loop()
            if loop is running:
                _resolve(future)
                continue
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:
                pass  # that loop is closed: nobody awaits it any more
        self._futures = []

    def _read_result(self, status: Status, matched: int) -> Result:
        if self._c_statuses is None:
            return Result(status, [], matched)
        statuses = [STATUS_OF.get(number, Status.ERR_INTERNAL) for number in ffi.unpack(self._c_statuses, self._count)]
        if self._c_table is not None:
            c_table, self._c_table[0] = self._c_table[0], ffi.NULL
            return Result(status, statuses, table=Table(c_table) if c_table else None)
        if self._c_bounds is None:
            return Result(status, statuses)
        bounds = ffi.unpack(self._c_bounds, 2 * self._count)
        return Result(status, statuses, 0, list(zip(bounds[0::2], bounds[1::2])))

    def _let_go(self) -> None:
        """Gives the caller's memory back, once it is completed. Not under the client's lock: what dies here may call back."""
        batch = self._batch
        if batch is not None:
            batch.release()
            self._batch = self._c_statuses = self._c_bounds = self._c_table = None

"""A kvfuse store as an L2 tier of LMCache (its multiprocess mode), through LMCache's own `native_plugin` adapter.

    lmcache server … --l2-adapter '{"type": "native_plugin", "module_path": "kvfuse.lmcache", "class_name": "Connector",
        "adapter_params": {"address": "127.0.0.1:7311", "space": "llama-8b-bf16", "object_bytes": 33554432}}'

LMCache wraps `Connector` in its NativeConnectorL2Adapter, which gives it the keys as strings and the objects' memory; from and to
there the bytes go, without a copy in Python. Nothing of LMCache is imported or patched.

An object (the KV of a chunk of tokens, of one rank and object group) is one block: opaque bytes, whose key is a hash of LMCache's key.
The daemon's segments have to hold it (kvfused --segment-bytes). Blocks of one space are of one size, so each size has a space of its
own, `space.BYTES`. **Give object_bytes** (2 · layers · chunk tokens · kv heads · head dim · bytes a value, over tp): a lookup knows
no size, so without it a fresh process finds nothing until it has stored or loaded its first object.
LMCache's keys name model, rank and object group, not dtype or revision: these belong into `space` or `fingerprint`.

Failures. A store that is away, slow, full, or holds another layout is a miss or a failed store, in time: lookups end within
lookup_timeout, the rest within request_timeout, nothing waits for a connection. One that was away is found again.

Other policies than exact need to know rows: `geometry` = {"layers", "kv_heads", "head_dim", "tokens", "dtype"} ("planes": 1 for
MLA) says what LMCache's object is, [plane, layer, token, head, dim] (its KV_2LTD; KV_MLA_FMT has one plane), and the store gets it as
[layer, plane, token, head, dim]. It holds for objects of that size; others stay opaque, and are not kept unless the policy is exact.
Positions and token ids do not come through this interface, so K is coded as it is (no RoPE is undone): the bound holds, but the same
text at another position is not found to be the same.
"""

from __future__ import annotations

import array
import dataclasses
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .adapter import CONNECT_S, LOOKUP_S, REQUEST_S, Door, Store, check_name, key_of, opaque_layout
from .block import Block, Pieces
from .client import Client
from .layout import Layout
from .request import Request, Result
from .space import Space
from .status import Status

_BYTES_MOST = 1 << 40  # of an object
Completion = tuple[int, bool, str, "list[bool] | None"]


@dataclasses.dataclass(slots=True)
class _Task:
    """One submit_batch_…: `parts` requests or less are still under way for it."""

    number: int
    kind: str
    keys: list[bytes]
    found: list[bool]
    parts: int = 0
    error: str = ""


class Connector:
    """What LMCache's native_plugin asks of a client: submit_batch_get, _set, _exists, _delete; event_fd, drain_completions, close.

    address, policy   of the daemon; of the spaces
    space             begins the spaces' names
    object_bytes      a size of objects, or several
    geometry          of objects that are not opaque, see above
    fingerprint       what changes the bytes besides LMCache's keys: dtype, revision. Spaces with another one are not used
    lookup_timeout, connect_timeout, request_timeout
                      seconds
    client_options    any other option of kvfuse.Client

    submit_batch_… never wait, and return a number; drain_completions tells of each number once: (number, ok, error, for each key
    whether it was got, is there, or was deleted). ValueError, TypeError: an option is none. Threads: any.
    """

    def __init__(self, address: str = "127.0.0.1:7311", space: str = "lmcache", policy: str = "exact",
                 object_bytes: int | list[int] | None = None, geometry: dict[str, Any] | None = None, fingerprint: str = "",
                 lookup_timeout: float = LOOKUP_S, connect_timeout: float = CONNECT_S, request_timeout: float = REQUEST_S,
                 **client_options: Any) -> None:
        check_name(f"{space}.{_BYTES_MOST}")
        self._space = space
        self._lookup_timeout = lookup_timeout
        self._fingerprint = fingerprint
        self._rows = _Rows(geometry, fingerprint) if geometry else None
        if policy != "exact" and self._rows is None:
            raise ValueError(f"policy {policy!r} needs to know rows: give geometry")
        sizes = [object_bytes] if isinstance(object_bytes, int) else list(object_bytes or ())
        if self._rows is not None:
            sizes.append(self._rows.layout.block_bytes)
        self._lock = threading.RLock()  # guards the four below, and that a request is in the table before its completion is looked for
        self._doors: dict[int, Door] = {}
        self._running: dict[Request, tuple[_Task, list[int], Door]] = {}
        self._next_number = 0
        self._ends: deque[Completion] = deque()
        self._wake_lock = threading.Lock()  # guards the next, which is -1 when closed
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()  # readable when the client has completions or _wake_fd was written
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        try:
            self._store = Store(address, "lmcache", policy, self._watch, connect_timeout=connect_timeout,
                                request_timeout=request_timeout, **client_options)
        except BaseException:
            self._epoll.close()
            os.close(self._wake_fd)
            raise
        for door in [self._door(nbytes) for nbytes in dict.fromkeys(sizes)]:
            door.wait(connect_timeout)

    # ---- what LMCache calls ----

    def event_fd(self) -> int:
        """Readable while drain_completions has something to tell. Owned by the connector."""
        return self._epoll.fileno()

    def submit_batch_set(self, keys: list[str], objects: list[Any]) -> int:
        """Stores objects' bytes, which must not change until the completion. Not ok if any of them is not kept."""
        return self._transfer("set", keys, objects, lambda space, blocks: space.put(blocks, await_room=True))

    def submit_batch_get(self, keys: list[str], objects: list[Any]) -> int:
        """Reads into the objects. Where it did not come the memory is undefined."""
        return self._transfer("get", keys, objects, lambda space, blocks: space.get(blocks))

    def submit_batch_exists(self, keys: list[str]) -> int:
        """Which keys are there, in a space of any size that is known."""
        task, doors = self._begin_everywhere("exists", keys)
        for door in doors:
            self._match(task, list(range(len(keys))), door)
        return task.number

    def submit_batch_delete(self, keys: list[str]) -> int:
        """Deletes keys, in the spaces of every size that is known."""
        task, doors = self._begin_everywhere("delete", keys)
        for door in doors:
            self._start(task, list(range(len(keys))), door, lambda space: space.delete(task.keys))
        return task.number

    def drain_completions(self) -> list[Completion]:
        """What ended since the last time. Does not wait."""
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass
        client = self._store.client
        for request in client.poll() if client is not None else ():
            with self._lock:
                ended = self._running.pop(request, None)
            if ended is not None:
                self._finish(*ended, request.wait())
        ends = []
        while self._ends:
            ends.append(self._ends.popleft())
        return ends

    def close(self) -> None:
        """Ends what is in flight, untold."""
        if self._epoll.closed:
            return
        self._store.close()
        self._epoll.close()
        with self._wake_lock:
            os.close(self._wake_fd)
            self._wake_fd = -1

    # ---- inside ----

    def _watch(self, client: Client) -> None:
        self._epoll.register(client.fileno(), select.EPOLLIN)

    def _wake(self) -> None:
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _door(self, nbytes: int) -> Door:
        with self._lock:
            door = self._doors.get(nbytes)
            if door is None:
                rows = self._rows
                is_rows = rows is not None and nbytes == rows.layout.block_bytes
                layout = rows.layout if rows is not None and is_rows else opaque_layout(nbytes, f"lmcache object {self._fingerprint}")
                door = self._doors[nbytes] = self._store.open(f"{self._space}.{nbytes}", layout)
            return door

    def _begin(self, kind: str, keys: list[str]) -> _Task:
        self._next_number += 1
        return _Task(self._next_number, kind, [key_of(key) for key in keys], [False] * len(keys))

    def _begin_everywhere(self, kind: str, keys: list[str]) -> tuple[_Task, list[Door]]:
        """A task with a part for the spaces of each size that is known; without any it ends at once."""
        with self._lock:
            task = self._begin(kind, keys)
            doors = list(self._doors.values()) if keys else []
            task.parts = len(doors)
            if not doors:
                self._end(task)
            return task, doors

    def _end(self, task: _Task) -> None:
        is_set = task.kind == "set"
        ok = all(task.found) if is_set else not task.error
        self._ends.append((task.number, ok, task.error, None if is_set else task.found))
        self._wake()

    def _transfer(self, kind: str, keys: list[str], objects: list[Any], call: Callable[[Space, list[Block]], Request]) -> int:
        views = [memoryview(thing).cast("B") for thing in objects]
        sizes: dict[int, list[int]] = {}
        for i, view in enumerate(views):
            sizes.setdefault(view.nbytes, []).append(i)
        with self._lock:
            task = self._begin(kind, keys)
            task.parts = len(sizes)
            if not sizes:
                self._end(task)
                return task.number
        for nbytes, indices in sizes.items():
            self._transfer_some(task, indices, nbytes, views, call)
        return task.number

    def _transfer_some(self, task: _Task, indices: list[int], nbytes: int, views: list[memoryview],
                       call: Callable[[Space, list[Block]], Request]) -> None:
        """Those of one size."""
        rows = self._rows
        is_rows = rows is not None and nbytes == rows.layout.block_bytes
        if not nbytes or (self._store.policy != "exact" and not is_rows):
            self._fail(task, f"objects of {nbytes} bytes have no space")
            return
        door = self._door(nbytes)
        padding = bytearray(door.layout.block_bytes - nbytes)

        def pieces(view: memoryview) -> Pieces:
            if rows is not None and is_rows:
                return rows.pieces(view)
            return [view, padding] if padding else view

        self._start(task, indices, door, lambda space: call(space, [Block(task.keys[i], pieces(views[i])) for i in indices]))

    def _match(self, task: _Task, indices: list[int], door: Door) -> None:
        self._start(task, indices, door, lambda space: space.match([task.keys[i] for i in indices], timeout=self._lookup_timeout))

    def _start(self, task: _Task, indices: list[int], door: Door, call: Callable[[Space], Request]) -> None:
        def start(space: Space | None) -> None:
            if space is None:
                self._fail(task, "the store is away")
                return
            try:
                with self._lock:
                    self._running[call(space)] = (task, indices, door)
            except Exception as error:  # a failure of ours is never LMCache's
                self._store.warn("a request cannot be made: %s", error)
                self._fail(task, str(error))
            self._wake()  # starting takes completions of others, which are told by drain_completions alone

        door.enter(start)

    def _fail(self, task: _Task, error: str) -> None:
        with self._lock:
            task.error = task.error or error
            self._end_part(task)

    def _end_part(self, task: _Task) -> None:
        task.parts -= 1
        if not task.parts:
            if task.kind in ("exists", "delete"):
                task.error = ""  # not there is an answer
            self._end(task)

    def _finish(self, task: _Task, indices: list[int], door: Door, result: Result) -> None:
        if task.kind == "exists":
            self._finish_match(task, indices, door, result)
            return
        with self._lock:
            for i, status in zip(indices, result.statuses):
                task.found[i] = task.found[i] or status is Status.OK or (task.kind == "set" and status is Status.EXISTS)
            if result.status is not Status.OK:
                task.error = task.error or result.status.text
            if task.kind == "set":
                door.seen(result.status)
            self._end_part(task)

    def _finish_match(self, task: _Task, indices: list[int], door: Door, result: Result) -> None:
        """A match counts keys from the first on; those behind the first that is missing are asked for one by one, all at once."""
        left = indices[result.matched + 1 :] if result.status >= 0 else []
        with self._lock:
            for i in indices[: result.matched]:
                task.found[i] = True
            task.parts += len(left)
        for i in left:
            self._match(task, [i], door)
        with self._lock:
            self._end_part(task)


class _Rows:
    """Objects whose inside is known: [plane, layer, token, head, dim] in LMCache, [layer, plane, token, head, dim] in the store."""

    def __init__(self, geometry: dict[str, Any], fingerprint: str) -> None:
        given = {"planes": 2, "dtype": "bf16", **geometry}
        given["block_tokens"] = given.pop("tokens", None)
        try:
            self.layout = Layout(**given, model=f"lmcache rows {fingerprint}")
        except TypeError as error:
            raise ValueError(f"geometry is layers, kv_heads, head_dim, tokens, dtype, planes: {error}") from error
        layers, planes = self.layout.layers, self.layout.planes
        self._plane_bytes = self.layout.layer_bytes // planes
        self._offsets = [(plane * layers + layer) * self._plane_bytes for layer in range(layers) for plane in range(planes)]

    def pieces(self, view: memoryview) -> Pieces:
        return [view[at : at + self._plane_bytes] for at in self._offsets]

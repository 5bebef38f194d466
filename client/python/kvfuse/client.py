"""The connection to a daemon."""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import os
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, cast

from ._native import ffi, lib
from .layout import Layout
from .memory import Memory, Registration
from .options import Options, to_ms
from .request import Request, Result
from .space import Space
from .status import Status, _to_str, check, error_of
from .watch import Watch

_TAKEN_AT_ONCE = 64
_LOOK_AGAIN_S = 0.0005
_FORKED = "this process was forked while a client was open, and cannot use kvfuse: start it by spawn, or fork before the first client"


@dataclasses.dataclass(frozen=True)
class ClientInfo:
    """Facts about a connection, for people and tests.

    not_shared_why: with transport "auto", why shared memory is not used though the daemon is on this host; "" otherwise.
    daemon_version: "" while never connected.
    """

    connected: bool
    shared_memory: bool
    not_shared_why: str
    daemon_version: str
    ucx_version: str
    reconnects: int


class Client:
    """A connection to a daemon.

    address           host:port or [v6]:port
    name              shown to admins; None: the program's
    transport         "auto" (shared memory if the daemon is on this host and lets us, else the network), "network", "shared"
    put_mode          who codes what is put into a fused space: "raw" the daemon behind the put, "fused" the library before it
    unit_cache_bytes  units of fused spaces that are kept for the next get
    connect_timeout, request_timeout, ping_interval
                      seconds: of this call, space() and drop(); of requests that give none; silence before the daemon is asked for
                      a sign of life
    skip_verify       do not check the checksums of what a get brings
    busy_poll         the library's thread spins instead of sleeping: lower latency, a whole core
    ucx_tls           UCX's transports, as in UCX_TLS
    decoded_bytes     units that are kept as decoded, beside those
    bounce_bytes      shared memory through which puts from other memory go

    0 or None means the library's default. Blocks until connected; raises kvfuse.Unreachable, Timeout, Busy, … (all kvfuse.Error). A
    lost connection is made again in the background; requests wait for that within their timeouts.

    Threads: everything may be called from any thread. The library has one thread of its own. No call blocks with the GIL held.
    Forks: a child that is forked while a client is open can use neither that one nor make its own (kvfuse.Error, ERR_UNSUPPORTED, at
    once), as UCX's threads are not in it. The parent goes on. Start such children by spawn, or fork before the first client.
    """

    def __init__(self, address: str = "127.0.0.1:7311", *, name: str | None = None, transport: str = "auto", put_mode: str = "raw",
                 unit_cache_bytes: int = 0, connect_timeout: float | None = None, request_timeout: float | None = None,
                 ping_interval: float | None = None, skip_verify: bool = False, busy_poll: bool = False, ucx_tls: str | None = None,
                 bounce_bytes: int = 0, decoded_bytes: int = 0) -> None:
        self._c: Any = None
        self._pid = os.getpid()
        self._is_closing = False
        self._calls: list[None] = []  # one for each call into the library: close() waits for them. append and pop are atomic
        self._lock = threading.Lock()  # guards the eight below, and that who takes a completion also hands it on
        self._in_flight: dict[int, Request] = {}
        self._unreported: weakref.WeakValueDictionary[int, Request] = weakref.WeakValueDictionary()  # for poll()
        self._completions = ffi.new("kvf_completion_t[]", _TAKEN_AT_ONCE)
        self._taken = ffi.new("size_t *")  # how many of these the library has filled
        self._handed_on = 0
        self._number = ffi.new("kvf_request_t *")
        self._memories: weakref.WeakSet[Memory] = weakref.WeakSet()
        self._registrations: weakref.WeakSet[Registration] = weakref.WeakSet()
        self._watch_list = Watch()
        self.address = address
        if _is_lame:
            raise error_of(Status.ERR_UNSUPPORTED, _FORKED)
        options = Options(address, name, transport, put_mode, unit_cache_bytes, decoded_bytes, bounce_bytes, connect_timeout,
                          request_timeout, ping_interval, skip_verify, busy_poll, ucx_tls)
        out, error = ffi.new("kvf_client_t **"), ffi.new("kvf_error_t *")
        check(lib.kvf_connect(options.c, out, error), error)
        self._c = out[0]
        _open_clients.add(self)

    # ---- open and closed ----

    def close(self) -> None:
        """Ends what is in flight (its status is ERR_CANCELED), disconnects, frees all Memory. Done again, it does nothing.

        Waits for other threads' calls: those that wait for a request, until it ends. BufferError, and nothing is closed: views of a
        Memory are alive (where requests under way may be what uses it, it waits for them first).
        """
        if self._c is None or self._is_forked():
            return
        if self._used_memories():
            self._drain()
        used = self._used_memories()
        if used:
            raise BufferError(f"views of {used[0]!r} are alive: the client cannot be closed")
        self._close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_c", None) is not None and not self._is_forked():
            self._close()

    def _used_memories(self) -> list[Memory]:
        with self._lock:
            return [memory for memory in self._memories if memory.exports]

    def _drain(self) -> None:
        """Waits until nothing is in flight: every request ends within its timeout."""
        while self._in_flight:
            self._look()
            time.sleep(_LOOK_AGAIN_S)

    def _close(self) -> None:
        with self._lock:
            if self._is_closing:
                return
            self._is_closing = True
        while self._calls:
            time.sleep(_LOOK_AGAIN_S)
        c, self._c = self._c, None
        _open_clients.discard(self)
        lib.kvf_close(c)  # from here on nobody touches the memory of what was in flight
        with self._lock:
            ended = list(self._in_flight.values())
            self._in_flight.clear()
            for request in ended:
                request._finish(Status.ERR_CANCELED, 0)
        for request in ended:
            request._let_go()
        for memory in list(self._memories):
            memory._client = None
            if not memory.exports:
                memory._detach()
        for registration in list(self._registrations):
            registration.unregister()
        self._watch_list.remove_all()

    def _is_forked(self) -> bool:
        return os.getpid() != self._pid

    def _enter(self) -> Any:
        """Begins a call into the library; _leave() ends it. Returns the kvf_client_t, or raises."""
        if self._is_forked():
            raise error_of(Status.ERR_UNSUPPORTED, _FORKED)
        self._calls.append(None)
        if self._is_closing:
            self._calls.pop()
            raise error_of(Status.ERR_CANCELED, "the client is closed")
        return self._c

    def _leave(self) -> None:
        self._calls.pop()

    # ---- facts ----

    @property
    def info(self) -> ClientInfo:
        """Facts about the connection."""
        facts = ffi.new("kvf_client_info_t *")
        c = self._enter()
        try:
            lib.kvf_client_get_info(c, facts)
            return ClientInfo(facts.connected, facts.shared_memory, _to_str(facts.not_shared_why), _to_str(facts.daemon_version),
                              _to_str(facts.ucx_version), facts.reconnects)
        finally:
            self._leave()

    @property
    def connected(self) -> bool:
        """Whether the connection stands right now. False for a closed client."""
        return not self._is_closing and self.info.connected

    def fileno(self) -> int:
        """A descriptor that is readable while completions wait: for poll, epoll, an event loop. Then call poll(). The client's own."""
        c = self._enter()
        try:
            return cast(int, lib.kvf_client_fd(c))
        finally:
            self._leave()

    def ping(self, timeout: float = 5.0) -> float:
        """Round trip to the daemon in seconds. Waits at most `timeout` seconds; kvfuse.Timeout then."""
        round_trip_ns = ffi.new("uint64_t *")
        c = self._enter()
        try:
            check(lib.kvf_ping(c, to_ms(timeout), round_trip_ns))
        finally:
            self._leave()
        return cast(int, round_trip_ns[0]) / 1e9

    # ---- spaces ----

    def space(self, name: str, layout: Layout, policy: str = "exact", create: bool = True) -> Space:
        """Opens the space `name`, making it if there is none and `create` is true. Blocks, for at most connect_timeout.

        policy: "exact", "error E", "error K=E,V=E" or "ratio R". ValueError: it is none of these.
        Raises kvfuse.LayoutMismatch or PolicyMismatch if it was made with another one (the text names the field and both values),
        NotFound if there is none and `create` is false.
        """
        c_policy, out, error = ffi.new("kvf_policy_t *"), ffi.new("kvf_space_t **"), ffi.new("kvf_error_t *")
        if lib.kvf_policy_parse(policy.encode(), c_policy, error) < 0:
            raise ValueError(_to_str(error.text))
        c = self._enter()
        try:
            opener = lib.kvf_space_open if create else lib.kvf_space_open_existing
            check(opener(c, name.encode(), layout._c, c_policy, out, error), error)
        finally:
            self._leave()
        return Space(self, name, layout, policy, out[0])

    def drop(self, name: str) -> None:
        """Drops the space `name` with all its blocks, whoever uses it. Blocks. kvfuse.NotFound: there is none."""
        error = ffi.new("kvf_error_t *")
        c = self._enter()
        try:
            check(lib.kvf_space_drop(c, name.encode(), error), error)
        finally:
            self._leave()

    # ---- memory ----

    def memory(self, nbytes: int) -> Memory:
        """Memory for blocks that a daemon on this host can read itself: puts from it cost one copy. At most 15 (kvfuse.Busy)."""
        base = ffi.new("void **")
        if nbytes <= 0:
            raise ValueError(f"{nbytes} bytes of memory")
        c = self._enter()
        try:
            check(lib.kvf_memory_alloc(c, nbytes, base))
            memory = Memory(self, int(ffi.cast("uintptr_t", base[0])), nbytes)
            with self._lock:
                self._memories.add(memory)
            return memory
        finally:
            self._leave()

    def register(self, memory: Any) -> Registration:
        """Registers memory of the caller's (a buffer, a CPU tensor, a Pointer) with the network, so that no request pays for it. Not
        needed for correctness."""
        registration = Registration(self, memory)
        self._registrations.add(registration)
        return registration

    def _register_memory(self, address: int, nbytes: int) -> None:
        c = self._enter()
        try:
            check(lib.kvf_memory_register(c, ffi.cast("void *", address), nbytes))
        finally:
            self._leave()

    def _unregister_memory(self, address: int) -> None:
        self._with_open(lambda c: lib.kvf_memory_unregister(c, ffi.cast("void *", address)))

    def _free_memory(self, address: int) -> None:
        self._with_open(lambda c: lib.kvf_memory_free(c, ffi.cast("void *", address)))

    def _with_open(self, call: Callable[[Any], object]) -> None:
        """Calls, unless the client is closed (which has done it) or this is a fork's child. Takes no lock: for finalisers."""
        if self._is_forked():
            return
        self._calls.append(None)
        try:
            if not self._is_closing:
                call(self._c)
        finally:
            self._calls.pop()

    # ---- requests ----

    def poll(self) -> list[Request]:
        """The requests that completed since the last time, and that nobody waited for or awaited. Does not wait.

        One whose Request was dropped is told only if it is this very call that sees its completion.
        """
        completed = self._take()
        with self._lock:
            earlier = list(self._unreported.values())
            self._unreported.clear()
        return earlier + completed

    def _start(self, request: Request, call: Callable[[Any], int]) -> Request:
        """Starts a request. The lock is held so that its completion cannot be seen before it is in the table."""
        if not request._count:
            request._finish(Status.OK, 0)
            request._let_go()
            return request
        batch = request._batch  # another thread may see the completion, and let it go, before this one goes on
        self._look()
        self._enter()
        try:
            with self._lock:
                self._number[0] = 0
                try:
                    check(call(self._number))
                finally:  # also where a signal's exception comes in between: what was started is under way
                    number = request._number = self._number[0]
                    if number:
                        self._in_flight[number] = request
        finally:
            self._leave()
        if batch is not None:
            batch.started()
        return request

    def _look(self) -> None:
        """Takes the completions that wait; poll() tells of them later."""
        if not self._in_flight:
            return
        completed = self._take()
        if completed:
            with self._lock:
                for request in completed:
                    self._unreported[request._number] = request

    def _take(self) -> list[Request]:
        """Takes the completions that wait, and hands them on. Returns those that nobody waits for."""
        if not self._in_flight:
            return []
        taken: list[Request] = []
        unawaited: list[Request] = []
        c = self._enter()
        try:
            with self._lock:
                try:
                    self._hand_on(taken, unawaited)
                    count = _TAKEN_AT_ONCE
                    while count == _TAKEN_AT_ONCE:
                        self._taken[0] = self._handed_on = 0
                        lib.kvfpy_poll(c, self._completions, _TAKEN_AT_ONCE, self._taken)
                        count = self._taken[0]
                        self._hand_on(taken, unawaited)
                finally:  # also where a signal's exception came in between: the library has forgotten what was taken
                    self._hand_on(taken, unawaited)
        finally:
            self._leave()
        for request in taken:
            request._let_go()
        return unawaited

    def _hand_on(self, taken: list[Request], unawaited: list[Request]) -> None:
        """Hands on what was taken. Under the lock."""
        while self._handed_on < self._taken[0]:
            completion = self._completions[self._handed_on]
            request = self._in_flight.get(completion.request)
            if request is not None:
                taken.append(request)
                if not request._is_waited_for and all(future.cancelled() for future in request._futures):
                    unawaited.append(request)
                request._finish(completion.status, completion.matched)
                self._in_flight.pop(completion.request, None)
            self._handed_on += 1

    def _reported(self, request: Request) -> None:
        """Somebody knows of its completion: poll() need not tell."""
        if self._unreported:
            with self._lock:
                self._unreported.pop(request._number, None)

    def _wait(self, request: Request) -> None:
        """Waits for a completion. One thread does so in the library, others for that thread."""
        c = self._enter()
        try:
            while request._result is None:
                with self._lock:
                    if request._result is not None:
                        break
                    is_first = not request._is_waited_for
                    request._is_waited_for = True
                    if not is_first and request._event is None:
                        request._event = threading.Event()
                    event = request._event
                if is_first:
                    self._wait_in_library(c, request)
                elif event is not None:
                    event.wait()
        finally:
            self._leave()

    def _wait_in_library(self, c: Any, request: Request) -> None:
        completion = ffi.new("kvf_completion_t *")
        try:
            lib.kvfpy_wait(c, request._number, completion)
        finally:  # also where a signal's exception comes in between: the completion is taken, so it has to be handed on
            with self._lock:
                request._is_waited_for = False
                # Who took it meanwhile has also handed it on, as both are done under the lock: then there is a result, and what the
                # library said is that it does not know the request.
                if completion.request and request._result is None:
                    self._in_flight.pop(request._number, None)
                    request._finish(completion.status, completion.matched)
                if request._event is not None:
                    request._event.set()
                    request._event = None

    def _watch(self, request: Request) -> asyncio.Future[None] | None:
        """A future of the running loop that ends with the request. None: it is completed already."""
        loop = asyncio.get_running_loop()
        self._watch_list.add(loop, self._duplicate, self._on_readable)
        future = loop.create_future()
        with self._lock:
            if request._result is not None:
                return None
            request._futures.append(future)
        return future

    def _duplicate(self) -> int:
        """A descriptor that stays readable while completions wait, for the caller to close."""
        self._enter()
        try:
            return os.dup(self.fileno())
        finally:
            self._leave()

    def _on_readable(self) -> None:
        if not self._is_closing:
            self._look()


_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_is_lame = False  # this process was forked while a client was open


def _after_fork() -> None:
    global _is_lame
    _is_lame = _is_lame or len(_open_clients) > 0


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _close_all() -> None:
    """The library must not write into the memory of an interpreter that is going down."""
    for client in list(_open_clients):
        if not client._is_forked():
            client._close()


__all__ = ["Client", "ClientInfo", "Result"]

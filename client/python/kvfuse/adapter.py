"""What the adapters for other caches share: a store that may be away, and pages of bytes as blocks. For kvfuse.lmcache, .sglang."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from ._native import ffi, lib
from .client import Client
from .layout import Layout
from .space import Space
from .status import Error, Status, _to_str, error_of

logger = logging.getLogger("kvfuse")

CONNECT_S, REQUEST_S, LOOKUP_S = 2.0, 10.0, 1.0  # defaults of the adapters' connect_timeout, request_timeout, lookup_timeout
_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_CLOSE_S = 1.0  # more than connect_timeout, for the thread to see that it is to end
_KEY_BYTES = 32
_NAME_BYTES = 128  # the most that the daemon takes
_FACTORS = {"head_dim": 1024, "block_tokens": 1024, "layers": 1024, "kv_heads": 128}  # the most that a layout may have of each
_VALUE_BYTES = 2


def key_of(text: str) -> bytes:
    """The block's key for a key of any length."""
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).digest()


def check_name(name: str) -> None:
    """ValueError: a space cannot have this name."""
    if not 0 < len(name) <= _NAME_BYTES or any(not "!" <= c <= "~" for c in name):
        raise ValueError(f"a space's name is of 1 to {_NAME_BYTES} visible ASCII characters: {name!r}")


def check_policy(policy: str) -> None:
    """ValueError: there is no such policy."""
    error = ffi.new("kvf_error_t *")
    if lib.kvf_policy_parse(policy.encode(), ffi.new("kvf_policy_t *"), error) < 0:
        raise ValueError(_to_str(error.text))


def opaque_layout(nbytes: int, model: str) -> Layout:
    """A layout for pages whose inside nobody knows: a block has `nbytes` bytes, or a few more (at most 1/500) where no layout has so
    many: what is missing is a piece of padding."""
    if nbytes <= 0:
        raise ValueError(f"pages of {nbytes} bytes")
    values, grain = -(-nbytes // _VALUE_BYTES), 1
    while True:
        left = -(-values // grain) * grain
        shape: dict[str, int] = {}
        for name, most in _FACTORS.items():
            shape[name] = max(n for n in range(1, most + 1) if left % n == 0)
            left //= shape[name]
        if left == 1:
            return Layout(planes=1, dtype="bf16", model=model, layers=shape["layers"], kv_heads=shape["kv_heads"],
                          head_dim=shape["head_dim"], block_tokens=shape["block_tokens"])
        grain *= 2
        if grain > values:
            raise ValueError(f"pages of {nbytes} bytes are too large")


class Door:
    """A space that is being opened, or is open. Made by Store.open(). Threads: any."""

    def __init__(self, store: Store, name: str, layout: Layout) -> None:
        self.name = name
        self.layout = layout
        self._store = store
        self._space: Space | None = None
        self._lock = threading.Lock()  # guards the next
        self._waiting: list[Callable[[Space | None], None]] | None = []  # None: it was tried

    def space(self) -> Space | None:
        """The space, if it can be used right now."""
        return self._space if self._space is not None and self._store.is_connected() else None

    def enter(self, call: Callable[[Space | None], None]) -> None:
        """Calls with space(): at once, or in the store's thread when the first try to open it is done."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.append(call)
                return
        call(self.space())

    def wait(self, timeout: float) -> bool:
        """Waits for the first try. Whether the space can be used."""
        tried = threading.Event()
        self.enter(lambda space: tried.set())
        tried.wait(timeout)
        return self.space() is not None

    def seen(self, status: Status) -> None:
        """Told the statuses of puts: one that finds nothing has lost the space (somebody dropped it), which is opened again."""
        if status is Status.ERR_NOT_FOUND:
            self._store.reopen(self)

    def _tried(self, space: Space | None) -> None:
        with self._lock:
            self._space = space
            waiting, self._waiting = self._waiting or [], None
        for call in waiting:
            call(self.space())


class Store:
    """A client and spaces of it, for an engine that must neither fail nor wait when the daemon does.

    Connects once when made, for at most connect_timeout; from then on a thread connects and opens spaces until it can. A wrong option
    is a ValueError or TypeError when made; what the daemon or the network fails with is only logged, once until all is well.
    on_connect(client) is called before a space is open, in either thread. Threads: any.
    """

    def __init__(self, address: str, name: str, policy: str, on_connect: Callable[[Client], None] | None = None, *,
                 connect_timeout: float = CONNECT_S, request_timeout: float = REQUEST_S, **options: Any) -> None:
        check_policy(policy)
        self.policy = policy
        self.client: Client | None = None
        self._on_connect = on_connect
        self._options = {"address": address, "name": name, "connect_timeout": connect_timeout, "request_timeout": request_timeout,
                         **options}
        self.connect_timeout = connect_timeout
        self._doors: list[Door] = []
        self._changed = threading.Condition()  # guards the doors, and their spaces' becoming None, and:
        self._is_closing = False
        self._has_warned = False
        try:
            self._connect()
        except Error as error:
            self.warn("no store at %s yet, so nothing is kept and nothing found: %s", address, error)
        self._thread = threading.Thread(target=self._run, name="kvfuse-open", daemon=True)
        self._thread.start()

    def open(self, name: str, layout: Layout) -> Door:
        """A space, opened in the background. ValueError: that is no name."""
        check_name(name)
        door = Door(self, name, layout)
        with self._changed:
            self._doors.append(door)
            self._changed.notify()
        return door

    def reopen(self, door: Door) -> None:
        with self._changed:
            door._space = None
            self._changed.notify()

    def is_connected(self) -> bool:
        client = self.client
        try:
            return client is not None and client.connected
        except Error:  # it was closed, or this process is a fork's child
            return False

    def close(self) -> None:
        """Ends all that is in flight. Nothing can be used afterwards."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(self.connect_timeout + _CLOSE_S)
        client, self.client = self.client, None
        if client is not None:
            client.close()

    def warn(self, text: str, *arguments: object) -> None:
        """Once until all is well."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning("kvfuse: " + text, *arguments)

    # ---- in the background ----

    def _run(self) -> None:
        tries = 0
        while True:
            with self._changed:
                if self._is_closing:
                    return
                shut = [door for door in self._doors if door._space is None]
                if self.client is not None and not shut:
                    self._changed.wait()
                    continue
            if self._try(shut):
                tries = 0
                continue
            with self._changed:
                if not self._is_closing:
                    self._changed.wait(_RETRY_S[min(tries, len(_RETRY_S) - 1)])
            tries += 1

    def _try(self, shut: list[Door]) -> bool:
        is_well = True
        doors: list[Door | None] = [*shut] or [None]  # None: only connect
        for door in doors:
            space = None
            try:
                client = self._connect()
                if door is not None:
                    space = client.space(door.name, door.layout, self.policy)
                    logger.info("kvfuse: %r is open (%s)", space, self._options["address"])
            except Error as error:
                is_well = False
                self.warn("the space %r at %s cannot be used: %s", door.name if door else "", self._options["address"], error)
            except Exception:
                is_well = False
                logger.exception("kvfuse: opening a space failed")
            if door is not None:
                door._tried(space)
        self._has_warned = self._has_warned and not is_well
        return is_well

    def _connect(self) -> Client:
        client = self.client
        if client is None:
            client = Client(**self._options)
            with self._changed:
                if self._is_closing:  # close() did not wait for this
                    client.close()
                    raise error_of(Status.ERR_CANCELED)
                if self._on_connect is not None:
                    self._on_connect(client)
                self.client = client
        return client

"""Statuses, and the exceptions made of them."""

from __future__ import annotations

import enum

from ._native import ffi, lib


class Status(enum.IntEnum):
    """Every kvf_status_t: 0 done, > 0 in progress or partial, < 0 failed (-1… request, -100… connection, -200… node)."""

    OK = 0
    IN_PROGRESS = 1
    EXISTS = 2
    """Of a put: stored already, or another put of the key is landing; its bytes were left as they are."""
    PARTIAL = 3
    """Of a request: some keys failed, see the status of each."""
    ERR_INVALID = -1
    ERR_NOT_FOUND = -2
    ERR_LAYOUT = -3
    ERR_POLICY = -4
    ERR_TOO_LARGE = -5
    ERR_BUSY = -6
    """A budget is used up, try again."""
    ERR_NO_SPACE = -7
    """No room and nothing to evict."""
    ERR_CORRUPT = -8
    """The bytes are not those that were put; nothing of the block is to be used."""
    ERR_TIMEOUT = -9
    ERR_CANCELED = -10
    ERR_UNSUPPORTED = -11
    ERR_UNREACHABLE = -100
    ERR_DISCONNECTED = -101
    ERR_PROTOCOL = -102
    ERR_VERSION = -103
    """The peer runs another protocol or another UCX."""
    ERR_ADDRESS_IN_USE = -104
    ERR_ADDRESS = -105
    ERR_NO_MEMORY = -200
    ERR_IO = -201
    ERR_TRANSPORT = -202
    ERR_INTERNAL = -203
    ERR_SHUTDOWN = -204

    # The same without the prefix.
    INVALID = ERR_INVALID
    NOT_FOUND = ERR_NOT_FOUND
    LAYOUT = ERR_LAYOUT
    POLICY = ERR_POLICY
    TOO_LARGE = ERR_TOO_LARGE
    BUSY = ERR_BUSY
    NO_SPACE = ERR_NO_SPACE
    CORRUPT = ERR_CORRUPT
    TIMEOUT = ERR_TIMEOUT
    CANCELED = ERR_CANCELED
    UNSUPPORTED = ERR_UNSUPPORTED
    UNREACHABLE = ERR_UNREACHABLE
    DISCONNECTED = ERR_DISCONNECTED
    PROTOCOL = ERR_PROTOCOL
    VERSION = ERR_VERSION
    ADDRESS_IN_USE = ERR_ADDRESS_IN_USE
    ADDRESS = ERR_ADDRESS
    NO_MEMORY = ERR_NO_MEMORY
    IO = ERR_IO
    TRANSPORT = ERR_TRANSPORT
    INTERNAL = ERR_INTERNAL
    SHUTDOWN = ERR_SHUTDOWN

    @property
    def text(self) -> str:
        """For people: "not found"."""
        return _to_str(lib.kvf_status_text(self))


def _to_str(c_string: object) -> str:
    return bytes(ffi.string(c_string)).decode(errors="replace")


STATUS_OF: dict[int, Status] = {int(status): status for status in Status}


def status_of(number: int) -> Status:
    """The Status of what the library returned; ERR_INTERNAL for a number that this package does not know."""
    return STATUS_OF.get(number, Status.ERR_INTERNAL)


class Error(Exception):
    """What the library failed with. Every exception of its statuses is one of these.

    status: the Status.  name: as C calls it, "KVF_ERR_NOT_FOUND".  str(): for people.
    """

    def __init__(self, status: Status, text: str = "") -> None:
        super().__init__(status, text)
        self.status = status
        self.name = "KVF_" + status.name
        self._text = text or status.text

    def __str__(self) -> str:
        return self._text


class NotFound(Error):
    """There is no such key or space."""


class LayoutMismatch(Error):
    """The space was made with another layout; the text names the field and both values."""


class PolicyMismatch(Error):
    """The space was made with another policy; the text names both."""


class Busy(Error):
    """A budget is used up: try again, or do without."""


class NoSpace(Error):
    """No room in the store, and nothing to evict."""


class Timeout(Error, TimeoutError):
    """Not done in time. Also a TimeoutError."""


class Unreachable(Error, ConnectionError):
    """No daemon answers at this address. Also a ConnectionError."""


class Disconnected(Error, ConnectionError):
    """The connection was lost meanwhile. Also a ConnectionError."""


class Corrupt(Error):
    """The bytes are not those that were put."""


_CLASSES: dict[Status, type[Error]] = {
    Status.ERR_NOT_FOUND: NotFound,
    Status.ERR_LAYOUT: LayoutMismatch,
    Status.ERR_POLICY: PolicyMismatch,
    Status.ERR_BUSY: Busy,
    Status.ERR_NO_SPACE: NoSpace,
    Status.ERR_TIMEOUT: Timeout,
    Status.ERR_UNREACHABLE: Unreachable,
    Status.ERR_DISCONNECTED: Disconnected,
    Status.ERR_CORRUPT: Corrupt,
}


def error_of(status: int, text: str = "") -> Error:
    """The exception for a status, of the subclass that it has."""
    known = status_of(status)
    return _CLASSES.get(known, Error)(known, text)


def check(status: int, error: object = None) -> None:
    """Raises the status if it is a failure, with the text of a kvf_error_t * if there is one."""
    if status < 0:
        raise error_of(status, _to_str(error.text) if error is not None else "")  # type: ignore[attr-defined]


def version() -> str:
    """Version of the library, "0.1.0"."""
    return _to_str(lib.kvf_version())

"""From Python's values to those of kvf_client_options_t."""

from __future__ import annotations

import math
from typing import Any

from ._native import ffi, lib

_TRANSPORTS = {"auto": lib.KVF_TRANSPORT_AUTO, "network": lib.KVF_TRANSPORT_NETWORK, "shared": lib.KVF_TRANSPORT_SHARED}
_PUT_MODES = {"raw": lib.KVF_PUT_RAW, "fused": lib.KVF_PUT_FUSED}
_MS_MAX = 2**32 - 1


def to_ms(seconds: float | None) -> int:
    """Whole milliseconds, rounded up; 0, which is the library's default, for None and 0."""
    if not seconds:
        return 0
    if not seconds > 0:
        raise ValueError(f"a time of {seconds} seconds")
    return min(_MS_MAX, math.ceil(min(seconds * 1000, _MS_MAX)))


def choose(what: str, name: str, among: dict[str, int]) -> int:
    """The number of the choice `name`."""
    if name not in among:
        raise ValueError(f"{what} {name!r}: one of {', '.join(among)}")
    return among[name]


class Options:
    """A kvf_client_options_t (`c`) and the strings that it points to."""

    def __init__(self, address: str, name: str | None, transport: str, put_mode: str, unit_cache_bytes: int, decoded_bytes: int,
                 bounce_bytes: int, connect_timeout: float | None, request_timeout: float | None, ping_interval: float | None,
                 skip_verify: bool, busy_poll: bool, ucx_tls: str | None) -> None:
        self.c: Any = ffi.new("kvf_client_options_t *")
        self._strings: list[Any] = []
        lib.kvf_client_options_init(self.c)
        self.c.address = self._borrow(address)
        self.c.name = self._borrow(name)
        self.c.transport = choose("transport", transport, _TRANSPORTS)
        self.c.put_mode = choose("put_mode", put_mode, _PUT_MODES)
        self.c.unit_cache_bytes, self.c.decoded_bytes, self.c.bounce_bytes = unit_cache_bytes, decoded_bytes, bounce_bytes
        self.c.connect_timeout_ms, self.c.request_timeout_ms = to_ms(connect_timeout), to_ms(request_timeout)
        self.c.ping_ms = to_ms(ping_interval)
        self.c.skip_verify, self.c.busy_poll = skip_verify, busy_poll
        self.c.ucx_tls = self._borrow(ucx_tls)

    def _borrow(self, text: str | None) -> Any:
        if text is None:
            return ffi.NULL
        self._strings.append(ffi.new("char[]", text.encode()))
        return self._strings[-1]

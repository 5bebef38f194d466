"""What kv_connector_extra_config may hold."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..adapter import check_name, check_policy

_RANK_BYTES = len(".tp1000of1000")  # that the name of a space grows by
_CHOICES = {
    "transport": ("auto", "network", "shared"),
    "put_mode": ("raw", "fused"),
    "order": ("auto", "pages", "rows"),
    "load": ("async", "layers"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Times are seconds, sizes bytes.

    address           of the daemon
    space             name of the space; None: made of model, policy and fingerprint, so that engines that differ never meet.
                      With tensor parallelism each rank has its own: ".tp0of2" and so on is added
    policy            of the space: "exact", "error E", "ratio R", …
    transport, put_mode, unit_cache_bytes, decoded_bytes, ucx_tls
                      as of kvfuse.Client
    order             how a block's bytes lie in the store. "pages": as in vLLM's cache, so that the library scatters them straight
                      into it. "rows": [layer, plane, token, head, dim], which a policy other than exact needs to find rows.
                      "auto": pages under exact, else rows
    load              "async": between steps, other requests run on meanwhile. "layers": within the step, layer by layer, each
                      waited for where its attention begins
    layers_per_get    of load "layers"
    save_bytes        staging for saves, of each worker. What finds no room there is not saved: nothing ever waits
    load_bytes        of blocks that are asked for at once, of each worker
    save_generated    save blocks of generated tokens too
    min_load_tokens   fewer are computed rather than loaded
    connect_timeout   of a try to connect; the tries go on in the background
    match_timeout     after this a request is taken for a miss
    load_timeout      of each get; then the blocks are computed
    save_timeout      of each put, which waits so long for room where the store's encoders are behind
    pause             after a request of the store timed out nothing is asked of it for so long; saves go on, unless they time out
    handoff_wait      how long a request that carries a producer's kv_transfer_params is held back for its blocks to arrive
    """

    address: str = "127.0.0.1:7311"
    space: str | None = None
    policy: str = "exact"
    transport: str = "auto"
    put_mode: str = "raw"
    unit_cache_bytes: int = 0
    decoded_bytes: int = 0
    ucx_tls: str | None = None
    order: str = "auto"
    load: str = "async"
    layers_per_get: int = 8
    save_bytes: int = 128 << 20
    load_bytes: int = 64 << 20
    save_generated: bool = True
    min_load_tokens: int = 1
    connect_timeout: float = 1.0
    match_timeout: float = 0.25
    load_timeout: float = 2.0
    save_timeout: float = 10.0
    pause: float = 1.0
    handoff_wait: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_type(field.name, field.default, getattr(self, field.name))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"kv_connector_extra_config: {name} is {getattr(self, name)!r}; it may be {', '.join(choices)}")
        for name in ("layers_per_get", "save_bytes", "load_bytes", "connect_timeout", "match_timeout", "load_timeout", "save_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"kv_connector_extra_config: {name} is {getattr(self, name)!r}; it has to be more than 0")
        for name in ("unit_cache_bytes", "decoded_bytes", "min_load_tokens", "pause", "handoff_wait"):
            if getattr(self, name) < 0:
                raise ValueError(f"kv_connector_extra_config: {name} is {getattr(self, name)!r}; it cannot be negative")
        try:
            check_policy(self.policy)
            if self.space is not None:
                check_name(self.space + "_" * _RANK_BYTES)
        except ValueError as error:
            raise ValueError(f"kv_connector_extra_config: {error}") from None
        if self.order == "pages" and self.policy != "exact":
            raise ValueError(f"kv_connector_extra_config: order 'pages' has no rows, which policy {self.policy!r} needs")

    @staticmethod
    def _check_type(name: str, default: object, value: object) -> None:
        """As what stands above: an int will do for a float, a bool for nothing else."""
        wanted = str if default is None else type(default)
        is_right = type(value) is wanted or (wanted is float and type(value) is int) or (default is None and value is None)
        if not is_right:
            raise ValueError(f"kv_connector_extra_config: {name} is {value!r}; it has to be of type {wanted.__name__}")

    @property
    def in_pages(self) -> bool:
        """Whether a block's bytes lie in the store as in vLLM's cache."""
        return self.order == "pages" or (self.order == "auto" and self.policy == "exact")


def read(extra: dict[str, Any]) -> Settings:
    """ValueError: it holds something that is none of the settings, or not what a setting may be."""
    known = {field.name for field in dataclasses.fields(Settings)}
    unknown = sorted(set(extra) - known)
    if unknown:
        raise ValueError(f"kv_connector_extra_config: there is no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return Settings(**extra)

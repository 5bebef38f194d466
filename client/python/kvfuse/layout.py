"""What a space's blocks look like."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

from ._native import ffi, lib

_DTYPES = {"bf16": lib.KVF_BF16, "fp16": lib.KVF_FP16, "fp32": lib.KVF_FP32}
_ROPE_STYLES = {None: lib.KVF_ROPE_NONE, "none": lib.KVF_ROPE_NONE, "neox": lib.KVF_ROPE_NEOX, "gptj": lib.KVF_ROPE_GPTJ}
_MODEL_BYTES_MAX = 255
_FIELDS = ("layers", "planes", "kv_heads", "head_dim", "block_tokens")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of a space. Two clients that disagree on any field cannot open the same space.

    A block's bytes are [layer, plane (K, V), token, head, dim] in `dtype`.

    layers           1 to 1024
    planes           planes a layer: 2 (K and V), or 1 (a latent plane without RoPE, as MLA has)
    kv_heads         1 to 128
    head_dim         1 to 1024
    block_tokens     tokens a block, 1 to 1024
    dtype            "bf16", "fp16" or "fp32"
    rope_style       how K carries its position: None, "neox" (by halves) or "gptj" (by neighbours)
    rope_dim         leading dims that are rotated, even; 0 (and no frequencies) where rope_style is None
    rope_frequencies [1 or layers, rope_dim / 2] radians a token: one table for all layers, or one a layer
    model            fingerprint of what else changes the bytes: model, revision, quantisation, TP rank; at most 255 bytes

    Raises ValueError for what is not a layout.
    """

    layers: int
    planes: int = 2
    kv_heads: int = 1
    head_dim: int = 64
    block_tokens: int = 16
    dtype: str = "bf16"
    rope_style: str | None = None
    rope_dim: int = 0
    rope_frequencies: Sequence[Sequence[float]] | None = None
    model: str = ""
    _c: Any = dataclasses.field(init=False, repr=False, compare=False, default=None)
    _keep: Any = dataclasses.field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: one of {', '.join(_DTYPES)}")
        if self.rope_style not in _ROPE_STYLES:
            raise ValueError(f"rope_style {self.rope_style!r}: None, 'neox' or 'gptj'")
        tables = tuple(tuple(float(f) for f in table) for table in self._iterate_tables())
        object.__setattr__(self, "rope_frequencies", tables)
        self._check_rope(tables)
        if len(self.model.encode()) > _MODEL_BYTES_MAX or "\0" in self.model:
            raise ValueError(f"model has more than {_MODEL_BYTES_MAX} bytes, or one that is 0")
        self._build(tables)

    def _check_rope(self, tables: tuple[tuple[float, ...], ...]) -> None:
        """What the library says of it when a space is opened, before."""
        if self.rope_style in (None, "none"):
            if self.rope_dim or tables:
                raise ValueError("rope_dim and rope_frequencies are for layouts with a rope_style")
            return
        if self.planes != 2:
            raise ValueError("a rope_style needs planes=2 (K and V)")
        if not 2 <= self.rope_dim <= self.head_dim or self.rope_dim % 2:
            raise ValueError(f"rope_dim is {self.rope_dim}, must be even and 2 to head_dim ({self.head_dim})")
        if len(tables) not in (1, self.layers):
            raise ValueError(f"rope_frequencies has {len(tables)} tables, must be 1 or layers ({self.layers})")
        if any(2 * len(table) != self.rope_dim for table in tables):
            raise ValueError(f"rope_frequencies: every table has rope_dim / 2 = {self.rope_dim // 2} of them")
        if not all(math.isfinite(f) for table in tables for f in table):
            raise ValueError("rope_frequencies has one that is no finite number")

    def _iterate_tables(self) -> Iterable[Iterable[float]]:
        return () if self.rope_frequencies is None else self.rope_frequencies

    def _build(self, tables: tuple[tuple[float, ...], ...]) -> None:
        frequencies = ffi.new("float[]", [f for table in tables for f in table]) if tables else ffi.NULL
        model = ffi.new("char[]", self.model.encode())
        c = ffi.new("kvf_layout_t *")
        try:
            for name in _FIELDS:
                setattr(c, name, getattr(self, name))
            c.rope_dim = self.rope_dim
        except OverflowError as error:
            raise ValueError(f"layout: {error}") from None
        c.dtype, c.rope_style = _DTYPES[self.dtype], _ROPE_STYLES[self.rope_style]
        c.rope_tables, c.rope_frequencies, c.model = len(tables), frequencies, model
        object.__setattr__(self, "_keep", (frequencies, model))
        object.__setattr__(self, "_c", c)
        if not self.block_bytes:
            raise ValueError(f"this is no layout (see the limits in its documentation): {self}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Layout, tuple(getattr(self, field.name) for field in dataclasses.fields(self) if field.init)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return cast(int, lib.kvf_layout_block_bytes(self._c))

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer of a block, all its planes."""
        return cast(int, lib.kvf_layout_layer_bytes(self._c))

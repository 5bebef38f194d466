"""How KV lies in a page of vLLM's cache, and its way to rows and back.

A page is what one block has of one layer. Backends order it as their kernels like it (the CPU's has K transposed, or packed for AMX).
A row is what one token has of one head, and a block's planes in the store are [plane (K, V), token, head, dim].
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import hashlib

import torch

_DIGITS = 1 << 14  # as bits of fp16 and bf16 they are finite and positive


def cpu_order(kv_heads: int, block_tokens: int, head_dim: int, dtype: torch.dtype, cache_dtype: str) -> torch.Tensor:
    """Where the CPU backend puts each element of [plane, token, head, dim] in a page: [2, token, head, dim] of int64.

    Asks the backend's own kernel: it writes numbered elements into a page, digit by digit as elements of 16 bits count no further.
    """
    from vllm import _custom_ops as ops
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    numbers = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    shape = (block_tokens, kv_heads, head_dim)
    count = 2 * block_tokens * kv_heads * head_dim
    held = torch.zeros(count, dtype=torch.int64)
    for digit in (1, _DIGITS):
        page = torch.full((1, kv_heads, 2 * block_tokens, head_dim), -1, dtype=numbers)
        k, v = (torch.arange(count) // digit % _DIGITS).to(numbers).view(2, *shape)
        keys, values = page.view(dtype).chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(k.view(dtype), v.view(dtype), keys, values, torch.arange(block_tokens),
                                       _get_attn_isa(dtype, block_tokens, head_dim, cache_dtype), k_scale=1.0, v_scale=1.0,
                                       kv_cache_dtype=cache_dtype)
        held += page.flatten().long() * digit
    if not torch.equal(held.sort().values, torch.arange(count)):
        raise ValueError("the attention backend's pages are not a reordering of rows")
    order = torch.empty_like(held)
    order[held] = torch.arange(count)
    return order.view(2, *shape)


def plain_order(kv_heads: int, block_tokens: int, head_dim: int) -> torch.Tensor:
    """The order of a page [head, token, K and V, dim], which vLLM presents of other backends' caches."""
    page = torch.arange(kv_heads * block_tokens * 2 * head_dim).view(kv_heads, block_tokens, 2, head_dim)
    return page.permute(2, 1, 0, 3).contiguous()


class PageOrder:
    """Copies between pages [blocks, page] and rows [blocks, plane, token, head, dim] of one layer, by strides where the order has them."""

    def __init__(self, order: torch.Tensor) -> None:
        self._shape = tuple(order.shape)
        self._order = order.flatten()
        self._strides = [self._strides_of(plane) for plane in order]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self._order.to(torch.int32).numpy().tobytes()).hexdigest()[:8]

    def to_rows(self, pages: torch.Tensor, rows: torch.Tensor) -> None:
        """pages: contiguous. rows: any strides."""
        if all(self._strides):
            for plane in range(2):
                rows[:, plane].copy_(self._plane_of(pages, plane))
        else:
            rows.copy_(pages[:, self._order].view(len(pages), *self._shape))

    def to_pages(self, rows: torch.Tensor, pages: torch.Tensor) -> None:
        """pages: contiguous. rows: any strides."""
        if all(self._strides):
            for plane in range(2):
                self._plane_of(pages, plane).copy_(rows[:, plane])
        else:
            pages[:, self._order] = rows.reshape(len(rows), -1)

    def _plane_of(self, pages: torch.Tensor, plane: int) -> torch.Tensor:
        how = self._strides[plane]
        assert how is not None
        first, strides = how
        return pages.as_strided((len(pages), *self._shape[1:]), (pages.shape[1], *strides), pages.storage_offset() + first)

    @staticmethod
    def _strides_of(plane: torch.Tensor) -> tuple[int, tuple[int, ...]] | None:
        """First element and strides of [token, head, dim], if they say it all."""
        first = int(plane[0, 0, 0])
        steps = [int(plane.select(axis, 1).flatten()[0]) - first if plane.shape[axis] > 1 else 0 for axis in range(3)]
        said = torch.full_like(plane, first)
        for axis, step in enumerate(steps):
            shape = [1, 1, 1]
            shape[axis] = plane.shape[axis]
            said += (torch.arange(plane.shape[axis]) * step).view(shape)
        return (first, tuple(steps)) if torch.equal(said, plane) else None

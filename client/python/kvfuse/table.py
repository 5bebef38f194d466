"""Blocks as the store holds them under policy fuse: shared vectors, and gains."""

from __future__ import annotations

from typing import Any

from ._native import ffi, lib


class Table:
    """What Space.get_table() brings. A plane is K or V of a layer: plane (layer - first_layer) × planes a layer + K|V.

    numbers   [num_planes, num_blocks] uint32: which vector a block's plane is; NONE: the block did not come
    gains     [num_planes, num_blocks] float32: its factor
    turns     [num_planes, num_blocks] int64 tokens: by how much K is turned (RoPE); 0 of V
    vector(i) bytes [token, head, dim] of the layout's dtype, i < num_vectors

    A block's plane is gain × the vector, K first turned by `turn` tokens, rounded to the layout's dtype; so q·k is gain × (q turned by
    -turn)·(row of the vector). Views are read-only, never change, and may outlive table and client. From any thread.
    """

    NONE = 0xFFFFFFFF

    def __init__(self, c_table: Any) -> None:
        self._c = ffi.gc(c_table, lib.kvf_table_free)
        self.num_blocks: int = c_table.num_blocks
        self.first_layer: int = c_table.first_layer
        self.num_layers: int = c_table.num_layers
        self.num_planes: int = c_table.num_planes
        self.num_vectors: int = c_table.num_vectors
        self.vector_bytes: int = c_table.vector_bytes
        self.numbers: memoryview[int] = self._matrix(c_table.numbers, 4, "I")
        self.gains: memoryview[float] = self._matrix(c_table.gains, 4, "f")
        self.turns: memoryview[int] = self._matrix(c_table.turns, 8, "q")

    def vector(self, number: int) -> memoryview:
        """The bytes of a vector, where they lie."""
        if not 0 <= number < self.num_vectors:
            raise IndexError(f"there is no vector {number} of {self.num_vectors}")
        return self._view(self._c.vectors[number], self.vector_bytes)

    def __repr__(self) -> str:
        return f"<kvfuse.Table of {self.num_blocks} blocks, {self.num_planes} planes, {self.num_vectors} vectors>"

    def _view(self, at: Any, nbytes: int) -> memoryview:
        """A view that keeps the C table."""
        owner = self._c
        kept = ffi.gc(ffi.cast("char *", at), lambda _: owner)
        return memoryview(ffi.buffer(kept, nbytes)).toreadonly()

    def _matrix(self, at: Any, item_bytes: int, code: str) -> Any:
        view: Any = self._view(at, self.num_planes * self.num_blocks * item_bytes)
        return view.cast(code, (self.num_planes, self.num_blocks))

"""A space: blocks in, blocks out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import _blocks
from ._native import ffi, lib
from .block import Block, Pointer, Pointers
from .layout import Layout
from .options import to_ms
from .request import Request

if TYPE_CHECKING:
    from .client import Client


class Space:
    """One space of a daemon. Made by Client.space(); lives as long as its client is open. From any thread.

    put, get, get_table, match and delete return at once with a Request. timeout is in seconds; None: the client's request_timeout. They raise
    TypeError or ValueError for what cannot be asked (the text names block and piece), and then nothing was started. What the daemon
    or the network fails with is in the Result. A call with nothing in it is done at once.
    """

    def __init__(self, client: Client, name: str, layout: Layout, policy: str, c_space: Any) -> None:
        self.client = client
        self.name = name
        self.layout = layout
        self.policy = policy
        self._c = c_space
        self._block_bytes = layout.block_bytes
        self._layer_bytes = layout.layer_bytes

    def __repr__(self) -> str:
        return f"<kvfuse.Space {self.name!r} {self.policy}>"

    def put(self, blocks: Iterable[Block], timeout: float | None = None, await_room: bool = False) -> Request:
        """Stores blocks. Status of each: OK (its bytes have landed and are readable), EXISTS, or why not.

        The bytes are read where they lie and must not change until the completion.
        await_room: what a budget of the daemon holds back (ERR_BUSY, such as while its encoders are behind) is sent again, a few blocks
        at a time, until the time is all but up. Without it that is told at once.
        """
        batch = _blocks.Batch(blocks, self._block_bytes, self.layout.block_tokens, False, Pointer, Pointers)
        count, ms = len(batch), to_ms(timeout)
        statuses = ffi.new("int32_t[]", count)
        request = Request(self.client, batch, count, statuses)
        return self.client._start(request, lambda number: lib.kvfpy_put(
            self._c, batch.address, count, ms, await_room, statuses, number))

    def get(self, blocks: Iterable[Block], timeout: float | None = None, first_layer: int = 0, num_layers: int = 0,
            bounds: bool = False) -> Request:
        """Reads blocks into their pieces. Status of each: OK, ERR_NOT_FOUND (a miss), or why not.

        first_layer, num_layers: only these layers (0: all from first_layer on); a block's pieces then hold those alone.
        bounds: the Result tells the ε of each block that came.
        Until the completion the pieces' memory is written to; where a status is not OK it is undefined.
        """
        nbytes = self._layer_bytes * self._check_layers(first_layer, num_layers)
        batch = _blocks.Batch(blocks, nbytes, self.layout.block_tokens, True, Pointer, Pointers)
        count, ms = len(batch), to_ms(timeout)
        statuses = ffi.new("int32_t[]", count)
        c_bounds = ffi.new("float[]", 2 * count) if bounds else None
        request = Request(self.client, batch, count, statuses, c_bounds)
        return self.client._start(request, lambda number: lib.kvfpy_get(
            self._c, batch.address, count, ms, first_layer, num_layers, ffi.NULL if c_bounds is None else c_bounds, statuses, number))

    def get_table(self, keys: Iterable[bytes], timeout: float | None = None, first_layer: int = 0, num_layers: int = 0) -> Request:
        """Reads blocks of a space under policy fuse as the store holds them: Result.table has the vectors that they share, each once,
        and for every plane of every block which one it is and its gain. Statuses and layers as of get; under another policy
        kvfuse.Error (ERR_UNSUPPORTED) is raised."""
        self._check_layers(first_layer, num_layers)
        batch = _blocks.Batch.of_keys(keys)
        count, ms = len(batch), to_ms(timeout)
        statuses, c_table = ffi.new("int32_t[]", count), ffi.new("kvf_table_t **")
        request = Request(self.client, batch, count, statuses, None, c_table)
        return self.client._start(request, lambda number: lib.kvfpy_get_table(
            self._c, batch.address, count, ms, first_layer, num_layers, c_table, statuses, number))

    def _check_layers(self, first_layer: int, num_layers: int) -> int:
        """How many layers these are."""
        layers = self.layout.layers
        if not (0 <= first_layer < layers and 0 <= num_layers <= layers - first_layer):
            raise ValueError(f"there are no layers {first_layer} to {first_layer + max(num_layers, 1) - 1} of {layers}")
        return num_layers or layers - first_layer

    def match(self, keys: Iterable[bytes], timeout: float | None = None) -> Request:
        """Counts how many of `keys`, from the first on, are readable: Result.matched. A get right after may still miss."""
        batch = _blocks.Batch.of_keys(keys)
        count, ms = len(batch), to_ms(timeout)
        request = Request(self.client, batch, count)
        return self.client._start(request, lambda number: lib.kvfpy_match(self._c, batch.address, count, ms, number))

    def delete(self, keys: Iterable[bytes], timeout: float | None = None) -> Request:
        """Deletes keys. Status of each: OK or ERR_NOT_FOUND. Gets in flight still get their bytes."""
        batch = _blocks.Batch.of_keys(keys)
        count, ms = len(batch), to_ms(timeout)
        statuses = ffi.new("int32_t[]", count)
        request = Request(self.client, batch, count, statuses)
        return self.client._start(request, lambda number: lib.kvfpy_delete(self._c, batch.address, count, ms, statuses, number))

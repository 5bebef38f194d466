"""Blocks, and where their bytes lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Union


class Pointer(NamedTuple):
    """Memory by its address. It has to stay mapped until the request's completion: nothing here can see to that."""

    address: int
    nbytes: int


class Tensor(Protocol):
    """What is asked of a tensor (torch.Tensor has it): contiguous, on the CPU."""

    @property
    def is_cpu(self) -> bool: ...
    def data_ptr(self) -> int: ...
    def numel(self) -> int: ...
    def element_size(self) -> int: ...
    def is_contiguous(self) -> bool: ...


class Pointers:
    """All pieces of a block as one table: the fast way for blocks of very many pieces.

    table  buffer of n pairs of 64-bit integers (address, bytes), C-contiguous, e.g. a NumPy array [n, 2] of uint64. It is used
           where it lies and must not change until the call returns. An address of 0 is allowed for 0 bytes only.
    owner  whatever has to live as long as the request, for the addresses to stay valid.
    """

    __slots__ = ("table", "owner")

    def __init__(self, table: Any, owner: object = None) -> None:
        self.table = table
        self.owner = owner


# What has the buffer protocol cannot be told by its type before Python 3.12; so anything goes here, and is checked when it is used.
Piece = Union[Pointer, Tensor, Any]
Pieces = Union[Piece, Sequence[Piece], Pointers]


@dataclasses.dataclass(slots=True)
class Block:
    """One block of a put or get.

    key        1 to 64 bytes
    pieces     where the block's bytes lie, in their order, cut anywhere: one object, or a list or tuple of: C-contiguous objects
               with the buffer protocol (writable ones for a get), contiguous tensors on the CPU of any dtype, Pointer; or Pointers.
               Their bytes are those of the block, or of the layers that a get asks for. They are used where they lie.
    position   put: of the block's first token in its prompt, in tokens
    token_ids  put: [block_tokens], a buffer of 32- or 64-bit integers, or a sequence; None: not known
    previous   put: key of the block before it in its prompt; None: not known, or there is none

    The last three help fusion: the same text at another place is found by them. A get ignores them.
    """

    key: bytes
    pieces: Pieces
    position: int = 0
    token_ids: Any = None
    previous: bytes | None = None

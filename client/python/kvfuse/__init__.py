"""kvfuse: client of kvfused, a store for the KV caches of LLM serving engines.

A space holds the blocks of one model layout; a block is the KV of a run of tokens over all layers, under a key that the engine chooses.
Blocks are put, matched, got and deleted in batches; requests are asynchronous.

    client = kvfuse.Client("127.0.0.1:7311")
    layout = kvfuse.Layout(layers=30, kv_heads=3, head_dim=64, block_tokens=32, dtype="bf16", model="fingerprint")
    space = client.space("name", layout, policy="exact")
    space.put([kvfuse.Block(key, tensor)]).wait().raise_for_status()
    result = space.get([kvfuse.Block(key, tensor)]).wait()

Tensor data is never copied here: it goes from and to where it lies.
"""

from .block import Block, Piece, Pieces, Pointer, Pointers
from .client import Client, ClientInfo
from .layout import Layout
from .memory import Memory, Registration
from .request import Request, Result
from .space import Space
from .status import (
    Busy,
    Corrupt,
    Disconnected,
    Error,
    LayoutMismatch,
    NoSpace,
    NotFound,
    PolicyMismatch,
    Status,
    Timeout,
    Unreachable,
    version,
)
from .table import Table

__version__ = "0.1.0"

__all__ = [
    "Block",
    "Busy",
    "Client",
    "ClientInfo",
    "Corrupt",
    "Disconnected",
    "Error",
    "Layout",
    "LayoutMismatch",
    "Memory",
    "NoSpace",
    "NotFound",
    "Piece",
    "Pieces",
    "Pointer",
    "Pointers",
    "PolicyMismatch",
    "Registration",
    "Request",
    "Result",
    "Space",
    "Status",
    "Table",
    "Timeout",
    "Unreachable",
    "version",
]

"""Memory of the library, and memory of the caller's that is registered with the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _blocks
from .block import Pointer

if TYPE_CHECKING:
    from .client import Client


class Memory(_blocks.Region):
    """Memory that a daemon on this host can read itself: puts from it cost one copy. Made by Client.memory(), once, at start-up.

    It has the buffer protocol (memoryview(memory), numpy.frombuffer(memory, …)); a tensor over it is
    torch.frombuffer(memoryview(memory), …), where the memoryview makes the tensor count as a user of it (a tensor made of the Memory
    itself does not count, and must not be used after free() or Client.close()).
    address, nbytes: where it lies. exports: how many views and requests use it.
    Freed by free(), by Client.close(), or when the last reference goes.
    """

    _client: Client | None

    def __init__(self, client: Client, address: int, nbytes: int) -> None:
        self._client = client
        self._attach(address, nbytes)

    def free(self) -> None:
        """Gives it back. BufferError: views or requests still use it. Done again, it does nothing."""
        address = self._detach()
        client, self._client = self._client, None
        if address and client is not None:
            client._free_memory(address)

    def __del__(self) -> None:
        if getattr(self, "_client", None) is not None:
            self.free()

    def __repr__(self) -> str:
        return f"<kvfuse.Memory {self.nbytes} bytes at {self.address:#x}>"


class Registration:
    """Memory of the caller's that is registered with the network. Made by Client.register(); kept alive until it ends.

    address, nbytes: where it lies. Ends by unregister(), by Client.close(), or when the last reference goes.
    """

    def __init__(self, client: Client, memory: Any) -> None:
        self._client: Client | None = None
        self._view = _blocks.View(memory, Pointer)
        self.address = self._view.address
        self.nbytes = self._view.nbytes
        client._register_memory(self.address, self.nbytes)
        self._client = client

    def unregister(self) -> None:
        """Ends it. Done again, it does nothing."""
        client, self._client = self._client, None
        if client is not None:
            client._unregister_memory(self.address)
        self._view.release()

    def __del__(self) -> None:
        if getattr(self, "_client", None) is not None:
            self.unregister()

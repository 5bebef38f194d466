"""What the scheduler's side tells the workers' side, and the other way round."""

# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

import dataclasses

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorHandshakeMetadata, KVConnectorMetadata


@dataclasses.dataclass
class Load:
    """Blocks of a request that a worker is to get: keys[i] into page block_ids[i]."""

    request_id: str
    keys: list[bytes]
    block_ids: list[int]


@dataclasses.dataclass
class Save:
    """Full blocks of a request, computed by the end of this step: page block_ids[i] under keys[i].

    previous   key of the block before the first, if there is one
    position   of the first block's first token
    token_ids  [blocks, block_tokens] uint32
    """

    keys: list[bytes]
    block_ids: list[int]
    previous: bytes | None
    position: int
    token_ids: np.ndarray


@dataclasses.dataclass
class StepPlan(KVConnectorMetadata):
    loads: list[Load] = dataclasses.field(default_factory=list)
    saves: list[Save] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class WorkerSpace(KVConnectorHandshakeMetadata):
    """The space of one worker: name, and what kvfuse.Layout is made of. Only a worker knows all of it.

    unsupported: why this worker uses none; "" if it does.
    """

    name: str = ""
    layout: dict[str, object] = dataclasses.field(default_factory=dict)
    unsupported: str = ""

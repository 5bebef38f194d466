"""The connector that vLLM loads: each process makes one, with the side that its role names."""

# mypy: disable-error-code="import-not-found,misc"

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorRole, SupportsHMA

from .plan import StepPlan, WorkerSpace
from .scheduler import Scheduler
from .settings import read
from .store import logger
from .worker import Worker

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorHandshakeMetadata, KVConnectorMetadata
    from vllm.forward_context import ForwardContext
    from vllm.v1.attention.backend import AttentionMetadata
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


def why_not_layers(config: VllmConfig) -> str:
    """What keeps a step that was computed on a failed load from being known before others build on it, or save it. "": nothing."""
    if config.parallel_config.tensor_parallel_size > 1:
        return "tensor parallelism"
    if config.scheduler_config.async_scheduling:
        return "asynchronous scheduling (--no-async-scheduling)"
    return "speculation" if config.speculative_config is not None else ""


class KvfuseConnector(KVConnectorBase_V1, SupportsHMA):
    """Methods are vLLM's; base.py there says when each is called.

    A store that is away, slow, full, or of another layout is a miss. What was announced and does not come is computed: this needs
    kv_load_failure_policy "recompute", which is set here.
    """

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        transfer = self._kv_transfer_config
        settings = read(transfer.kv_connector_extra_config)
        if transfer.kv_load_failure_policy != "recompute":
            transfer.kv_load_failure_policy = "recompute"
            logger.info("kvfuse: kv_load_failure_policy is taken as recompute")
        why = why_not_layers(vllm_config)
        if settings.load == "layers" and why:
            settings = dataclasses.replace(settings, load="async")
            logger.warning("kvfuse: load is taken as async: layers does not work with %s", why)
        self._loads_layers = settings.load == "layers"
        self._scheduler = Scheduler(vllm_config, settings) if role == KVConnectorRole.SCHEDULER else None
        self._worker = Worker(vllm_config, kv_cache_config, settings) if role == KVConnectorRole.WORKER else None

    @property
    def requires_kv_delivery(self) -> bool:
        return False  # saves are copies, and may be dropped

    def shutdown(self) -> None:
        for side in (self._scheduler, self._worker):
            if side is not None:
                side.close()

    # ---- worker ----

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        assert self._worker is not None
        self._worker.register(kv_caches)

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        return self._worker.space if self._worker is not None else None

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        if self._worker is not None:
            self._worker.bind()

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        assert self._worker is not None
        self._worker.begin_step(self._plan())

    def wait_for_layer_load(self, layer_name: str) -> None:
        assert self._worker is not None
        self._worker.wait_for_layer(layer_name)

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: AttentionMetadata, **kwargs: Any) -> None:
        return  # whole blocks are saved at the step's end

    def wait_for_save(self) -> None:
        assert self._worker is not None
        self._worker.end_step(self._plan())

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        assert self._worker is not None
        return None, self._worker.take_finished() or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        assert self._worker is not None
        return self._worker.take_failed()

    def _plan(self) -> StepPlan:
        plan = self._get_connector_metadata()
        assert isinstance(plan, StepPlan)
        return plan

    # ---- scheduler ----

    def set_xfer_handshake_metadata(self, metadata: dict[int, KVConnectorHandshakeMetadata]) -> None:
        assert self._scheduler is not None
        self._scheduler.open([space for _, space in sorted(metadata.items()) if isinstance(space, WorkerSpace)])

    def on_new_request(self, request: Request) -> None:
        assert self._scheduler is not None
        self._scheduler.add(request)

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        assert self._scheduler is not None
        tokens = self._scheduler.matched_tokens(request, num_computed_tokens)
        return tokens, bool(tokens) and not self._loads_layers

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        assert self._scheduler is not None
        if num_external_tokens > 0:
            self._scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        assert self._scheduler is not None
        return self._scheduler.plan(scheduler_output)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        assert self._scheduler is not None
        if connector_output.invalid_block_ids:
            self._scheduler.failed(connector_output.invalid_block_ids)
        if connector_output.finished_recving:
            self._scheduler.loaded(connector_output.finished_recving)

    def reset_cache(self) -> bool:
        assert self._scheduler is not None
        self._scheduler.reset()
        return True

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        assert self._scheduler is not None
        return False, self._scheduler.finished(request)

    def request_finished_all_groups(self, request: Request, block_ids: tuple[list[int], ...]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished(request, [])

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        return extra_config.get("load") == "layers"

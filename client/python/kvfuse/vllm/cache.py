"""vLLM's paged cache as the connector sees it: one tensor [pages, page] a layer."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import kvfuse

from .fingerprint import fingerprint
from .pages import PageOrder, cpu_order, plain_order
from .rope import model_rope

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class Unsupported(Exception):
    """The connector leaves this engine alone; the text says why."""


def check_groups(config: VllmConfig, caches: KVCacheConfig) -> None:
    """Raises Unsupported unless the cache is one group of full attention that a block hash speaks of as a whole."""
    from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec, UniformTypeKVCacheSpecs

    parallel = config.parallel_config
    if len(caches.kv_cache_groups) != 1:
        raise Unsupported(f"{len(caches.kv_cache_groups)} groups of KV caches (try --disable-hybrid-kv-cache-manager)")
    spec = caches.kv_cache_groups[0].kv_cache_spec
    if isinstance(spec, (MLAAttentionSpec, UniformTypeKVCacheSpecs)) or not isinstance(spec, FullAttentionSpec):
        raise Unsupported(f"KV caches of kind {type(spec).__name__}")
    if getattr(spec, "non_causal", False):
        raise Unsupported("attention that looks ahead: a block's KV depends on tokens behind it")
    if getattr(spec, "head_size_v", spec.head_size) != spec.head_size:
        raise Unsupported("heads of K and V that differ in size")
    if spec.dtype not in _DTYPES:
        raise Unsupported(f"KV caches of {spec.dtype}")
    for name in ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) > 1:
            raise Unsupported(f"{name} {getattr(parallel, name)}")


class PagedCache:
    """The layers' pages, and the layout of the blocks that they make.

    In the store a block is [layer, page] as it lies here (`in_pages`), or [layer, plane, token, head, dim].
    """

    def __init__(self, config: VllmConfig, caches: KVCacheConfig, tensors: dict[str, torch.Tensor], tp_rank: int, in_pages: bool) -> None:
        check_groups(config, caches)
        spec = caches.kv_cache_groups[0].kv_cache_spec
        self.layer_names = self._order_layers(caches.kv_cache_groups[0].layer_names, tensors)
        shape = tuple(next(iter(tensors.values())).shape)
        expected = (shape[0], spec.num_kv_heads, spec.block_size, 2 * spec.head_size)
        self.layers: list[torch.Tensor] = []
        for name in self.layer_names:
            tensor = tensors[name]
            if tuple(tensor.shape) != expected or tensor.dtype != spec.dtype:
                raise Unsupported(f"cache of {name}: {tuple(tensor.shape)} {tensor.dtype}, not {expected} {spec.dtype}")
            if not tensor[0].is_contiguous():
                raise Unsupported(f"cache of {name}: a page is not in one piece")
            self.layers.append(tensor)
        self.in_pages = in_pages
        self.is_on_cpu = self.layers[0].device.type == "cpu"
        self.page_shape = shape[1:]
        self.page_elements = 2 * spec.num_kv_heads * spec.block_size * spec.head_size
        self.page_bytes = self.page_elements * spec.dtype.itemsize
        self.block_shape = (2, spec.block_size, spec.num_kv_heads, spec.head_size)
        if self.is_on_cpu:
            order = cpu_order(spec.num_kv_heads, spec.block_size, spec.head_size, spec.dtype, config.cache_config.cache_dtype)
        else:
            order = plain_order(spec.num_kv_heads, spec.block_size, spec.head_size)
        self.order = PageOrder(order)
        rope = {} if in_pages else model_rope(spec.head_size)
        self.layout_fields: dict[str, Any] = dict(
            layers=len(self.layers), planes=2, kv_heads=spec.num_kv_heads, head_dim=spec.head_size, block_tokens=spec.block_size,
            dtype=_DTYPES[spec.dtype], model=fingerprint(config, tp_rank, f"pages:{self.order.digest}" if in_pages else "rows"), **rope)
        self.layout = kvfuse.Layout(**self.layout_fields)
        self.dtype = spec.dtype
        self._layer_addresses = np.array([layer.data_ptr() for layer in self.layers], dtype=np.uint64)
        self._page_strides = np.array([layer.stride(0) * layer.element_size() for layer in self.layers], dtype=np.uint64)

    @staticmethod
    def _order_layers(names: list[str], tensors: dict[str, torch.Tensor]) -> list[str]:
        """Layers in the model's order, those that use another one's cache left out."""
        from vllm.model_executor.models.utils import extract_layer_index

        ordered, seen = [], set()
        for name in sorted((n for n in names if n in tensors), key=extract_layer_index):
            if tensors[name].data_ptr() not in seen:
                seen.add(tensors[name].data_ptr())
                ordered.append(name)
        return ordered

    @property
    def can_scatter(self) -> bool:
        """Whether the library can write gets straight into the pages."""
        return self.in_pages and self.is_on_cpu

    def pointers(self, block_id: int, first_layer: int, num_layers: int) -> kvfuse.Pointers:
        """The pages of a block, layer by layer."""
        part = slice(first_layer, first_layer + num_layers)
        table = np.empty((num_layers, 2), dtype=np.uint64)
        table[:, 0] = self._layer_addresses[part] + np.uint64(block_id) * self._page_strides[part]
        table[:, 1] = self.page_bytes
        return kvfuse.Pointers(table, self.layers)

    def read(self, block_ids: list[int], staged: torch.Tensor) -> None:
        """Copies blocks to `staged` [blocks, layer × page], in the order of the store."""
        ids = torch.tensor(block_ids)
        staged = staged.view(len(block_ids), len(self.layers), -1)
        for number, layer in enumerate(self.layers):
            pages = layer.index_select(0, ids.to(layer.device)).view(len(block_ids), -1).cpu()
            if self.in_pages:
                staged[:, number].copy_(pages)
            else:
                self.order.to_rows(pages, staged[:, number].view(len(block_ids), *self.block_shape))

    def write(self, block_ids: list[int], staged: torch.Tensor, first_layer: int, num_layers: int) -> None:
        """Copies `staged` [blocks, num_layers × page], in the order of the store, to blocks' pages of these layers."""
        ids = torch.tensor(block_ids)
        staged = staged.view(len(block_ids), num_layers, -1)
        pages = torch.empty(len(block_ids), self.page_elements, dtype=self.dtype)
        for number in range(num_layers):
            layer = self.layers[first_layer + number]
            if self.in_pages:
                pages.copy_(staged[:, number])
            else:
                self.order.to_pages(staged[:, number].view(len(block_ids), *self.block_shape), pages)
            layer.index_copy_(0, ids.to(layer.device), pages.view(len(block_ids), *self.page_shape).to(layer.device))

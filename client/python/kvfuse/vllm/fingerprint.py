"""What changes the bytes of a block besides its tokens."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import kvfuse

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_ENDS_BYTES = 1 << 20  # of a large file, that is read at either end
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", "config.json")


def folder_digest(folder: str) -> str | None:
    """Of a model's or adapter's files: names, sizes and both ends (a safetensors file begins with its table). None: no such folder."""
    if not os.path.isdir(folder):
        return None
    digest = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not name.endswith(_SUFFIXES) or not os.path.isfile(path):
            continue
        size = os.path.getsize(path)
        digest.update(f"{name} {size}\n".encode())
        with open(path, "rb") as file:
            digest.update(file.read(_ENDS_BYTES))
            file.seek(max(0, size - _ENDS_BYTES))
            digest.update(file.read(_ENDS_BYTES))
    return digest.hexdigest()[:16]


def model_name(config: VllmConfig) -> str:
    """A short name for people."""
    return os.path.basename(os.path.normpath(config.model_config.model)) or "model"


def fingerprint(config: VllmConfig, tp_rank: int, order: str) -> str:
    """For Layout.model: model, revision, weights, configuration, quantisation, dtypes, place in the tensor-parallel group, and the
    order of bytes in the store. What is particular to a request (LoRA, cache_salt, images) is in vLLM's block hashes."""
    model = config.model_config
    revision = model.revision or getattr(model.hf_config, "_commit_hash", None)
    weights = folder_digest(model.model) or hashlib.sha256(model.model.encode()).hexdigest()[:16]
    described = json.dumps(model.hf_text_config.to_dict(), sort_keys=True, default=str)
    for unstable in ("_name_or_path",):  # where the folder lies
        described = described.replace(str(getattr(model.hf_text_config, unstable, "")) or "\0", "")
    parts = {
        "weights": weights,
        "revision": str(revision)[:40],
        "config": hashlib.sha256(described.encode()).hexdigest()[:16],
        "quant": model.quantization,
        "dtype": str(model.dtype).removeprefix("torch."),
        "cache": config.cache_config.cache_dtype,
        "hash": config.cache_config.prefix_caching_hash_algo,
        "tp": f"{tp_rank}of{config.parallel_config.tensor_parallel_size}",
        "order": order,
    }
    text = " ".join(f"{name}={value}" for name, value in parts.items())
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]  # of all of it: the text may be cut
    return f"vllm {digest} {model_name(config)[:40]} {text}".encode()[:255].decode(errors="ignore")


def space_name(config: VllmConfig, policy: str, layout: kvfuse.Layout) -> str:
    """The name of a space that nobody named: other layouts and policies have other names, so engines that differ never meet."""
    digest = hashlib.sha256(repr((layout, policy)).encode()).hexdigest()[:12]
    return f"vllm/{model_name(config)[:60]}/{policy.replace(' ', '-')}/{digest}"[:128]

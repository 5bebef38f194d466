"""What changes the bytes of a block besides its tokens."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import hashlib
import json
import os
import struct
from typing import TYPE_CHECKING, BinaryIO

import kvfuse

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_WHOLE_BYTES = 64 << 20  # files of at most so many are read whole; of others:
_SAMPLE_BYTES = 4 << 10  # are read at each of
_SAMPLES = 1024          # places at even distances, and in the middle of each tensor of a safetensors file
_TABLE_BYTES_MAX = 64 << 20
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", "config.json")


def folder_digest(path: str) -> str | None:
    """Of a model's or adapter's files: names, sizes and samples of the content, some of each tensor. Not of where they lie.

    path: a folder, or one file. None: there is no such thing. OSError: it cannot be read.
    """
    if os.path.isfile(path):
        folder, name = os.path.split(path)
        names = [name]
    elif os.path.isdir(path):
        folder = path
        names = [n for n in sorted(os.listdir(path)) if n.endswith(_SUFFIXES) and os.path.isfile(os.path.join(path, n))]
    else:
        return None
    digest = hashlib.sha256()
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{name} {size}\n".encode())
            if size <= _WHOLE_BYTES:
                digest.update(file.read())
                continue
            places = {size * i // _SAMPLES for i in range(_SAMPLES)} | {size - _SAMPLE_BYTES}
            if name.endswith(".safetensors"):
                places |= _tensor_middles(file, size)
            for place in sorted(places):
                digest.update(os.pread(file.fileno(), _SAMPLE_BYTES, place))
    return digest.hexdigest()[:16]


def _tensor_middles(file: BinaryIO, size: int) -> set[int]:
    """Where the middle of each tensor of a safetensors file lies. Empty: it is none."""
    try:
        (table_bytes,) = struct.unpack("<Q", file.read(8))
        if table_bytes > min(size - 8, _TABLE_BYTES_MAX):
            return set()
        table = json.loads(file.read(table_bytes))
        ranges = [entry["data_offsets"] for name, entry in table.items() if name != "__metadata__"]
        return {8 + table_bytes + (int(begin) + int(end)) // 2 for begin, end in ranges}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        return set()


def rope_digest() -> str:
    """Of the rotary modules that this process has made: the same model may have others at another max_model_len (LongRoPE)."""
    from vllm.model_executor.layers import rotary_embedding

    described = []
    for rope in getattr(rotary_embedding, "_ROPE_DICT", {}).values():
        plain = {name: value for name, value in vars(rope).items()
                 if isinstance(value, (bool, int, float, str)) and name[0] != "_" and name != "training"}
        described.append(f"{type(rope).__name__} {sorted(plain.items())}")
    return hashlib.sha256("\n".join(sorted(described)).encode()).hexdigest()[:16]


def model_name(config: VllmConfig) -> str:
    """A short name for people, of visible ASCII."""
    name = os.path.basename(os.path.normpath(config.model_config.model)) or "model"
    return "".join(c if "!" <= c <= "~" and c != "/" else "_" for c in name)


def _weights(config: VllmConfig) -> str:
    """What tells the weights apart: content, where it lies here; else its name, to which a hub adds the revision."""
    model = config.model_config
    elsewhere = str(getattr(model, "model_weights", "") or "")  # in object storage: the folder has the small files alone
    text = " ".join([folder_digest(model.model) or model.model, elsewhere])
    if config.load_config.load_format == "dummy":
        text += " dummy"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(config: VllmConfig, tp_rank: int, order: str) -> str:
    """For Layout.model: model, revision, weights, configuration, quantisation, dtypes, RoPE, place in the tensor-parallel group, and the
    order of bytes in the store. What is particular to a request (LoRA, cache_salt, images) is in vLLM's block hashes."""
    model = config.model_config
    revision = model.revision or getattr(model.hf_config, "_commit_hash", None)
    described = {name: value for name, value in model.hf_text_config.to_dict().items() if name != "_name_or_path"}  # where it lies
    parts = {
        "weights": _weights(config),
        "revision": str(revision)[:40],
        "config": hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16],
        "quant": model.quantization,
        "dtype": str(model.dtype).removeprefix("torch."),
        "cache": config.cache_config.cache_dtype,
        "hash": config.cache_config.prefix_caching_hash_algo,
        "rope": rope_digest(),
        "tp": f"{tp_rank}of{config.parallel_config.tensor_parallel_size}",
        "order": order,
    }
    text = " ".join(f"{name}={value}" for name, value in parts.items())
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]  # of all of it: the text may be cut
    return f"vllm {digest} {model_name(config)[:40]} {text}".encode()[:255].decode(errors="ignore")


def space_name(config: VllmConfig, policy: str, layout: kvfuse.Layout) -> str:
    """The name of a space that nobody named: other layouts and policies have other names, so engines that differ never meet."""
    digest = hashlib.sha256(repr((layout, policy)).encode()).hexdigest()[:12]
    return f"vllm/{model_name(config)[:60]}/{policy.replace(' ', '-')}/{digest}"

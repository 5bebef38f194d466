"""The model's RoPE, asked of vLLM's own rotary modules, so that scaled kinds (llama3, yarn, …) are what they are."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import math

import torch

_POSITIONS = (1, 2, 3, 7, 50, 400)


def model_rope(head_dim: int) -> dict[str, object]:
    """rope_style, rope_dim and rope_frequencies of a kvfuse.Layout, of the model that this process has loaded.

    {} where that is not one table of frequencies by position, or not known: correct, but the same text at another place is then
    not fused.
    """
    from vllm.model_executor.layers import rotary_embedding

    ropes = {id(rope): rope for rope in getattr(rotary_embedding, "_ROPE_DICT", {}).values()}
    if len(ropes) != 1:
        return {}
    (rope,) = ropes.values()
    try:
        style = "neox" if rope.is_neox_style else "gptj"
        frequencies = _frequencies(rope)
        if frequencies is None or not 0 < 2 * len(frequencies) <= head_dim:
            return {}
        return {"rope_style": style, "rope_dim": 2 * len(frequencies), "rope_frequencies": [frequencies]}
    except Exception:  # a kind of rotary module that is made otherwise
        return {}


def _frequencies(rope: torch.nn.Module) -> list[float] | None:
    """Those that the module's own table of cosines and sines was made of."""
    table = rope.cos_sin_cache.float().cpu()
    if table.dim() != 2:
        return None
    for argument in (getattr(rope, "base", None), getattr(rope, "scaling_factor", None)):
        if isinstance(argument, (int, float)):
            frequencies = rope._compute_inv_freq(argument).double().cpu()
            if _made_table(frequencies, table, rope.cos_sin_cache.dtype):
                return [float(f) for f in frequencies]
    return None


def _made_table(frequencies: torch.Tensor, table: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether table[p] is [cos(p f), sin(p f)] times one factor for all (yarn has one)."""
    half = len(frequencies)
    if table.shape[1] != 2 * half:
        return False
    positions = [p for p in _POSITIONS if p < len(table)]
    angles = torch.tensor(positions, dtype=torch.float64)[:, None] * frequencies
    expected = torch.cat([angles.cos(), angles.sin()], dim=1).float()
    held = table[positions]
    factor = math.sqrt(float(held.square().sum() / expected.square().sum()))
    tolerance = 1e-3 if dtype == torch.float32 else 2e-2
    return bool((held - factor * expected).abs().max() <= tolerance * factor)

"""Parts of the connector alone."""

from __future__ import annotations

import json
import math
import os
import struct
import time

import kvfuse
import pytest
import torch
from kvfuse.vllm.adapters import Adapters
from kvfuse.vllm.fingerprint import folder_digest, rope_digest
from kvfuse.vllm.pages import PageOrder, cpu_order, plain_order
from kvfuse.vllm.rope import _frequencies
from kvfuse.vllm.settings import read
from kvfuse.vllm.staging import Slots
from kvfuse.vllm.store import Store
from rig import Daemon


@pytest.mark.parametrize("order", [
    cpu_order(3, 32, 64, torch.bfloat16, "auto"), cpu_order(8, 64, 128, torch.float32, "auto"), cpu_order(8, 128, 128, torch.bfloat16, "auto"),
    plain_order(2, 16, 32),
    torch.randperm(2 * 8 * 2 * 16, generator=torch.Generator().manual_seed(1)).view(2, 8, 2, 16)],
    ids=["cpu", "cpu-fp32-large", "cpu-bf16-large", "plain", "no-strides"])
def test_rows_and_pages_are_each_others_inverse(order):
    pages = torch.randint(-30000, 30000, (5, order.numel()), dtype=torch.int16)
    rows = torch.empty(5, *order.shape, dtype=torch.int16)
    page_order = PageOrder(order)
    page_order.to_rows(pages, rows)
    assert torch.equal(rows, pages[:, order.flatten()].view(5, *order.shape))
    back = torch.zeros_like(pages)
    page_order.to_pages(rows, back)
    assert torch.equal(back, pages)


def test_cpu_pages_hold_the_kernels_rows():
    """What the backend writes for one token comes out as that token's row."""
    from vllm import _custom_ops as ops
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    heads, tokens, dim = 3, 32, 64
    page = torch.zeros(4, heads, 2 * tokens, dim, dtype=torch.bfloat16)
    k, v = torch.randn(2, 1, heads, dim, dtype=torch.bfloat16)
    keys, values = page.chunk(2, dim=2)
    ops.cpu_attn_reshape_and_cache(k, v, keys, values, torch.tensor([2 * tokens + 5]), _get_attn_isa(torch.bfloat16, tokens, dim, "auto"),
                                   k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto")
    rows = torch.empty(1, 2, tokens, heads, dim, dtype=torch.bfloat16)
    PageOrder(cpu_order(heads, tokens, dim, torch.bfloat16, "auto")).to_rows(page[2].reshape(1, -1), rows)
    assert torch.equal(rows[0, 0, 5], k[0]) and torch.equal(rows[0, 1, 5], v[0])
    assert rows.count_nonzero() == k.count_nonzero() + v.count_nonzero()


class _Rope:
    """A rotary module as vLLM's are: a table, and what it is made of."""

    def __init__(self, frequencies: torch.Tensor, factor: float, dtype: torch.dtype) -> None:
        angles = torch.arange(1024, dtype=torch.float32)[:, None] * frequencies.float()
        self.cos_sin_cache = (torch.cat([angles.cos(), angles.sin()], dim=-1) * factor).to(dtype)
        self.base = 10000.0
        self._made_of = frequencies

    def _compute_inv_freq(self, base: float) -> torch.Tensor:
        return self._made_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [1.0, 1.21])
def test_frequencies_are_those_of_the_table(dtype, factor):
    real = 1.0 / 10000 ** (torch.arange(0, 64, 2) / 64)
    assert _frequencies(_Rope(real, factor, dtype)) == pytest.approx(real.tolist())
    other = _Rope(real, factor, dtype)
    other._made_of = real * 1.2  # a module whose table is made otherwise than it says
    assert _frequencies(other) is None


@pytest.mark.parametrize("scaling", [
    {"rope_type": "default"},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 2048},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    {"rope_type": "linear", "factor": 2.0}], ids=lambda s: s["rope_type"])
def test_frequencies_of_vllms_own_rotary_modules(scaling):
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    with set_current_vllm_config(VllmConfig()):
        rope = get_rope(64, 8192, is_neox_style=True, rope_parameters={"rope_theta": 10000.0, **scaling}, dtype=torch.float32)
    frequencies = _frequencies(rope)
    if scaling["rope_type"] == "linear" and frequencies is None:
        return  # not known: correct, but fuses less
    assert frequencies is not None and len(frequencies) == 32
    table = rope.cos_sin_cache.float()
    angle = math.atan2(float(table[3, 32 + 20]), float(table[3, 20]))
    assert angle == pytest.approx(3 * frequencies[20], rel=1e-3)


def test_settings_refuse_what_they_do_not_know():
    assert read({"address": "h:1"}).in_pages
    assert not read({"policy": "error 0.05"}).in_pages
    for wrong in ({"adress": "h:1"}, {"load": "eager"}, {"order": "pages", "policy": "error 0.05"}, {"save_bytes": 0}, {"policy": "eror 0.05"},
                  {"space": "my space"}, {"space": "x" * 128}, {"match_timeout": "0.1"}, {"save_generated": 1}, {"pause": -1}):
        with pytest.raises(ValueError, match="kv_connector_extra_config"):
            read(wrong)


def test_slots_are_handed_out_once_and_merge():
    slots = Slots(10)
    assert slots.take(4) == (0, 4) and slots.take(4) == (4, 4)
    assert slots.take(4) == (8, 2)
    assert slots.take(1) == (0, 0)
    slots.give(0, 4)
    slots.give(8, 2)
    assert slots.take(3) == (0, 3)
    slots.give(4, 4)
    assert slots.take(7) == (3, 7)


def test_saves_go_on_where_nothing_is_asked():
    """After a time-out the store is left alone, but for puts: nobody waits for them, and what is not put is computed again."""
    layout = kvfuse.Layout(layers=2, kv_heads=2, head_dim=32, block_tokens=16)
    with Daemon() as daemon:
        store = Store(read({"address": daemon.address, "pause": 0.5}), "paused", layout)
        deadline = time.monotonic() + 10
        while store.space() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        store.timed_out()
        assert store.space() is None and store.space(is_for_puts=True) is not None
        store.timed_out(is_put=True)
        assert store.space(is_for_puts=True) is None
        time.sleep(0.6)
        assert store.space() is not None
        daemon.kill()
        while store.space(is_for_puts=True) is not None:
            assert time.monotonic() < deadline + 10
            time.sleep(0.01)
        store.close()


def test_folder_digest_sees_the_middle_of_large_files(tmp_path):
    """Each tensor of a safetensors file, and whatever is as long as the distance between two samples."""
    table = json.dumps({"__metadata__": {"format": "pt"}, "a": {"dtype": "U8", "shape": [100 << 20], "data_offsets": [0, 100 << 20]},
                        "small": {"dtype": "U8", "shape": [64], "data_offsets": [100 << 20, (100 << 20) + 64]}}).encode()
    begin = 8 + len(table)

    def digest_with(*changes: int) -> str | None:
        path = tmp_path / "model.safetensors"
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(table)) + table)
            file.truncate(begin + (100 << 20) + 64 + (30 << 20))
            for place in changes:
                file.seek(place)
                file.write(b"other")
        return folder_digest(str(tmp_path))

    plain = digest_with()
    assert digest_with() == plain
    assert digest_with(begin + (50 << 20)) != plain  # the middle of a
    assert digest_with(begin + (100 << 20) + 32) != plain  # that of small
    assert digest_with(*range(begin, 60 << 20, 1000)) != plain
    assert folder_digest(str(tmp_path / "model.safetensors")) == folder_digest(str(tmp_path))  # a model of one file


def test_rotary_modules_are_told_apart(monkeypatch):
    """LongRoPE takes other factors beyond a max_model_len."""
    from types import SimpleNamespace

    from vllm.model_executor.layers import rotary_embedding

    digests = []
    for long in (False, True, False):
        monkeypatch.setattr(rotary_embedding, "_ROPE_DICT", {1: SimpleNamespace(base=10000.0, use_long_rope=long, cos_sin_cache=torch.ones(3))})
        digests.append(rope_digest())
    assert digests[0] == digests[2] != digests[1]


def test_adapters_are_read_in_the_background_and_again_when_they_change(tmp_path, monkeypatch):
    from types import SimpleNamespace

    def wait_for_other_than(*known: bytes | None) -> bytes | None:
        for _ in range(200):
            adapters.seen(lora)
            if adapters.digest_of(lora) not in known:
                break
            time.sleep(0.01)
        return adapters.digest_of(lora)

    monkeypatch.setattr("kvfuse.vllm.adapters._LOOK_AGAIN_S", 0.0)
    adapters = Adapters()
    file = tmp_path / "adapter_model.safetensors"
    lora = SimpleNamespace(lora_path=str(tmp_path / "none"))
    assert wait_for_other_than(None) is None
    lora = SimpleNamespace(lora_path=str(tmp_path))
    assert adapters.digest_of(None) == b"" and adapters.digest_of(lora) is None
    file.write_bytes(b"one")
    first = wait_for_other_than(None)
    assert first
    file.write_bytes(b"two")
    second = wait_for_other_than(None, first)
    assert second not in (None, first)
    monkeypatch.setattr("kvfuse.vllm.adapters.folder_digest", lambda path: 1 / 0)
    file.write_bytes(b"three")
    assert wait_for_other_than(second) is None
    adapters.close()


def test_folder_digest_sees_content_not_place(tmp_path):
    for name in ("a", "b"):
        os.mkdir(tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps({"x": 1}))
        (tmp_path / name / "adapter.safetensors").write_bytes(b"w" * 100)
    assert folder_digest(str(tmp_path / "a")) == folder_digest(str(tmp_path / "b"))
    (tmp_path / "b" / "adapter.safetensors").write_bytes(b"w" * 99 + b"v")
    assert folder_digest(str(tmp_path / "a")) != folder_digest(str(tmp_path / "b"))
    assert folder_digest(str(tmp_path / "none")) is None

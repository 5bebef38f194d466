"""(b) What `error 0.05` does to the model's choices, and (e) what fusion saves."""

from __future__ import annotations

import random

import numpy as np
import pytest
from rig import BLOCK, IS_SLOW, Daemon, Engine, documents, header

CONTINUED = 2 if IS_SLOW else 6  # tokens after the prompt whose distributions are compared, too


def make_prompts() -> list[list[int]]:
    """24 prompts: 8 with one manual behind their own headers, 16 with three of six passages in an order of their own."""
    docs = documents(1500)
    prompts = [header(i) + docs[0][:800] for i in range(8)]
    passages = [doc[100:400] for doc in docs[1:7]]
    rng = random.Random(3)
    for i in range(16):
        prompts.append(header(100 + i) + [token for passage in rng.sample(passages, 3) for token in passage])
    assert all(len(prompt) >= 512 for prompt in prompts)
    return prompts


def test_error_bound_keeps_the_choices(plain, figure):
    prompts = make_prompts()
    continued = [output["tokens"] for output in plain.generate(prompts, CONTINUED, one_by_one=True)]
    # the KV of the prompts comes from the store; what follows them, the reference's tokens, is computed on top of it
    forced = [prompt + tokens[:n] for prompt, tokens in zip(prompts, continued) for n in range(CONTINUED)]
    exact, _ = plain.distributions(forced)
    with Daemon() as daemon, Engine({"address": daemon.address, "policy": "error 0.05", "save_generated": False}, max_logprobs=-1) as engine:
        for prompt in prompts:
            engine.generate([prompt], 1)
        count = sum(len(prompt) // BLOCK for prompt in prompts)
        assert daemon.wait_for_blocks(count) == count
        fusion = daemon.settle()
        engine.reset()
        got, cached = engine.distributions(forced)
        assert cached[::CONTINUED] == [(len(prompt) - 1) // BLOCK * BLOCK for prompt in prompts], engine.warnings
    kl = float((np.exp(exact) * (exact - got)).sum(axis=1).mean())
    agreement = float((exact.argmax(axis=1) == got.argmax(axis=1)).mean())
    figure("(b) error 0.05 against exact: top-1 agreement, KL", f"{agreement * 100:.1f} %, {kl:.5f} nats, over {len(forced)} positions of "
           f"{len(prompts)} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens; worst row {fusion['worst_row_of_bound']:.3f} of the bound")
    figure("(b) bytes put ÷ held for them", f"{fusion['ratio']:.1f}")
    assert fusion["worst_row_of_bound"] <= 1
    assert agreement >= 0.95 and kl <= 0.02


@pytest.mark.parametrize("policy", ["exact", "error 0.05"])
def test_eight_engines_with_one_manual(policy, figure):
    """Eight headers before one manual, each as from an engine of its own: vLLM's cache is emptied between them."""
    manual = documents(1500)[7][:1200]
    prompts = [header(200 + i) + manual for i in range(8)]
    with Daemon() as daemon, Engine({"address": daemon.address, "policy": policy, "save_generated": False}) as engine:
        for prompt in prompts:
            engine.reset()
            engine.generate([prompt], 1)
        count = sum(len(prompt) // BLOCK for prompt in prompts)
        assert daemon.wait_for_blocks(count) == count
        fusion, stats = daemon.settle(), daemon.stats()
    put = stats["operations"]["put"]["bytes_in"]
    held = fusion["bytes_held"] if policy != "exact" else stats["block_bytes"]
    figure(f"(e) eight headers before one manual, {policy}", f"{put / 1e6:.0f} MB put, {held / 1e6:.1f} MB held: {put / held:.1f} times less")
    assert put / held >= {"exact": 0.99, "error 0.05": 6}[policy]

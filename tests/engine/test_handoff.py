"""(d) A prefill engine hands its prompts' KV to a decode engine through the store."""

from __future__ import annotations

import time

import kvfuse
from rig import BLOCK, LONG, Daemon, Engine, cached_of, documents, tokens_of


def assert_finds_a_dropped_space_again(daemon: Daemon, prefill: Engine, decode: Engine, prompt: list[int]) -> None:
    """Both engines, one after the other, though they keep their connections."""
    with kvfuse.Client(daemon.address) as client:
        client.drop("handoff")
    for _ in range(20):
        prefill.reset()
        decode.reset()
        prefill.generate([prompt], 1)
        if cached_of(decode.generate([prompt], 1)) == [(len(prompt) - 1) // BLOCK * BLOCK]:
            return
        time.sleep(0.2)
    raise AssertionError("a space that was dropped is not in use again")


def test_prefill_engine_to_decode_engine(plain, figure):
    prompts = [doc[:length] for doc, length in zip(documents(1500)[:8], (LONG, LONG * 2 // 3, 700, 513, 512, 300, 64, 20))]
    expected = tokens_of(plain.generate(prompts, 32, one_by_one=True))
    with Daemon() as daemon, Engine({"address": daemon.address, "space": "handoff"}, role="kv_producer") as prefill, \
            Engine({"address": daemon.address, "space": "handoff"}, role="kv_consumer") as decode:
        decode.generate([documents(1500)[9][:100]], 1)  # a consumer saves nothing
        assert daemon.stats()["blocks_stored"] == 0
        got, cached = [], []
        for prompt in prompts:
            handed = prefill.generate([prompt], 1)[0]["params"]
            assert handed["kvfuse_blocks"] == len(prompt) // BLOCK
            output = decode.generate([prompt], 32, params=[handed])
            got += tokens_of(output)
            cached += cached_of(output)
        assert daemon.stats()["blocks_stored"] == sum(len(p) // BLOCK for p in prompts)
        prefill.reset()
        assert cached_of(prefill.generate(prompts[:1], 1)) == [0]  # a producer loads nothing
        assert_finds_a_dropped_space_again(daemon, prefill, decode, prompts[4])
    assert got == expected
    assert cached == [(len(p) - 1) // BLOCK * BLOCK for p in prompts]
    recomputed = sum(len(p) for p in prompts) - sum(cached)
    figure("(d) prefill engine → store → decode engine", f"{len(prompts)} prompts, equal tokens; {recomputed} of {sum(map(len, prompts))} prompt tokens "
           "computed again, none before its last block")

"""(f) A daemon that is killed, stopped, full or another's changes nothing but speed."""

from __future__ import annotations

import threading
import time

import kvfuse
import pytest
from rig import BLOCK, IS_SLOW, Daemon, Engine, assert_vllms_own, cached_of, documents, header, tokens_of

TOKENS = 500 if IS_SLOW else 1000  # of a prompt
PROMPTS = 4 if IS_SLOW else 6
TRIES = 3  # of what a busy machine may make a miss by time
KILLED_AFTER_S = (0.6,) if IS_SLOW else (0.2, 0.6)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [doc[:TOKENS] for doc in documents(1500)[:PROMPTS]]


@pytest.fixture(scope="module")
def expected(plain: Engine, prompts: list[list[int]]) -> list[list[int]]:
    return tokens_of(plain.generate(prompts, 16, one_by_one=True))


def warm(engine: Engine, daemon: Daemon, prompts: list[list[int]], expected: list[list[int]]) -> None:
    """Until the store has them, and they come from there."""
    before = daemon.stats()["blocks_stored"]
    engine.reset()
    assert tokens_of(engine.generate(prompts, 16, one_by_one=True)) == expected
    assert daemon.wait_for_blocks(before + len(prompts) * (TOKENS // BLOCK)) >= before + len(prompts) * (TOKENS // BLOCK)
    for _ in range(TRIES):
        engine.reset()
        again = engine.generate(prompts, 16, one_by_one=True)
        if min(cached_of(again)) == TOKENS // BLOCK * BLOCK:
            break
    assert tokens_of(again) == expected and min(cached_of(again)) == TOKENS // BLOCK * BLOCK


def test_killed_and_stopped_daemon(plain, prompts, expected, figure):
    with Daemon() as daemon, Engine({"address": daemon.address}, patient=False) as engine:
        warm(engine, daemon, prompts, expected)
        # killed in the middle: of a load, and of saves soon after the first prompt
        delays, whole, away = (None, *KILLED_AFTER_S), 0, []
        for delay in delays:
            engine.reset()
            if delay is None:
                engine.kill_at_load(daemon)
                outputs = engine.generate(prompts, 16, one_by_one=True)
                assert engine.said("Recovered from KV load failure") > 0
                daemon.kill()
            else:
                timer = threading.Timer(delay, daemon.kill)
                timer.start()
                outputs = engine.generate(prompts, 16, one_by_one=True)
                timer.join()
            assert sum(cached_of(outputs)) < len(prompts) * (TOKENS // BLOCK * BLOCK), "the daemon was killed too late"
            whole += assert_vllms_own(plain, prompts, outputs)
            engine.reset()
            began = time.monotonic()
            assert tokens_of(engine.generate(prompts[:2], 16, one_by_one=True)) == expected[:2]  # while it is away
            away.append(time.monotonic() - began)
            daemon.start()
            for n in range(100):  # the library comes back by itself
                engine.generate([header(n) + prompts[0][:64]], 1)
                if daemon.stats()["blocks_stored"]:
                    break
                time.sleep(0.1)
            warm(engine, daemon, prompts[:3], expected[:3])
        lines = engine.said("kvfuse: the store at")
        figure("(f) daemon killed with -9 in the middle of a run", f"{len(delays)} times, {whole} of {len(delays) * len(prompts)} prompts' tokens as computed in one go, the "
               f"others as by vLLM's own cache with part of the prompt; in use again after each restart; {lines} lines in the log")
        # stopped: nothing answers, but the connection stands
        computing = plain.timed(prompts, 16, one_by_one=True, salt="stopped")
        daemon.pause()
        engine.reset()
        began = time.monotonic()
        outputs = engine.generate(prompts, 16, one_by_one=True)
        stalled = time.monotonic() - began
        daemon.resume()
        assert_vllms_own(plain, prompts, outputs)
        assert engine.said("does not answer in time") <= 3
        time.sleep(3)
        engine.reset()
        again = engine.generate(prompts[:3], 16, one_by_one=True)
        assert_vllms_own(plain, prompts[:3], again)
        assert sum(cached_of(again)) > 0
        figure(f"(f) daemon stopped for a run of {len(prompts)} prompts", f"right tokens, in {stalled:.1f} s; without the connector {computing:.1f} s; "
               f"2 prompts while it is killed {min(away):.1f} to {max(away):.1f} s")


def test_load_in_layers_from_a_stopped_daemon(plain, prompts, expected):
    """The step that loads fails, and is computed."""
    with Daemon() as daemon, Engine({"address": daemon.address, "load": "layers", "load_timeout": 1.0}, patient=False) as engine:
        warm(engine, daemon, prompts, expected)
        engine.reset()
        timer = threading.Timer(0.05, daemon.pause)
        timer.start()
        outputs = engine.generate(prompts, 16, one_by_one=True)
        timer.join()
        daemon.resume()
        assert sum(cached_of(outputs)) < len(prompts) * (TOKENS // BLOCK * BLOCK), "the daemon was stopped too late"
        assert_vllms_own(plain, prompts, outputs)


@pytest.mark.parametrize("load", ["async", "layers"])
def test_blocks_that_go_between_match_and_get(plain, prompts, load):
    """What is computed on top of them is right, and so is what the store gets of it."""
    first, whole = [prompt[:TOKENS // 2] for prompt in prompts[:2]], prompts[:2]
    with Daemon() as daemon, Engine({"address": daemon.address, "load": load}) as engine:
        engine.generate(first, 1, one_by_one=True)
        stored = daemon.wait_for_blocks(2 * (TOKENS // 2 // BLOCK))
        for prompt in whole:
            engine.reset()
            engine.delete_at_load(3)
            assert_vllms_own(plain, [prompt], engine.generate([prompt], 16))
        assert engine.said("Recovered from KV load failure") == 2
        missing = sum(len(prompt) // BLOCK for prompt in whole) - stored + 2 * 3
        assert daemon.wait_for_blocks(stored + missing) >= stored + missing
        engine.reset()
        again = engine.generate(whole, 16, one_by_one=True)
        assert cached_of(again) == [(len(prompt) - 1) // BLOCK * BLOCK for prompt in whole]
        assert_vllms_own(plain, whole, again)


def test_step_that_raises_saves_nothing(prompts):
    """Its pages hold another request's bytes, or none."""
    with Daemon() as daemon, Engine({"address": daemon.address}) as engine:
        engine.generate(prompts[:1], 1)
        stored = daemon.wait_for_blocks(TOKENS // BLOCK)
        assert stored == TOKENS // BLOCK
        engine.break_step(prompts[1], layer=7)
        time.sleep(1)
        assert daemon.stats()["blocks_stored"] == stored


def test_no_daemon_full_daemon_and_another_layout(plain, prompts, expected, figure):
    with Engine({"address": "127.0.0.1:9"}, patient=False) as engine:
        assert tokens_of(engine.generate(prompts[:2], 16, one_by_one=True)) == expected[:2]
        assert engine.said("kvfuse: no store at") == 2  # the scheduler's side, and the worker's
        ready = engine.ready_seconds
    # room for about a fifth of the blocks
    with Daemon("--host-bytes", "32MiB", "--segment-bytes", "4MiB", "--staging-bytes", "8MiB") as daemon:
        with Engine({"address": daemon.address, "space": "taken"}) as engine:
            for _ in range(2):
                engine.reset()
                assert_vllms_own(plain, prompts, engine.generate(prompts, 16, one_by_one=True))
                engine.reset()
                assert [len(t) for t in tokens_of(engine.generate(prompts, 16))] == [16] * len(prompts)
            held = daemon.stats()["block_bytes"]
            assert 0 < held <= 32 << 20
    with Daemon() as daemon, kvfuse.Client(daemon.address) as client:
        client.space("taken", kvfuse.Layout(layers=2, kv_heads=2, head_dim=32, block_tokens=16, model="another"))
        with Engine({"address": daemon.address, "space": "taken"}) as engine:
            outputs = engine.generate(prompts, 16, one_by_one=True)
            assert tokens_of(outputs) == expected and max(cached_of(outputs)) == 0
            assert engine.said("is not ours") == 2
            assert daemon.stats()["blocks_stored"] == 0
    figure("(f) no daemon, a full one, one with another layout", f"equal tokens; an engine without a daemon starts in {ready:.0f} s")

"""(f) A daemon that is killed, stopped, full or another's changes nothing but speed."""

from __future__ import annotations

import threading
import time

import kvfuse
import pytest
from rig import BLOCK, Daemon, Engine, cached_of, documents, tokens_of


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [doc[:1000] for doc in documents(1500)[:8]]


@pytest.fixture(scope="module")
def expected(plain: Engine, prompts: list[list[int]]) -> list[list[int]]:
    return tokens_of(plain.generate(prompts, 16, one_by_one=True))


def warm(engine: Engine, daemon: Daemon, prompts: list[list[int]], expected: list[list[int]]) -> None:
    """Until the store has them, and they come from there."""
    before = daemon.stats()["blocks_stored"]
    engine.reset()
    assert tokens_of(engine.generate(prompts, 16, one_by_one=True)) == expected
    assert daemon.wait_for_blocks(before + len(prompts) * (1000 // BLOCK)) >= before + len(prompts) * (1000 // BLOCK)
    engine.reset()
    again = engine.generate(prompts, 16, one_by_one=True)
    assert tokens_of(again) == expected and min(cached_of(again)) == 1000 // BLOCK * BLOCK


def test_killed_and_stopped_daemon(prompts, expected, figure):
    with Daemon() as daemon, Engine({"address": daemon.address}) as engine:
        warm(engine, daemon, prompts, expected)
        # killed in the middle: of loads, and of saves
        kills = 0
        for delay in (0.02, 0.15, 0.4, 0.9):
            engine.reset()
            timer = threading.Timer(delay, daemon.kill)
            timer.start()
            outputs = engine.generate(prompts, 16, one_by_one=True)
            timer.join()
            kills += 1
            assert tokens_of(outputs) == expected
            began = time.monotonic()
            engine.reset()
            assert tokens_of(engine.generate(prompts[:2], 16, one_by_one=True)) == expected[:2]  # while it is away
            away = time.monotonic() - began
            daemon.start()
            for _ in range(100):  # the library comes back by itself
                engine.reset()
                engine.generate([prompts[0][:64]], 1)
                if daemon.stats()["blocks_stored"]:
                    break
                time.sleep(0.1)
            warm(engine, daemon, prompts[1:], expected[1:])
        lines = engine.said("WARNING") and engine.said("kvfuse: the store at")
        figure("(f) daemon killed with -9 in the middle of a run", f"{kills} times: equal tokens, and the store in use again after each; {lines} log lines")
        # stopped: nothing answers, but the connection stands
        daemon.pause()
        began = time.monotonic()
        engine.reset()
        outputs = engine.generate(prompts, 16, one_by_one=True)
        stalled = time.monotonic() - began
        daemon.resume()
        assert tokens_of(outputs) == expected
        assert engine.said("does not answer in time") <= 3
        time.sleep(3)
        engine.reset()
        again = engine.generate(prompts[1:], 16, one_by_one=True)
        assert tokens_of(again) == expected[1:] and sum(cached_of(again)) > 0
        figure("(f) daemon stopped for a run of 8 prompts", f"equal tokens; {stalled:.1f} s, and {away / 2 * 8:.1f} s where it is killed")


def test_load_in_layers_from_a_killed_daemon(prompts, expected):
    """The step that loads fails, and is computed."""
    with Daemon() as daemon, Engine({"address": daemon.address, "load": "layers", "load_timeout": 1.0}) as engine:
        warm(engine, daemon, prompts, expected)
        engine.reset()
        threading.Timer(0.05, daemon.pause).start()
        outputs = engine.generate(prompts, 16, one_by_one=True)
        daemon.resume()
        assert tokens_of(outputs) == expected


def test_no_daemon_full_daemon_and_another_layout(prompts, expected, figure):
    with Engine({"address": "127.0.0.1:9"}) as engine:
        assert tokens_of(engine.generate(prompts[:2], 16, one_by_one=True)) == expected[:2]
        assert engine.said("kvfuse: no store at") == 2  # the scheduler's side, and the worker's
        ready = engine.ready_seconds
    # room for 22 of 248 blocks, in a store that evicts nothing while it is read
    with Daemon("--host-bytes", "32MiB", "--segment-bytes", "4MiB", "--staging-bytes", "8MiB") as daemon:
        with Engine({"address": daemon.address, "space": "taken"}) as engine:
            for _ in range(2):
                engine.reset()
                assert tokens_of(engine.generate(prompts, 16, one_by_one=True)) == expected
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

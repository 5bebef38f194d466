"""(a) Outputs with a warm store are those without the connector, token for token, whichever way the blocks go."""

from __future__ import annotations

import pytest
from rig import BLOCK, IS_SLOW, LONG, Daemon, Engine, assert_vllms_own, cached_of, documents, tokens_of

SHARED = 340 if IS_SLOW else 700  # tokens that two of the prompts begin with
COUNT = 12 if IS_SLOW else 32  # tokens that follow


def make_prompts() -> list[list[int]]:
    """Long, short, shorter than a block, whole blocks exactly, and one more; two with a common beginning."""
    docs = documents(1500)
    return [docs[0][:LONG], docs[0][:SHARED] + docs[1][:100], docs[2][:100], docs[3][:20], docs[4][:512], docs[5][:513], docs[6][:1]]


def found(prompts: list[list[int]]) -> list[int]:
    """What of each prompt need not be computed when all of it is stored: whole blocks, but for the last token."""
    return [(len(prompt) - 1) // BLOCK * BLOCK for prompt in prompts]


@pytest.fixture(scope="module")
def expected(plain: Engine) -> list[list[int]]:
    return tokens_of(plain.generate(make_prompts(), COUNT, one_by_one=True))


def test_restarted_engine_gives_the_same_tokens(expected, figure):
    prompts = make_prompts()
    with Daemon() as daemon:
        with Engine({"address": daemon.address}, processes=True) as engine:
            first = engine.generate(prompts, COUNT, one_by_one=True)
            assert tokens_of(first) == expected
            daemon.wait_for_blocks(sum(len(p) // BLOCK for p in prompts) - SHARED // BLOCK)  # the second prompt's are the first one's
        with Engine({"address": daemon.address}, processes=True) as engine:
            second = engine.generate(prompts, COUNT, one_by_one=True)
            assert tokens_of(second) == expected
            assert cached_of(second) == found(prompts)
    figure("(a) prompts with equal tokens after a restart, of", f"{len(prompts)} of {len(prompts)}, {COUNT} tokens each")


@pytest.mark.parametrize("store", [{"order": "rows", "transport": "network"}, {"load": "layers"},
                                   {"order": "rows", "load": "layers", "layers_per_get": 7}], ids=lambda s: "-".join(f"{v}" for v in s.values()))
def test_other_ways_give_the_same_tokens(expected, store):
    prompts = make_prompts()
    with Daemon() as daemon, Engine({"address": daemon.address, **store}) as engine:
        assert tokens_of(engine.generate(prompts, COUNT, one_by_one=True)) == expected
        daemon.wait_for_blocks(sum(len(p) // BLOCK for p in prompts) - SHARED // BLOCK)
        engine.reset()
        second = engine.generate(prompts, COUNT, one_by_one=True)
        assert tokens_of(second) == expected
        assert cached_of(second) == found(prompts)


def test_without_prefix_caching_and_in_chunks():
    """vLLM keeps nothing itself here, so that each repetition comes from the store; prompts are computed 256 tokens a step, which changes
    sums in the last bit. So it is held against vLLM's own cache under the same options."""
    prompts = make_prompts()
    chunks = {"enable_chunked_prefill": True, "max_num_batched_tokens": 256}
    with Engine(**chunks) as engine:
        first, again = (tokens_of(engine.generate(prompts, COUNT, one_by_one=True)) for _ in range(2))
    with Daemon() as daemon, Engine({"address": daemon.address}, enable_prefix_caching=False, **chunks) as engine:
        assert tokens_of(engine.generate(prompts[:1], COUNT)) == first[:1]
        engine.generate(prompts[1:], COUNT, one_by_one=True)
        daemon.wait_for_blocks(sum(len(p) // BLOCK for p in prompts) - SHARED // BLOCK)
        for _ in range(2):
            outputs = engine.generate(prompts, COUNT, one_by_one=True)
            assert tokens_of(outputs) == again
            assert cached_of(outputs) == found(prompts)


def test_salt_abort_and_many_at_once(expected):
    prompts = make_prompts()
    with Daemon() as daemon, Engine({"address": daemon.address}) as engine:
        engine.generate(prompts, 1, salt="one", one_by_one=True)
        daemon.wait_for_blocks(sum(len(p) // BLOCK for p in prompts) - SHARED // BLOCK)
        engine.reset()
        own = [0, SHARED // BLOCK * BLOCK, *[0] * (len(prompts) - 2)]  # what the second prompt has of the first
        assert cached_of(engine.generate(prompts, 1, salt="two", one_by_one=True)) == own, "another salt's blocks were used"
        assert cached_of(engine.generate(prompts, 1, one_by_one=True)) == own, "a salt's blocks were used without it"
        engine.reset()
        assert cached_of(engine.generate(prompts, 1, salt="one", one_by_one=True)) == found(prompts)
        for steps in (0, 1, 2, 5):  # while asked for, while loading, while running
            engine.reset()
            engine.abort(prompts, after=steps)
        engine.reset()
        assert tokens_of(engine.generate(prompts, COUNT, one_by_one=True)) == expected
        engine.reset()
        together = engine.generate(prompts, COUNT)
        assert cached_of(together) == found(prompts)


def test_weights_that_change_make_the_store_another(expected):
    """vLLM tells the connector when its caches are void, for other weights in the same place: nothing of before is used, by keys."""
    prompt, tokens = make_prompts()[1], expected[1]
    with Daemon() as daemon, Engine({"address": daemon.address}) as engine:
        engine.generate([prompt], 1)
        daemon.wait_for_blocks(len(prompt) // BLOCK)
        engine.reset(connector=True)
        output = engine.generate([prompt], COUNT)[0]
        assert output["cached"] == 0 and output["tokens"] == tokens
        daemon.wait_for_blocks(2 * (len(prompt) // BLOCK))
        engine.reset()
        output = engine.generate([prompt], COUNT)[0]
        assert output["cached"] == (len(prompt) - 1) // BLOCK * BLOCK and output["tokens"] == tokens


def test_preempted_requests_go_on(plain):
    """Room for about three of the requests: they are preempted, and come back from the store.

    The sizes of batches change sums in the last bit, and with them now and then a token, with or without the store. So each token is held
    against what an engine that computes all in one go finds likeliest: from wrong KV it would be far off.
    """
    number, length, count = (4, 660, 48) if IS_SLOW else (6, 600, 128)
    prompts = [doc[:length] for doc in documents(1500)[8:8 + number]]
    alone = plain.generate(prompts, 16, one_by_one=True)
    with Daemon() as daemon, Engine({"address": daemon.address}, num_gpu_blocks_override=66, max_num_seqs=6) as engine:
        for _ in range(2):
            engine.reset()
            outputs = engine.generate(prompts, count)
            assert [o["finish"] for o in outputs] == ["length"] * len(prompts)
            gaps = plain.gaps(prompts, tokens_of(outputs))
            assert max(gaps) <= 0.5 and sum(gaps) / len(gaps) <= 0.01
        assert engine.preempted > 0 and daemon.stats()["operations"]["get"]["hits"] > 0
        assert_vllms_own(plain, prompts, engine.generate(prompts, 16, one_by_one=True))
    assert max(plain.gaps(prompts, tokens_of(alone))) <= 0.5
    wrong = plain.gaps(prompts, tokens_of(outputs[1:] + outputs[:1]))  # the measure sees other prompts' outputs
    assert max(wrong) > 2

#!/usr/bin/env python3
"""One vLLM engine, as a child of the tests: a JSON object a line on stdin asks, one on the file descriptor --answers tells.

  {"options": {...}}                     first: options of vllm.LLM; answered by {"ready": seconds}
  {"prompts": [[token, …], …], "max_tokens": N, "logprobs": K, "salt": TEXT, "params": [...], "one_by_one": bool}
      answered by {"seconds": S, "outputs": [{"tokens": […], "cached": N, "seconds": S, "logprobs": [{token: logprob}, …], "params": …}, …]}
  {"prompts": …, "distributions": PATH}  saves the log-probabilities of the next token, [prompt, vocabulary], as a file of NumPy's;
      answered by {"cached": […]}
  {"prompts": …, "abort_after": N}       begins them and aborts them after N steps; answered by {"aborted": N, "left": bool}
  {"prompts": …, "gaps": [[token, …], …]} answered by {"gaps": […]}: of each token after its prompt, how much more likely the likeliest is (nats)
  {"reset": true, "connector": bool}     empties vLLM's own prefix cache; "connector": tells the connector, as after a change of weights
  {"at_load": {"delete": N, "signal": [PID, NUMBER]}}
      at the next get of blocks: the last N of them are deleted from the store before, or a process gets a signal when it is under way
  {"raise_in": LAYER}                    in the next step that layer raises; what asks for that step is answered by {"raised": TEXT}
Also in every answer: "preempted", how many requests were, up to then.
"""

import json
import os
import sys
import time


def generate(llm, ask):
    from vllm import SamplingParams

    prompts = [dict(prompt_token_ids=ids, **({"cache_salt": ask["salt"]} if ask.get("salt") else {})) for ids in ask["prompts"]]
    extra = ask.get("params") or [None] * len(prompts)
    sampling = [SamplingParams(temperature=0, max_tokens=ask["max_tokens"], logprobs=ask.get("logprobs"), ignore_eos=True, detokenize=False,
                               extra_args={"kv_transfer_params": e} if e else None) for e in extra]
    began = time.perf_counter()
    if ask.get("one_by_one"):
        timed = []
        for prompt, s in zip(prompts, sampling):
            at = time.perf_counter()
            timed.append((llm.generate([prompt], [s], use_tqdm=False)[0], time.perf_counter() - at))
    else:
        timed = [(output, 0.0) for output in llm.generate(prompts, sampling, use_tqdm=False)]
    seconds = time.perf_counter() - began
    outputs = []
    for output, took in timed:
        done = output.outputs[0]
        outputs.append({
            "tokens": list(done.token_ids), "cached": output.num_cached_tokens, "seconds": took, "finish": done.finish_reason,
            "params": output.kv_transfer_params,
            "logprobs": [{str(t): p.logprob for t, p in at.items()} for at in done.logprobs] if done.logprobs else None,
        })
    return {"seconds": seconds, "outputs": outputs}


def distributions(llm, ask):
    import numpy as np
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=1, logprobs=-1, detokenize=False)
    rows, cached = [], []
    for ids in ask["prompts"]:
        output = llm.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)[0]
        at = output.outputs[0].logprobs[0]
        row = np.full(len(at), -np.inf, dtype=np.float32)
        row[np.fromiter(at.keys(), dtype=np.int64)] = np.fromiter((p.logprob for p in at.values()), dtype=np.float32)
        rows.append(row)
        cached.append(output.num_cached_tokens)
    np.save(ask["distributions"], np.stack(rows))
    return {"cached": cached}


def abort(llm, ask):
    from vllm import SamplingParams

    engine = llm.llm_engine
    ids = [f"aborted-{time.monotonic_ns()}-{i}" for i in range(len(ask["prompts"]))]
    for request_id, prompt in zip(ids, ask["prompts"]):
        engine.add_request(request_id, {"prompt_token_ids": prompt}, SamplingParams(temperature=0, max_tokens=64, ignore_eos=True))
    for _ in range(ask["abort_after"]):
        engine.step()
    engine.abort_request(ids)
    scheduler = engine.engine_core.engine_core.scheduler
    deadline = time.monotonic() + 20
    while scheduler.has_requests() and time.monotonic() < deadline:  # pages that are being loaded are free only then
        engine.step()
    return {"aborted": len(ids), "left": scheduler.has_requests()}


def gaps(llm, ask):
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1, detokenize=False)
    found = []
    for prompt, tokens in zip(ask["prompts"], ask["gaps"]):
        output = llm.generate([{"prompt_token_ids": prompt + tokens}], sampling, use_tqdm=False)[0]
        for token, at in zip(tokens, output.prompt_logprobs[len(prompt):]):
            found.append(max(p.logprob for p in at.values()) - at[token].logprob)
    return {"gaps": found}


def disturb_next_load(how):
    from kvfuse.vllm import loads

    start = loads._Getter.start

    def disturbed(self, store, get):
        loads._Getter.start = start
        if how.get("delete"):
            store.space().delete(get.keys[-how["delete"]:]).wait().raise_for_status()
        started = start(self, store, get)
        if how.get("signal"):
            os.kill(*how["signal"])
        return started

    loads._Getter.start = disturbed
    return {}


def raise_in(llm, number):
    def disturb(model):
        def hook(*_):
            handle.remove()
            raise RuntimeError(f"layer {number} raises, as it was told")

        handle = model.model.layers[number].register_forward_hook(hook)

    llm.apply_model(disturb)
    return {}


def count_preemptions():
    from vllm.v1.core.sched.scheduler import Scheduler

    preempt, count = Scheduler._preempt_request, [0]

    def counted(self, *arguments, **more):
        count[0] += 1
        return preempt(self, *arguments, **more)

    Scheduler._preempt_request = counted
    return count


def answer_to(llm, ask):
    if ask.get("reset"):
        return {"reset": llm.reset_prefix_cache(reset_connector=bool(ask.get("connector")))}
    if "at_load" in ask:
        return disturb_next_load(ask["at_load"])
    if "raise_in" in ask:
        return raise_in(llm, ask["raise_in"])
    if "distributions" in ask:
        return distributions(llm, ask)
    if "gaps" in ask:
        return gaps(llm, ask)
    if "abort_after" in ask:
        return abort(llm, ask)
    return generate(llm, ask)


def main():
    answers = os.fdopen(int(sys.argv[1]), "w")
    options = json.loads(sys.stdin.readline())["options"]
    began = time.perf_counter()
    from vllm import LLM

    preempted = count_preemptions()
    llm = LLM(**options)
    print(json.dumps({"ready": time.perf_counter() - began}), file=answers, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            answer = answer_to(llm, ask)
        except RuntimeError as error:
            if "as it was told" not in str(error):
                raise
            answer = {"raised": str(error)}
        print(json.dumps({**answer, "preempted": preempted[0]}), file=answers, flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""One vLLM engine, as a child of the tests: a JSON object a line on stdin asks, one on the file descriptor --answers tells.

  {"options": {...}}                     first: options of vllm.LLM; answered by {"ready": seconds}
  {"prompts": [[token, …], …], "max_tokens": N, "logprobs": K, "salt": TEXT, "params": [...], "one_by_one": bool}
      answered by {"seconds": S, "outputs": [{"tokens": […], "cached": N, "seconds": S, "logprobs": [{token: logprob}, …], "params": …}, …]}
  {"reset": true}                        empties vLLM's own prefix cache
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


def main():
    answers = os.fdopen(int(sys.argv[1]), "w")
    options = json.loads(sys.stdin.readline())["options"]
    began = time.perf_counter()
    from vllm import LLM

    llm = LLM(**options)
    print(json.dumps({"ready": time.perf_counter() - began}), file=answers, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        answer = {"reset": llm.reset_prefix_cache()} if ask.get("reset") else generate(llm, ask)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

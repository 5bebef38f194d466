#!/bin/sh
# The Python package's tests, in a virtual environment of their own.
#   run.sh BUILD [pytest's options]      BUILD: a build folder with libkvfuse and kvfused. KVF_SANITIZE: what it was built with.
# PYTHON is the interpreter (python3). The environment lies in BUILD/python and stays. Exits 77, and says what was not tested,
# where it cannot be made.
# shellcheck disable=SC2086
set -eu
skip() {
    echo "NOT TESTED: the Python package (client/python/tests/run.sh): $*" >&2
    exit 77
}
build=$(cd "$1" && pwd)
shift
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
log=$build/python/log
pip="--quiet --disable-pip-version-check --retries 1 --timeout 10"
command -v "$python" >/dev/null || skip "there is no $python"
"$python" -c 'import venv, ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || skip "it takes python3 ≥ 3.10 with venv (python3-venv)"
venv=$build/python/venv-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
[ -f "$header" ] || skip "there is no $header (python3-dev)"

mkdir -p "$build/python"
if [ ! -f "$venv/made" ]; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    # numpy and mypy: tests say what they miss without them
    "$venv/bin/pip" install $pip scikit-build-core cffi ninja pytest >"$log" 2>&1 ||
        skip "pip cannot install scikit-build-core, cffi, ninja and pytest: $(tail -n 1 "$log")"
    "$venv/bin/pip" install $pip numpy mypy >"$log" 2>&1 || :
    touch "$venv/made"
fi
export CFLAGS="${CFLAGS:-} -Werror -Wno-error=deprecated-declarations"
preload=
case "${KVF_SANITIZE:-}" in
    *address*)
        CFLAGS="$CFLAGS -fsanitize=$KVF_SANITIZE -fno-omit-frame-pointer -g"
        preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
        # the interpreter leaves much behind at its end; its own allocator would hide what is used after it was freed
        export ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc
        ;;
esac
if ! "$venv/bin/pip" install $pip --no-build-isolation --no-deps --force-reinstall \
    --config-settings=cmake.define.KVFUSE_BUILD="$build" "$here/.." >"$log" 2>&1; then
    cat "$log" >&2
    echo "FAIL: pip install client/python" >&2
    exit 1
fi
cd "$here"
export KVFUSED="$build/daemon/kvfused" KVFUSE_PRELOAD="$preload"
LD_PRELOAD="$preload" exec "$venv/bin/pytest" -q -p no:cacheprovider "$@"

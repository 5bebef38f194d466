#!/bin/sh
# Sets up and passes the tests.
#   tests/run.sh           installs what is missing, builds, runs the whole suite (a few minutes on two cores)
#   tests/run.sh --long    that, and the suite again under AddressSanitizer + UndefinedBehaviorSanitizer, and what
#                          ThreadSanitizer can judge under it; and a longer soak of fused spaces
set -eu
long=no
case "$#${1:-}" in
    0) ;;
    1--long) long=yes ;;
    *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
deploy/dependencies.sh test

# suite NAME FOLDER CTEST-ARGUMENTS CMAKE-ARGUMENTS…
suite() {
    name=$1 folder=$2 arguments=$3
    shift 3
    echo
    echo "== $name ($folder/)"
    cmake -S . -B "$folder" -G Ninja -DKVF_TESTS=ON -DKVF_WERROR=ON "$@" >/dev/null
    cmake --build "$folder"
    # shellcheck disable=SC2086
    ctest --test-dir "$folder" --output-on-failure --no-tests=error $arguments
    sed -n '/^NOT TESTED/p' "$folder/Testing/Temporary/LastTest.log"
}

suite "tests" build ""
[ $long = yes ] || exit 0
suite "tests under AddressSanitizer and UndefinedBehaviorSanitizer" build-asan-ubsan "" -DKVF_SANITIZE=address,undefined
echo
echo "== soak of fused spaces"
for seed in 3 4; do build-asan-ubsan/tests/unit/daemon/soak_fused --ops 400000 --seed "$seed" --threads 4; done
suite "tests under ThreadSanitizer" build-tsan "-L tsan" -DKVF_SANITIZE=thread

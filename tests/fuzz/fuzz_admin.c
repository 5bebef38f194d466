/* fuzz_admin.c - requests to the stats socket: the first byte says how the rest is split. However that is, the same
 * requests come out, each of them printable words, and nothing waits that is longer than the limit. */
#include "daemon/admin.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

enum { HASH_START = 5381, HASH_FACTOR = 33 };

typedef struct outcome {
    uint64_t hash; /* of all requests and statuses in their order */
    size_t left;   /* bytes that no line ended */
    bool too_large;
} outcome_t;

static void check(bool holds) {
    if (!holds) abort();
}

static void check_request(const char *request, size_t consumed) {
    const size_t size = strlen(request);
    check(size < consumed && size < KVF_ADMIN_LINE_BYTES);
    for (size_t i = 0; i < size; i++) {
        check(request[i] >= ' ' && request[i] <= '~');
        check(request[i] != ' ' || (i > 0 && i + 1 < size && request[i + 1] != ' '));
    }
}

/* Parses as a connection does that gets `piece` bytes at a time. */
static outcome_t parse_all(const char *bytes, size_t count, size_t piece) {
    outcome_t outcome = {HASH_START, 0, false};
    size_t done = 0, seen = 0;
    while (!outcome.too_large) {
        char request[KVF_ADMIN_LINE_BYTES];
        size_t consumed;
        const kvf_status_t status = kvf_admin_parse(bytes + done, seen - done, &consumed, request);
        check(consumed <= seen - done);
        if (status == KVF_IN_PROGRESS) {
            check(consumed == 0 && seen - done < KVF_ADMIN_LINE_BYTES);
            if (seen == count) break;
            seen = count - seen < piece ? count : seen + piece;
            continue;
        }
        outcome.hash = outcome.hash * HASH_FACTOR + (uint64_t)(int64_t)status;
        if (status == KVF_ERR_TOO_LARGE) {
            outcome.too_large = true;
            break;
        }
        check((status == KVF_OK || status == KVF_ERR_INVALID) && consumed > 0);
        check_request(request, consumed);
        for (const char *at = request; *at; at++) outcome.hash = outcome.hash * HASH_FACTOR + (uint8_t)*at;
        done += consumed;
    }
    outcome.left = outcome.too_large ? 0 : count - done;
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    if (count < 1) return 0;
    const char *sent = (const char *)bytes + 1;
    const outcome_t whole = parse_all(sent, count - 1, count);
    const outcome_t split = parse_all(sent, count - 1, 1 + (size_t)bytes[0] % KVF_ADMIN_INPUT_BYTES);
    check(whole.hash == split.hash && whole.left == split.left && whole.too_large == split.too_large);
    return 0;
}

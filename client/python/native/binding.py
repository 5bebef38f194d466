"""Writes the C source of kvfuse._native: kvfuse.h as cffi compiles it, so that the compiler holds every declaration against it.

    binding.py KVFUSE_H OUTPUT_C
"""

import re
import sys
from pathlib import Path

from cffi import FFI

# What a call needs of kvf_request_options_t and kvf_completion_t, without a Python object for each.
HELPERS = """
kvf_status_t kvfpy_put(kvf_space_t *space, uintptr_t blocks, size_t count, uint32_t timeout_ms, bool await_room,
                       int32_t *statuses, kvf_request_t *request);
kvf_status_t kvfpy_get(kvf_space_t *space, uintptr_t blocks, size_t count, uint32_t timeout_ms, uint32_t first_layer,
                       uint32_t num_layers, float *bounds, int32_t *statuses, kvf_request_t *request);
kvf_status_t kvfpy_get_table(kvf_space_t *space, uintptr_t keys, size_t count, uint32_t timeout_ms, uint32_t first_layer,
                             uint32_t num_layers, kvf_table_t **table, int32_t *statuses, kvf_request_t *request);
kvf_status_t kvfpy_match(kvf_space_t *space, uintptr_t keys, size_t count, uint32_t timeout_ms, kvf_request_t *request);
kvf_status_t kvfpy_delete(kvf_space_t *space, uintptr_t keys, size_t count, uint32_t timeout_ms, int32_t *statuses,
                          kvf_request_t *request);
void kvfpy_wait(kvf_client_t *client, kvf_request_t request, kvf_completion_t *completion);
void kvfpy_poll(kvf_client_t *client, kvf_completion_t *completions, size_t max, size_t *count);
"""

SOURCE = """
#include "kvfuse.h"

static kvf_status_t kvfpy_put(kvf_space_t *space, uintptr_t blocks, size_t count, uint32_t timeout_ms, bool await_room,
                              int32_t *statuses, kvf_request_t *request) {
    kvf_request_options_t options = {.timeout_ms = timeout_ms, .await_room = await_room};
    return kvf_put(space, (const kvf_block_t *)blocks, count, &options, (kvf_status_t *)statuses, request);
}

static kvf_status_t kvfpy_get(kvf_space_t *space, uintptr_t blocks, size_t count, uint32_t timeout_ms, uint32_t first_layer,
                              uint32_t num_layers, float *bounds, int32_t *statuses, kvf_request_t *request) {
    kvf_request_options_t options = {
        .timeout_ms = timeout_ms, .first_layer = first_layer, .num_layers = num_layers, .bounds = bounds};
    return kvf_get(space, (const kvf_block_t *)blocks, count, &options, (kvf_status_t *)statuses, request);
}

static kvf_status_t kvfpy_get_table(kvf_space_t *space, uintptr_t keys, size_t count, uint32_t timeout_ms,
                                    uint32_t first_layer, uint32_t num_layers, kvf_table_t **table, int32_t *statuses,
                                    kvf_request_t *request) {
    kvf_request_options_t options = {.timeout_ms = timeout_ms, .first_layer = first_layer, .num_layers = num_layers};
    return kvf_get_table(space, (const kvf_key_t *)keys, count, &options, (kvf_status_t *)statuses, table, request);
}

static kvf_status_t kvfpy_match(kvf_space_t *space, uintptr_t keys, size_t count, uint32_t timeout_ms, kvf_request_t *request) {
    kvf_request_options_t options = {.timeout_ms = timeout_ms};
    return kvf_match(space, (const kvf_key_t *)keys, count, &options, request);
}

static kvf_status_t kvfpy_delete(kvf_space_t *space, uintptr_t keys, size_t count, uint32_t timeout_ms, int32_t *statuses,
                                 kvf_request_t *request) {
    kvf_request_options_t options = {.timeout_ms = timeout_ms};
    return kvf_delete(space, (const kvf_key_t *)keys, count, &options, (kvf_status_t *)statuses, request);
}

static void kvfpy_wait(kvf_client_t *client, kvf_request_t request, kvf_completion_t *completion) {
    completion->status = kvf_wait_request(client, request, &completion->matched);
    completion->request = request;
}

static void kvfpy_poll(kvf_client_t *client, kvf_completion_t *completions, size_t max, size_t *count) {
    *count = kvf_poll(client, completions, max);
}
"""


def read_declarations(header: str) -> str:
    """Returns what a C parser without a preprocessor needs of kvfuse.h."""
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", header, flags=re.DOTALL)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\bKVF_API(_CHECK)?\b", "", text)


def main() -> None:
    header, output = Path(sys.argv[1]), Path(sys.argv[2])
    builder = FFI()
    builder.cdef(read_declarations(header.read_text()) + HELPERS)
    builder.set_source("kvfuse._native", SOURCE)
    builder.emit_c_code(str(output))


if __name__ == "__main__":
    main()

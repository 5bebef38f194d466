#include "tests/replay/trace.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void kvf_trace_fini(kvf_trace_t *trace) {
    free(trace->keys);
    free(trace->names);
    free(trace->starts);
    *trace = (kvf_trace_t){0};
}

/* Grows `array` of `item_bytes` each to hold `need`. */
static kvf_status_t reserve(void **array, size_t *room, size_t need, size_t item_bytes) {
    if (need <= *room) return KVF_OK;
    size_t grown_room = need * 2;
    void *grown = realloc(*array, grown_room * item_bytes);
    if (!grown) return KVF_ERR_NO_MEMORY;
    *array = grown;
    *room = grown_room;
    return KVF_OK;
}

kvf_status_t kvf_trace_append(kvf_trace_t *trace, const uint64_t *keys, size_t count) {
    if (count > UINT32_MAX - trace->blocks || trace->prompts >= UINT32_MAX) return KVF_ERR_TOO_LARGE;
    void *starts = trace->starts, *all = trace->keys;
    kvf_status_t status = reserve(&starts, &trace->prompt_room, trace->prompts + 2, sizeof(*trace->starts));
    trace->starts = starts;
    if (status != KVF_OK) return status;
    status = reserve(&all, &trace->block_room, trace->blocks + count, sizeof(*trace->keys));
    trace->keys = all;
    if (status != KVF_OK) return status;
    if (count) memcpy(&trace->keys[trace->blocks], keys, count * sizeof(*keys));
    trace->starts[trace->prompts++] = trace->blocks;
    trace->blocks += count;
    trace->starts[trace->prompts] = trace->blocks;
    return KVF_OK;
}

static int compare_keys(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

kvf_status_t kvf_trace_finish(kvf_trace_t *trace) {
    if (!trace->blocks) return KVF_OK;
    uint64_t *sorted = malloc(trace->blocks * sizeof(*sorted));
    uint32_t *names = malloc(trace->blocks * sizeof(*names));
    if (!sorted || !names) {
        free(sorted);
        free(names);
        return KVF_ERR_NO_MEMORY;
    }
    memcpy(sorted, trace->keys, trace->blocks * sizeof(*sorted));
    qsort(sorted, trace->blocks, sizeof(*sorted), compare_keys);
    for (size_t i = 0; i < trace->blocks; i++) {
        if (i == 0 || sorted[i] != sorted[i - 1]) sorted[trace->unique++] = sorted[i];
    }
    for (size_t i = 0; i < trace->blocks; i++) {
        const uint64_t *at = bsearch(&trace->keys[i], sorted, trace->unique, sizeof(*sorted), compare_keys);
        names[i] = (uint32_t)(at - sorted);
    }
    free(sorted);
    trace->names = names;
    return KVF_OK;
}

static kvf_status_t append_line(kvf_trace_t *trace, const char *line, size_t bytes) {
    json_t *root = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, NULL);
    const json_t *ids = json_object_get(root, "hash_ids");
    size_t count = json_array_size(ids);
    uint64_t *keys = malloc((count ? count : 1) * sizeof(*keys));
    kvf_status_t status = !keys ? KVF_ERR_NO_MEMORY : json_is_array(ids) ? KVF_OK : KVF_ERR_INVALID;
    for (size_t i = 0; i < count && status == KVF_OK; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id)) status = KVF_ERR_INVALID;
        keys[i] = (uint64_t)json_integer_value(id);
    }
    if (status == KVF_OK) status = kvf_trace_append(trace, keys, count);
    free(keys);
    json_decref(root);
    return status;
}

static kvf_status_t load_lines(FILE *file, kvf_trace_t *trace, size_t *line) {
    char *text = NULL;
    size_t room = 0;
    kvf_status_t status = KVF_OK;
    for (*line = 1; status == KVF_OK; ++*line) {
        errno = 0;
        ssize_t bytes = getline(&text, &room, file);
        if (bytes < 0) {
            if (errno) status = kvf_status_from_errno(errno);
            break;
        }
        status = append_line(trace, text, (size_t)bytes);
        if (status != KVF_OK) break;
    }
    free(text);
    return status;
}

kvf_status_t kvf_trace_load(const char *path, kvf_trace_t *trace, size_t *line) {
    *trace = (kvf_trace_t){0};
    *line = 0;
    FILE *file = fopen(path, "r");
    if (!file) return kvf_status_from_errno(errno);
    kvf_status_t status = load_lines(file, trace, line);
    fclose(file);
    if (status == KVF_OK) status = kvf_trace_finish(trace);
    if (status != KVF_OK) kvf_trace_fini(trace);
    return status;
}

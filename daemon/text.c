#include "daemon/text.h"

#include "transport/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 256 };

void kvf_text_init(kvf_text_t *text, size_t limit) { *text = (kvf_text_t){.limit = limit, .status = KVF_OK}; }

void kvf_text_clear(kvf_text_t *text) {
    free(text->data);
    kvf_text_init(text, text->limit);
}

const char *kvf_text_string(const kvf_text_t *text) { return text->data ? text->data : ""; }

/* Room for `count` more bytes and a NUL. */
static bool reserve(kvf_text_t *text, size_t count) {
    if (text->status != KVF_OK) return false;
    if (count > text->limit - text->size) {
        text->status = KVF_ERR_TOO_LARGE;
        return false;
    }
    const size_t needed = text->size + count + 1;
    if (needed <= text->capacity) return true;
    size_t capacity = text->capacity ? text->capacity : FIRST_CAPACITY;
    while (capacity < needed) capacity = capacity > SIZE_MAX / 2 ? needed : capacity * 2;
    char *data = realloc(text->data, capacity);
    if (!data) {
        text->status = KVF_ERR_NO_MEMORY;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void kvf_text_append(kvf_text_t *text, const char *bytes, size_t count) {
    if (!reserve(text, count)) return;
    if (count) memcpy(text->data + text->size, bytes, count);
    text->size += count;
    text->data[text->size] = '\0';
}

void kvf_text_append_escaped(kvf_text_t *text, const char *bytes, size_t count) {
    char shown[256];
    const size_t piece_bytes = (sizeof(shown) - 1) / 4; /* \xNN is the longest escape */
    for (size_t done = 0; done < count && text->status == KVF_OK;) {
        const size_t n = count - done < piece_bytes ? count - done : piece_bytes;
        kvf_text_append(text, shown, kvf_log_escape(shown, sizeof(shown), bytes + done, n, NULL));
        done += n;
    }
}

void kvf_text_printf(kvf_text_t *text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (size < 0) {
        if (text->status == KVF_OK) text->status = KVF_ERR_INTERNAL;
        return;
    }
    if (!reserve(text, (size_t)size)) return;
    va_start(args, format);
    (void)vsnprintf(text->data + text->size, (size_t)size + 1, format, args);
    va_end(args);
    text->size += (size_t)size;
}

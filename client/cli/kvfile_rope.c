#include "client/cli/kvfile_internal.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_BYTES = 64 };

/* Copies the next word of `*text` and moves behind it. False: there is none, or it is too long for any that we know. */
static bool next_word(const char **text, char word[WORD_BYTES]) {
    *text += strspn(*text, " ");
    size_t length = strcspn(*text, " ");
    if (length == 0 || length >= WORD_BYTES) return false;
    memcpy(word, *text, length);
    word[length] = '\0';
    *text += length;
    return true;
}

static bool at_end(const char *text) { return text[strspn(text, " ")] == '\0'; }

/* A finite number > 0 that is all of `text`. */
static bool read_positive(const char *text, double *value) {
    char *end;
    if (!isdigit((unsigned char)*text)) return false; /* strtod knows signs, spaces, "inf" and "nan" */
    *value = strtod(text, &end);
    return *end == '\0' && isfinite(*value) && *value > 0;
}

static bool read_style(const char *word, kvf_rope_style_t *style) {
    if (strcmp(word, "none") == 0)
        *style = KVF_ROPE_NONE;
    else if (strcmp(word, "neox") == 0)
        *style = KVF_ROPE_NEOX;
    else if (strcmp(word, "gptj") == 0)
        *style = KVF_ROPE_GPTJ;
    else
        return false;
    return true;
}

/* One word behind the style. Words that we do not know may change what K means, so they are refused. */
static bool read_option(const char *word, kvf_kvfile_info_t *info) {
    double value;
    if (strncmp(word, "theta=", 6) == 0) return read_positive(word + 6, &info->rope_theta);
    if (strncmp(word, "dim=", 4) == 0) {
        if (!read_positive(word + 4, &value) || value > info->layout.head_dim || value != floor(value)) return false;
        info->layout.rope_dim = (uint32_t)value;
        return info->layout.rope_dim % 2 == 0;
    }
    return strcmp(word, "position=token") == 0;
}

static kvf_status_t read_line(const char *path, const char *line, kvf_kvfile_info_t *info, kvf_error_t *error) {
    const char *rest = line;
    char word[WORD_BYTES];
    if (!next_word(&rest, word) || !read_style(word, &info->layout.rope_style))
        return kvf_file_error(KVF_ERR_INVALID, error,
                              "%.90s: metadata 'rope' is '%.60s', must begin with none, neox or gptj", path, line);
    info->rope_known = true;
    if (info->layout.rope_style != KVF_ROPE_NONE) info->layout.rope_dim = info->layout.head_dim;
    while (!at_end(rest)) {
        if (!next_word(&rest, word))
            return kvf_file_error(KVF_ERR_INVALID, error, "%.90s: metadata 'rope' has too long a word", path);
        if (info->layout.rope_style == KVF_ROPE_NONE || !read_option(word, info))
            return kvf_file_error(KVF_ERR_INVALID, error, "%.90s: metadata 'rope': '%.60s' is not understood", path,
                                  word);
    }
    if (info->layout.rope_dim % 2 == 0) return KVF_OK;
    return kvf_file_error(KVF_ERR_INVALID, error, "%.90s: metadata 'rope': a head_dim of %u is odd, dim is needed",
                          path, info->layout.head_dim);
}

static kvf_status_t read_frequencies(const char *path, const char *list, float *frequencies, size_t count,
                                     kvf_error_t *error) {
    const char *rest = list;
    char word[WORD_BYTES];
    double value;
    for (size_t i = 0; i < count; i++) {
        if (!next_word(&rest, word) || !read_positive(word, &value) || !isfinite((float)value))
            return kvf_file_error(KVF_ERR_INVALID, error,
                                  "%.90s: metadata 'rope_inv_freq': number %zu of %zu is missing or "
                                  "not above 0",
                                  path, i + 1, count);
        frequencies[i] = (float)value;
    }
    if (at_end(rest)) return KVF_OK;
    return kvf_file_error(KVF_ERR_INVALID, error, "%.90s: metadata 'rope_inv_freq' has more than %zu numbers", path,
                          count);
}

kvf_status_t kvf__kvfile_read_rope(kvf_kvfile_t *file, kvf_error_t *error) {
    const char *path = kvf_safetensors_path(file->tensors);
    const char *line = kvf_safetensors_find_metadata(file->tensors, "rope");
    const char *list = kvf_safetensors_find_metadata(file->tensors, "rope_inv_freq");
    kvf_layout_t *layout = &file->info.layout;
    if (!line) {
        if (!list) return KVF_OK;
        return kvf_file_error(KVF_ERR_INVALID, error, "%.120s: metadata 'rope_inv_freq' without 'rope'", path);
    }
    kvf_status_t status = read_line(path, line, &file->info, error);
    if (status || layout->rope_style == KVF_ROPE_NONE) return status;
    if (!list && file->info.rope_theta == 0)
        return kvf_file_error(KVF_ERR_INVALID, error,
                              "%.120s: metadata 'rope' gives no theta, and there is no "
                              "'rope_inv_freq'",
                              path);
    size_t count = layout->rope_dim / 2;
    file->frequencies = calloc(count, sizeof(*file->frequencies));
    if (!file->frequencies) return kvf_file_errno(ENOMEM, error, "opening", path);
    for (size_t i = 0; !list && i < count; i++)
        file->frequencies[i] = (float)pow(file->info.rope_theta, -2.0 * (double)i / layout->rope_dim);
    if (list) status = read_frequencies(path, list, file->frequencies, count, error);
    layout->rope_tables = 1;
    layout->rope_frequencies = file->frequencies;
    return status;
}

#include "fusion/layout.h"

#include "fusion/why.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

const char *kvf_dtype_name(kvf_dtype_t dtype) {
    switch (dtype) {
    case KVF_BF16: return "bf16";
    case KVF_FP16: return "fp16";
    case KVF_FP32: return "fp32";
    }
    return "?";
}

uint32_t kvf_dtype_bytes(kvf_dtype_t dtype) {
    switch (dtype) {
    case KVF_BF16:
    case KVF_FP16: return 2;
    case KVF_FP32: return 4;
    }
    return 0;
}

const char *kvf_rope_style_name(kvf_rope_style_t style) {
    switch (style) {
    case KVF_ROPE_NONE: return "none";
    case KVF_ROPE_NEOX: return "neox";
    case KVF_ROPE_GPTJ: return "gptj";
    }
    return "?";
}

/* ---- check ---- */

static kvf_status_t check_range(const char *field, uint32_t value, uint32_t max, char *why, size_t why_bytes) {
    if (value >= 1 && value <= max) return KVF_OK;
    return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "%s is %u, must be 1 to %u", field, value, max);
}

static kvf_status_t check_rope(const kvf_layout_t *l, char *why, size_t why_bytes) {
    if (l->rope_style == KVF_ROPE_NONE) {
        if (l->rope_dim == 0 && l->rope_tables == 0) return KVF_OK;
        return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes,
                             "rope_dim and rope_tables must be 0 when rope_style is none");
    }
    if (l->rope_style != KVF_ROPE_NEOX && l->rope_style != KVF_ROPE_GPTJ)
        return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "rope_style is %d, not one of none, neox, gptj",
                             (int)l->rope_style);
    if (l->planes != 2) return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "rope_style needs planes 2 (K and V)");
    if (l->rope_dim < 2 || l->rope_dim > l->head_dim || l->rope_dim % 2)
        return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "rope_dim is %u, must be even and 2 to head_dim (%u)",
                             l->rope_dim, l->head_dim);
    if (l->rope_tables != 1 && l->rope_tables != l->layers)
        return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "rope_tables is %u, must be 1 or layers (%u)",
                             l->rope_tables, l->layers);
    if (!l->rope_frequencies) return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "rope_frequencies is missing");
    for (size_t i = 0; i < kvf_layout_num_frequencies(l); i++)
        if (!isfinite(l->rope_frequencies[i]))
            return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "rope_frequencies[%zu] is not a finite number", i);
    return KVF_OK;
}

kvf_status_t kvf_layout_check(const kvf_layout_t *l, char *why, size_t why_bytes) {
    kvf_status_t status;
    if ((status = check_range("layers", l->layers, KVF_LAYERS_MAX, why, why_bytes)) ||
        (status = check_range("planes", l->planes, 2, why, why_bytes)) ||
        (status = check_range("kv_heads", l->kv_heads, KVF_KV_HEADS_MAX, why, why_bytes)) ||
        (status = check_range("head_dim", l->head_dim, KVF_HEAD_DIM_MAX, why, why_bytes)) ||
        (status = check_range("block_tokens", l->block_tokens, KVF_BLOCK_TOKENS_MAX, why, why_bytes)))
        return status;
    if (!kvf_dtype_bytes(l->dtype))
        return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "dtype is %d, not one of bf16, fp16, fp32",
                             (int)l->dtype);
    if (!l->model) return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "model is missing");
    if (strlen(l->model) > KVF_MODEL_BYTES_MAX)
        return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "model is longer than %d bytes", KVF_MODEL_BYTES_MAX);
    return check_rope(l, why, why_bytes);
}

/* ---- compare ---- */

kvf_status_t kvf_layout_compare(const kvf_layout_t *made, const kvf_layout_t *asked, char *why, size_t why_bytes) {
    const struct {
        const char *field;
        uint32_t made, asked;
    } numbers[] = {
        {"layers", made->layers, asked->layers},
        {"planes", made->planes, asked->planes},
        {"kv_heads", made->kv_heads, asked->kv_heads},
        {"head_dim", made->head_dim, asked->head_dim},
        {"block_tokens", made->block_tokens, asked->block_tokens},
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (numbers[i].made != numbers[i].asked)
            return kvf__fail_why(KVF_ERR_LAYOUT, why, why_bytes, "%s: the space has %u, asked for %u", numbers[i].field,
                                 numbers[i].made, numbers[i].asked);
    if (made->dtype != asked->dtype)
        return kvf__fail_why(KVF_ERR_LAYOUT, why, why_bytes, "dtype: the space has %s, asked for %s",
                             kvf_dtype_name(made->dtype), kvf_dtype_name(asked->dtype));
    if (made->rope_style != asked->rope_style)
        return kvf__fail_why(KVF_ERR_LAYOUT, why, why_bytes, "rope_style: the space has %s, asked for %s",
                             kvf_rope_style_name(made->rope_style), kvf_rope_style_name(asked->rope_style));
    if (made->rope_dim != asked->rope_dim)
        return kvf__fail_why(KVF_ERR_LAYOUT, why, why_bytes, "rope_dim: the space has %u, asked for %u", made->rope_dim,
                             asked->rope_dim);
    if (made->rope_tables != asked->rope_tables)
        return kvf__fail_why(KVF_ERR_LAYOUT, why, why_bytes, "rope_tables: the space has %u, asked for %u",
                             made->rope_tables, asked->rope_tables);
    for (size_t i = 0; i < kvf_layout_num_frequencies(made); i++)
        if (memcmp(&made->rope_frequencies[i], &asked->rope_frequencies[i], sizeof(float)) != 0)
            return kvf__fail_why(KVF_ERR_LAYOUT, why, why_bytes,
                                 "rope_frequencies[%zu]: the space has %.9g, asked for %.9g", i,
                                 (double)made->rope_frequencies[i], (double)asked->rope_frequencies[i]);
    if (strcmp(made->model, asked->model) != 0)
        return kvf__fail_why(KVF_ERR_LAYOUT, why, why_bytes, "model: the space has '%.90s', asked for '%.90s'",
                             made->model, asked->model);
    return KVF_OK;
}

/* ---- copy and sizes ---- */

kvf_layout_t *kvf_layout_clone(const kvf_layout_t *layout) {
    kvf_layout_t *copy = malloc(sizeof(*copy));
    if (!copy) return NULL;
    *copy = *layout;
    size_t count = kvf_layout_num_frequencies(layout);
    float *frequencies = count ? malloc(count * sizeof(float)) : NULL;
    if (frequencies) memcpy(frequencies, layout->rope_frequencies, count * sizeof(float));
    copy->rope_frequencies = frequencies;
    copy->model = strdup(layout->model);
    if ((count && !frequencies) || !copy->model) {
        kvf_layout_destroy(copy);
        return NULL;
    }
    return copy;
}

void kvf_layout_destroy(kvf_layout_t *layout) {
    if (!layout) return;
    free((void *)(uintptr_t)layout->rope_frequencies);
    free((void *)(uintptr_t)layout->model);
    free(layout);
}

static bool within_limits(const kvf_layout_t *l) {
    return l->layers <= KVF_LAYERS_MAX && l->planes <= 2 && l->kv_heads <= KVF_KV_HEADS_MAX &&
           l->head_dim <= KVF_HEAD_DIM_MAX && l->block_tokens <= KVF_BLOCK_TOKENS_MAX;
}

uint64_t kvf_layout_plane_bytes(const kvf_layout_t *l) {
    if (!within_limits(l)) return 0;
    return (uint64_t)l->block_tokens * l->kv_heads * l->head_dim * kvf_dtype_bytes(l->dtype);
}
uint64_t kvf_layout_layer_bytes(const kvf_layout_t *l) { return l->planes * kvf_layout_plane_bytes(l); }
uint64_t kvf_layout_block_bytes(const kvf_layout_t *l) { return l->layers * kvf_layout_layer_bytes(l); }

size_t kvf_layout_num_frequencies(const kvf_layout_t *layout) {
    return (size_t)layout->rope_tables * (layout->rope_dim / 2);
}

uint32_t kvf_layout_rope_table(const kvf_layout_t *layout, uint32_t layer) {
    return layout->rope_tables > 1 ? layer : 0;
}

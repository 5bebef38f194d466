/* kvfile_internal.h - what the parts of kvfile share. */
#ifndef KVF_CLIENT_CLI_KVFILE_INTERNAL_H
#define KVF_CLIENT_CLI_KVFILE_INTERNAL_H

#include "client/cli/kvfile.h"

struct kvf_kvfile {
    kvf_safetensors_t *tensors;
    kvf_kvfile_info_t info;
    float *frequencies;       /* info.layout.rope_frequencies */
    const uint8_t *kv;        /* borrowed from `tensors`, as below */
    const uint8_t *token_ids; /* i32 [request, token_stride], aligned to nothing; NULL without tokens */
    uint64_t token_stride;
};

/* Sets what the info tells of RoPE from the metadata. The layout's head_dim must be set. */
kvf_status_t kvf__kvfile_read_rope(kvf_kvfile_t *file, kvf_error_t *error) KVF_MUST_CHECK;

#endif

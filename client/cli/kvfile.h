/* kvfile.h - files of KV, as engines and test tools dump them, cut into blocks for the store.
 *
 * A KV file is a safetensors file with
 *   kv        [request, layer, 2 (K, V), token, kv_head, head_dim]   BF16, F16 or F32; K after RoPE, position = token
 *   tokens    [request, ≥ token]  I32                                optional; more than kv has are left alone
 *   metadata  axes            "request,layer,k_or_v,token,kv_head,head_dim"
 *             model           fingerprint of the model, 1…255 bytes
 *             rope            optional: "none", or "neox" or "gptj" and words such as theta=100000, dim=64 (the leading
 *                             dims that are rotated; head_dim if absent) and position=token
 *             rope_inv_freq   optional: dim / 2 inverse frequencies (radians a token), to the last bit of an fp32;
 *                             theta^(-2i/dim) if absent
 *
 * Each request's tokens are cut into blocks of `block_tokens`, from the first on. Those that do not fill a block at the
 * end are the tail. A block in the store's order, [layer, 2 (K, V), token, head, dim], is 2 × layers runs of the file:
 *
 *   request r:  | K of layer 0, all tokens   | V of layer 0, all tokens   | K of layer 1 ...
 *               |  b0  |  b1  |  b2  |tail|  |  b0  |  b1  |  b2  |tail|  |
 *                         ^ piece 0 of b1             ^ piece 1 of b1
 *
 * Threads: an open file may be read by any number of threads, kvf_kvfile_keys included; an output belongs to one, but
 * its pieces may be filled from anywhere. Locks: none. */
#ifndef KVF_CLIENT_CLI_KVFILE_H
#define KVF_CLIENT_CLI_KVFILE_H

#include "client/cli/safetensors.h"

enum { KVF_KVFILE_KEY_BYTES = 32 };

typedef struct kvf_kvfile kvf_kvfile_t;

typedef struct kvf_kvfile_info {
    uint64_t requests;    /* ≥ 1 */
    uint64_t tokens;      /* a request, ≥ 1 */
    uint64_t blocks;      /* a request: tokens / block_tokens, 0 if the tail is all there is */
    uint32_t tail_tokens; /* tokens % block_tokens */
    bool has_tokens;
    bool rope_known;     /* the file tells of RoPE; if not, layout says KVF_ROPE_NONE */
    double rope_theta;   /* 0: the file does not say */
    kvf_layout_t layout; /* of the blocks, valid, rope_tables ≤ 1; its pointers live as long as the file */
    uint64_t block_bytes;
    size_t num_pieces; /* of each block: 2 × layers, of block_bytes / num_pieces bytes each */
} kvf_kvfile_info_t;

/* Opens and checks the KV file at `path`, to be cut into blocks of `block_tokens` (1…1024). On success `*file` is the
 * caller's, to be closed by kvf_kvfile_close; what it lends lives until then. As for truncation meanwhile, see
 * kvf_safetensors_open. Returns what that returns, KVF_ERR_INVALID also where the file is no KV file,
 * KVF_ERR_UNSUPPORTED where kv's dtype is none of the three; `error` (may be NULL) says what was wrong. */
kvf_status_t kvf_kvfile_open(const char *path, uint32_t block_tokens, kvf_kvfile_t **file,
                             kvf_error_t *error) KVF_MUST_CHECK;
/* The same over memory, as kvf_safetensors_parse. */
kvf_status_t kvf_kvfile_parse(const void *bytes, size_t num_bytes, const char *name, uint32_t block_tokens,
                              kvf_kvfile_t **file, kvf_error_t *error) KVF_MUST_CHECK;
/* NULL is allowed. */
void kvf_kvfile_close(kvf_kvfile_t *file);

const kvf_kvfile_info_t *kvf_kvfile_info(const kvf_kvfile_t *file);
/* The file below, for its other tensors and metadata. */
const kvf_safetensors_t *kvf_kvfile_tensors(const kvf_kvfile_t *file);

/* Copies the ids of `count` tokens of `request` from token `first` on. False: beyond info.tokens, or the file has none.
 */
bool kvf_kvfile_token_ids(const kvf_kvfile_t *file, uint64_t request, uint64_t first, size_t count,
                          int32_t *ids) KVF_MUST_CHECK;

/* Fills `pieces` [info.num_pieces] with the runs of block `block` of `request`, in the order of the block's bytes. They
 * point into the mapped file: nothing is copied, and writing to them crashes. Block number info.blocks is the tail, if
 * there is one (its pieces are shorter). False: there is no such block. */
bool kvf_kvfile_pieces(const kvf_kvfile_t *file, uint64_t request, uint64_t block, kvf_piece_t *pieces) KVF_MUST_CHECK;

/* Fills `keys` [info.blocks][32] with the prefix keys of the blocks of `request`:
 *
 *   key[b] = H(key[b - 1], 1, token ids of block b (i32 LE))   or, in a file without tokens,
 *   key[b] = H(key[b - 1], 2, bytes of block b)
 *   key[-1] = H("kvfuse prefix key 1", dtype, layers, planes, kv_heads, head_dim, block_tokens, model)   (u32 LE each)
 *   H(x) = XXH3-128(x, seed 0) ‖ XXH3-128(x, seed 0x9e3779b97f4a7c15), each in canonical (big-endian) form
 *
 * So a key stands for all tokens from the prompt's first to the block's last, and files of another model or layout
 * never share one. H does not withstand somebody who looks for collisions: where tenants do not trust each other, give
 * each a space. Returns KVF_OK or KVF_ERR_NO_MEMORY, KVF_ERR_INVALID (no such request). */
kvf_status_t kvf_kvfile_keys(const kvf_kvfile_t *file, uint64_t request,
                             uint8_t (*keys)[KVF_KVFILE_KEY_BYTES]) KVF_MUST_CHECK;

/* ---- a new file of the same shape ---- */

typedef struct kvf_kvfile_output kvf_kvfile_output_t;

/* Starts a file at `path` with the metadata and tensors of `like`, all of them copied but kv, which is zeros until its
 * pieces are filled. `like` must stay open until the output has ended; `path` may be its own. On success `*output` is
 * the caller's, to be ended by _commit or _abort. Errors as kvf_safetensors_create. */
kvf_status_t kvf_kvfile_output_create(const kvf_kvfile_t *like, const char *path, kvf_kvfile_output_t **output,
                                      kvf_error_t *error) KVF_MUST_CHECK;

/* As kvf_kvfile_pieces, but writable, until the output ends. */
bool kvf_kvfile_output_pieces(const kvf_kvfile_output_t *output, uint64_t request, uint64_t block,
                              kvf_piece_t *pieces) KVF_MUST_CHECK;

/* As kvf_safetensors_commit and _abort. */
kvf_status_t kvf_kvfile_output_commit(kvf_kvfile_output_t *output, kvf_error_t *error) KVF_MUST_CHECK;
void kvf_kvfile_output_abort(kvf_kvfile_output_t *output);

#endif

/* policy.h - what may happen to the bytes of a space: its policy, as a struct and as people write it.
 * The public header declares the same structs for users; tests/unit/client checks that they agree.
 * Threads: [any thread]. */
#ifndef KVF_FUSION_POLICY_H
#define KVF_FUSION_POLICY_H

#include "proto/status.h"

#include <stddef.h>

#ifndef KVFUSE_H
typedef enum kvf_policy_kind {
    KVF_POLICY_EXACT = 0,
    KVF_POLICY_ERROR = 1,
    KVF_POLICY_RATIO = 2,
    KVF_POLICY_FUSE = 3,
} kvf_policy_kind_t;

typedef struct kvf_policy {
    kvf_policy_kind_t kind;
    float error_k, error_v;
    float ratio;
    float tau;
} kvf_policy_t;
#endif

/* "exact", "error", "ratio", "fuse", or "?". Static. */
const char *kvf_policy_kind_name(kvf_policy_kind_t kind);

/* Checks every field: those of its kind against their ranges, the others must be 0. The policy may come from a peer.
 * Returns KVF_OK; KVF_ERR_POLICY for a kind that is none, or KVF_ERR_INVALID, with `why` [why_bytes] naming the field. */
kvf_status_t kvf_policy_check(const kvf_policy_t *policy, char *why, size_t why_bytes) KVF_MUST_CHECK;

/* Compares the policy that a space was made with (`made`) with one that is asked for, both of them checked. Returns KVF_OK,
 * or KVF_ERR_POLICY with `why` naming the first field that differs and both values. */
kvf_status_t kvf_policy_compare(const kvf_policy_t *made, const kvf_policy_t *asked, char *why,
                                size_t why_bytes) KVF_MUST_CHECK;

/* Reads "exact", "error E", "error K=E,V=E", "ratio R" or "fuse T", blanks between the two words alone. Numbers are decimal
 * and have a point, whatever the locale. On success `*policy` is one that passes kvf_policy_check; else KVF_ERR_INVALID, and
 * `why` tells what was wrong and what would be right. */
kvf_status_t kvf_policy_read(const char *text, kvf_policy_t *policy, char *why, size_t why_bytes) KVF_MUST_CHECK;

/* Writes a checked policy as kvf_policy_read takes it, which then gives the same policy to the last bit, into `text`
 * [bytes], which is returned. It needs at most KVF_POLICY_TEXT_BYTES; what does not fit is cut off. */
enum { KVF_POLICY_TEXT_BYTES = 64 };
char *kvf_policy_print(const kvf_policy_t *policy, char *text, size_t bytes);

#endif

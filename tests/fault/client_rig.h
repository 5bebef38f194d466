/* client_rig.h - a client, a space and blocks with bytes of their own, for tests against any daemon. Aborts the test on
 * failure. */
#ifndef KVF_CLIENT_RIG_H
#define KVF_CLIENT_RIG_H

#include "client/include/kvfuse.h"

enum { RIG_BLOCKS = 32, RIG_KEY_BYTES = 16 };

typedef struct rig {
    kvf_client_t *client;
    kvf_space_t *space;
    size_t block_bytes, layer_bytes;
    unsigned char *memory; /* [RIG_BLOCKS, block_bytes] */
    kvf_piece_t pieces[RIG_BLOCKS];
    kvf_block_t blocks[RIG_BLOCKS];
    kvf_key_t keys[RIG_BLOCKS];
    unsigned char key_bytes[RIG_BLOCKS][RIG_KEY_BYTES];
    kvf_status_t statuses[RIG_BLOCKS];
    unsigned char *own_memory; /* if it is not kvf_memory_alloc's */
} rig_t;

/* 4 layers, 2 planes, 2 heads of 16, 16 tokens, bf16: layers of 2 KiB, blocks of 8 KiB. */
kvf_layout_t rig_layout(void);

/* Options for `address`: timeouts short enough for tests. */
kvf_client_options_t rig_options(const char *address, kvf_transport_t transport);

/* Connects, opens a space, makes memory. */
void rig_open(rig_t *rig, const kvf_client_options_t *options, const kvf_layout_t *layout, bool own_memory);
/* The same under another policy than exact. */
void rig_open_under(rig_t *rig, const kvf_client_options_t *options, const kvf_layout_t *layout, bool own_memory,
                    const kvf_policy_t *policy);
void rig_close(rig_t *rig);

/* Fills block i with bytes that only it has, or with what no block has. */
void rig_fill(rig_t *rig, size_t i);
void rig_wipe(rig_t *rig, size_t i);
bool rig_is_filled(const rig_t *rig, size_t i);
bool rig_is_wiped(const rig_t *rig, size_t i);

/* Blocking, of the first `count` blocks; `timeout_ms` 0: the client's. */
kvf_status_t rig_put(rig_t *rig, size_t count, uint32_t timeout_ms);
kvf_status_t rig_get(rig_t *rig, size_t count, uint32_t timeout_ms);
kvf_status_t rig_match(rig_t *rig, size_t count, size_t *matched);
kvf_status_t rig_delete(rig_t *rig, size_t count);

/* Waits up to 5 s for the connection to be as `connected`. */
bool rig_wait_connected(rig_t *rig, bool connected);

#endif

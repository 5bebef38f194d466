/* sample_rig.h - the blocks of tests/data/sample.safetensors, and clients that put them into a space, get them back and hold what
 * comes against what was put, row by row. Aborts the test on failure. Threads: one a client; a sample may be read by any. */
#ifndef KVF_SAMPLE_RIG_H
#define KVF_SAMPLE_RIG_H

#include "client/cli/kvfile.h"
#include "client/cli/verify.h"
#include "client/include/kvfuse.h"
#include "tests/integration/daemon_fixture.h"

enum { SAMPLE_TOKENS = 16, SAMPLE_PER_REQUEST = 5, SAMPLE_BLOCKS = 20, SAMPLE_COPIES_MAX = 8 };

/* A block's bytes are [layer, plane, token, head, dim] in one piece. Copies have the same texts and bytes under keys of their own. */
typedef struct sample {
    kvf_kvfile_t *file;
    const kvf_layout_t *layout;
    size_t count; /* SAMPLE_BLOCKS a copy */
    size_t block_bytes, layer_bytes, plane_bytes;
    uint8_t *bytes; /* [SAMPLE_BLOCKS, block_bytes]: block i has those of i % SAMPLE_BLOCKS */
    uint8_t (*keys)[KVF_KVFILE_KEY_BYTES];
    uint32_t *token_ids; /* [SAMPLE_BLOCKS, SAMPLE_TOKENS] */
    kvf_piece_t *pieces;
    kvf_block_t *blocks; /* [count], as they are put: with all that helps fusion */
} sample_t;

void sample_open(sample_t *sample, unsigned copies);
void sample_close(sample_t *sample);
/* Turns the sign of every value: the same texts and keys, and no row like the one before. */
void sample_flip(sample_t *sample);

typedef struct sample_client {
    const sample_t *sample;
    kvf_client_t *client;
    kvf_space_t *space;
    kvf_policy_t policy;
    uint8_t *memory;        /* [count, block_bytes], where gets go */
    kvf_piece_t *pieces;    /* [count] of it */
    kvf_block_t *blocks;    /* [count] */
    kvf_status_t *statuses; /* [count] of the last put or get */
    float *bounds;          /* [count, K and V] that the last get told */
} sample_client_t;

/* Options for `daemon`, with timeouts short enough for tests. */
kvf_client_options_t sample_options(const daemon_fixture_t *daemon);
/* Connects, and opens `space` under `policy`. */
void sample_connect(sample_client_t *client, const sample_t *sample, const kvf_client_options_t *options,
                    const char *space, const char *policy);
void sample_disconnect(sample_client_t *client);

/* Puts or gets the blocks [first, first + count) in one request. Blocking; returns the request's status. */
kvf_status_t sample_put(sample_client_t *client, size_t first, size_t count);
kvf_status_t sample_get(sample_client_t *client, size_t first, size_t count);
/* The same of a put that awaits room, for at most 15 s; all must be stored then. */
void sample_put_patiently(sample_client_t *client, size_t first, size_t count);

/* Holds every row of the blocks that the last get brought against what was put, under the bounds that were told, and those against the
 * policy's. A block that did not come is a failure, unless `may_miss`. Returns how many came. */
size_t sample_check(const sample_client_t *client, size_t first, size_t count, bool may_miss);
/* The same of layers [first_layer, first_layer + num_layers) that lie at `got`, of block i. */
void sample_check_layers(const sample_client_t *client, size_t i, const uint8_t *got, uint32_t first_layer,
                         uint32_t num_layers);
/* How many of the blocks came coded; of policy fuse: with a K plane that is not as it was put. */
size_t sample_count_coded(const sample_client_t *client, size_t first, size_t count);

/* Waits until the number `name` of the daemon's stats is `value`, at most 15 s. */
void sample_wait_stat(const daemon_fixture_t *daemon, const char *name, uint64_t value);
/* Waits until all that landed is coded. */
void sample_wait_coded(const daemon_fixture_t *daemon);

/* A daemon, a sample and a client of a space "fused". */
typedef struct sample_store {
    daemon_fixture_t daemon;
    sample_t sample;
    sample_client_t client;
} sample_store_t;

/* `args`: the daemon's, as daemon_start takes them. */
void sample_store_start(sample_store_t *store, unsigned copies, const char *policy, const char *const *args);
/* Ends all of it; the daemon has to leave in order. */
void sample_store_stop(sample_store_t *store);
/* Puts all blocks and waits until they are coded. */
void sample_store_code(sample_store_t *store);
/* Gets all blocks; they have to come coded, each row within its bound. */
void sample_get_all_coded(sample_client_t *client);

void sample_sleep_ms(unsigned ms);
uint64_t sample_now_ms(void);

#endif

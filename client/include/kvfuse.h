/* kvfuse.h - client of kvfused, a store for the KV caches of LLM serving engines. The only public header.
 *
 * A **space** holds the blocks of one model layout. A **block** is the KV of a run of tokens over all layers, under a
 * key of up to 64 bytes that the engine chooses (its prefix hash). Blocks are put, matched, got and deleted in batches;
 * requests are asynchronous: a call returns at once, and the request's completion is taken from the client's queue.
 *
 * Block bytes: [layer, plane (K, V), token, head, dim] in the layout's dtype. A caller's block may lie in pieces
 * (kvf_piece_t), cut anywhere: one piece, one a layer, one for each K and V, …
 *
 * Threads: every function may be called from any thread. Completions go to whoever calls kvf_poll or kvf_wait. With
 * KVF_PROGRESS_THREAD (the default) the library has one thread of its own that does the transfers, copies, timeouts and
 * reconnects while the caller computes. With KVF_PROGRESS_CALLER it has none: nothing moves except inside kvf_poll,
 * kvf_wait and the blocking calls (for callers that spin).
 * Errors: a failed call started nothing. A request that was started always completes, within its timeout, whatever
 * becomes of the daemon. The library never writes to a block's memory after the completion that names it, never exits,
 * and raises no signal. It writes to stderr only if KVF_LOG is set (error, warn, info, debug).
 * Reconnects: a lost connection ends its requests with KVF_ERR_DISCONNECTED (or KVF_ERR_TIMEOUT) and is made again in
 * the background, spaces and memory included; requests issued meanwhile wait for it within their timeout. */
#ifndef KVFUSE_H
#define KVFUSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVF_API       __attribute__((visibility("default")))
#define KVF_API_CHECK KVF_API __attribute__((warn_unused_result))

/* ---- status ---- */

#ifndef KVF_PROTO_STATUS_H
/* 0 done, > 0 in progress or partial, < 0 failed (-1… request, -100… connection, -200… node). */
typedef enum kvf_status {
    KVF_OK = 0,
    KVF_IN_PROGRESS = 1,
    KVF_EXISTS = 2,  /* put: stored already, or another put of the key is landing; its bytes were left as they are */
    KVF_PARTIAL = 3, /* of a request: some keys failed, see the status of each */
    KVF_ERR_INVALID = -1,
    KVF_ERR_NOT_FOUND = -2,
    KVF_ERR_LAYOUT = -3,
    KVF_ERR_POLICY = -4,
    KVF_ERR_TOO_LARGE = -5,
    KVF_ERR_BUSY = -6,     /* a budget is used up, try again */
    KVF_ERR_NO_SPACE = -7, /* no room and nothing to evict */
    KVF_ERR_CORRUPT = -8,  /* the bytes are not those that were put; nothing of the block is to be used */
    KVF_ERR_TIMEOUT = -9,
    KVF_ERR_CANCELED = -10,
    KVF_ERR_UNSUPPORTED = -11,
    KVF_ERR_UNREACHABLE = -100,
    KVF_ERR_DISCONNECTED = -101,
    KVF_ERR_PROTOCOL = -102,
    KVF_ERR_VERSION = -103, /* peer runs another protocol or another UCX */
    KVF_ERR_ADDRESS_IN_USE = -104,
    KVF_ERR_ADDRESS = -105,
    KVF_ERR_NO_MEMORY = -200,
    KVF_ERR_IO = -201,
    KVF_ERR_TRANSPORT = -202,
    KVF_ERR_INTERNAL = -203,
    KVF_ERR_SHUTDOWN = -204,
} kvf_status_t;
#endif

/* "not found", and "KVF_ERR_NOT_FOUND". Static strings, also for numbers that are no status. */
KVF_API const char *kvf_status_text(kvf_status_t status);
KVF_API const char *kvf_status_name(kvf_status_t status);
/* Version of the library, e.g. "0.1.0". */
KVF_API const char *kvf_version(void);

/* What was wrong, for people. Filled, if not NULL, by calls that take one and fail. */
typedef struct kvf_error {
    char text[256];
} kvf_error_t;

/* ---- layout and policy ---- */

#ifndef KVF_FUSION_LAYOUT_H
typedef enum kvf_dtype { KVF_BF16 = 1, KVF_FP16 = 2, KVF_FP32 = 3 } kvf_dtype_t;

/* How K carries its position: not, by halves (x[i], x[i + dim/2]), or by neighbours (x[2i], x[2i + 1]). */
typedef enum kvf_rope_style { KVF_ROPE_NONE = 0, KVF_ROPE_NEOX = 1, KVF_ROPE_GPTJ = 2 } kvf_rope_style_t;

/* Two clients that disagree on any field cannot open the same space. */
typedef struct kvf_layout {
    uint32_t layers;       /* 1…1024 */
    uint32_t planes;       /* planes a layer: 2 (K and V), or 1 (a latent plane without RoPE, as MLA has) */
    uint32_t kv_heads;     /* 1…128 */
    uint32_t head_dim;     /* 1…1024 */
    uint32_t block_tokens; /* 1…1024 */
    kvf_dtype_t dtype;
    kvf_rope_style_t rope_style;
    uint32_t rope_dim;             /* leading dims that are rotated, even, ≤ head_dim; 0 with KVF_ROPE_NONE */
    uint32_t rope_tables;          /* tables in rope_frequencies: 1 for all layers, or `layers`; 0 with KVF_ROPE_NONE */
    const float *rope_frequencies; /* [rope_tables, rope_dim / 2] radians a token; borrowed during the call */
    const char *model; /* fingerprint: model, revision, quantisation, TP rank, … ≤ 255 bytes; borrowed */
} kvf_layout_t;
#endif

#ifndef KVF_FUSION_POLICY_H
/* What may happen to the bytes. A row is what one token has of one head; ε bounds its error: ‖x − x̂‖ ≤ ε‖x‖. */
typedef enum kvf_policy_kind {
    KVF_POLICY_EXACT = 0, /* the same bits come back */
    KVF_POLICY_ERROR = 1, /* every row within error_k or error_v */
    /* Every row within a bound that the daemon chooses for its layer, so that blocks take about 1 / ratio of their bytes. A block
     * keeps the bound that it was coded under. */
    KVF_POLICY_RATIO = 2,
    /* K or V of one layer of a block, as one vector, may become a gain × a direction that several blocks share, if the cosine of what comes
     * back with what was put is tau or more: then ‖x − x̂‖ ≤ √(1 − tau²) ‖x‖ for that vector as a whole. Short rows of it may be off by
     * more than themselves. Blocks that are put in one request, or soon after each other, are fused together. See kvf_get_table. */
    KVF_POLICY_FUSE = 3,
} kvf_policy_kind_t;

typedef struct kvf_policy { /* fields of other kinds are 0; all 0 is exact */
    kvf_policy_kind_t kind;
    float error_k, error_v; /* ERROR: in (0, 1] */
    float ratio;            /* RATIO: 1.5…64 */
    float tau;              /* FUSE: in [0.5, 1) */
} kvf_policy_t;
#endif

/* Reads "exact", "error E", "error K=E,V=E", "ratio R" or "fuse T", with decimal points. KVF_ERR_INVALID, and `error` (may be
 * NULL) says why. */
KVF_API_CHECK kvf_status_t kvf_policy_parse(const char *text, kvf_policy_t *policy, kvf_error_t *error);

/* Bytes of a block of `layout`, and of one layer of it; 0 if the layout is not valid. */
KVF_API uint64_t kvf_layout_block_bytes(const kvf_layout_t *layout);
KVF_API uint64_t kvf_layout_layer_bytes(const kvf_layout_t *layout);

/* ---- client ---- */

typedef enum kvf_transport {
    KVF_TRANSPORT_AUTO = 0,    /* shared memory if the daemon is on this host and lets us, else the network */
    KVF_TRANSPORT_NETWORK = 1, /* UCX alone, also on one host */
    KVF_TRANSPORT_SHARED = 2,  /* shared memory, or fail to connect */
} kvf_transport_t;

typedef enum kvf_progress { KVF_PROGRESS_THREAD = 0, KVF_PROGRESS_CALLER = 1 } kvf_progress_t;

/* Who codes what is put into a fused space: the daemon behind the put, or the library before it, which sends less then (under policy ERROR;
 * under others blocks go raw). */
typedef enum kvf_put_mode { KVF_PUT_RAW = 0, KVF_PUT_FUSED = 1 } kvf_put_mode_t;

/* A field that is 0 or NULL means its default. */
typedef struct kvf_client_options {
    const char *address; /* host:port or [v6]:port, resolved once, by kvf_connect. Default 127.0.0.1:7311 */
    const char *name;    /* shown to admins, ≤ 63 bytes; borrowed. Default: the program's name */
    kvf_transport_t transport;
    kvf_progress_t progress;
    bool busy_poll;              /* the library's thread spins instead of sleeping: lower latency, a whole core */
    bool skip_verify;            /* do not check the checksums of what a get brings */
    uint32_t connect_timeout_ms; /* of kvf_connect. Default 5000 */
    uint32_t request_timeout_ms; /* of requests that give none. Default 10000 */
    uint32_t ping_ms;            /* the daemon is asked for a sign of life after this silence. Default 2000 */
    kvf_put_mode_t put_mode;
    size_t unit_cache_bytes; /* units of fused spaces that are kept for the next get. Default 64 MiB */
    size_t decoded_bytes;    /* and units that are kept as decoded, beside those. Default 64 MiB */
    size_t bounce_bytes;     /* shared memory through which puts from unregistered memory go. Default 32 MiB */
    const char
        *ucx_tls; /* UCX's transports, as in UCX_TLS, which wins; copied. Default "tcp"; for RDMA as the daemon's */
} kvf_client_options_t;

typedef struct kvf_client kvf_client_t;

/* Sets the defaults. */
KVF_API void kvf_client_options_init(kvf_client_options_t *options);

/* Connects to a daemon, within connect_timeout_ms; before that it resolves a name in `address`, which takes as long as
 * the host's resolver does (many seconds, where its server is away; an address in numbers takes no time). Blocks. On
 * success `*client` is the caller's, to be closed by kvf_close. Fails with KVF_ERR_UNREACHABLE, _TIMEOUT, _VERSION,
 * _ADDRESS, _BUSY (the daemon's sessions are used up), … and `error` (may be NULL) says more. */
KVF_API_CHECK kvf_status_t kvf_connect(const kvf_client_options_t *options, kvf_client_t **client, kvf_error_t *error);

/* Ends what is in flight (KVF_ERR_CANCELED, not delivered), disconnects, frees the client, its spaces and memory.
 * Blocks until the network lets go of the caller's memory: milliseconds as a rule, at most 5 s. No other call on the
 * client may be running. NULL is allowed. */
KVF_API void kvf_close(kvf_client_t *client);

/* Round trip to the daemon in nanoseconds. Blocks for at most `timeout_ms`. */
KVF_API_CHECK kvf_status_t kvf_ping(kvf_client_t *client, uint32_t timeout_ms, uint64_t *round_trip_ns);

/* Facts about the connection, for people and tests. Strings live until kvf_close. */
typedef struct kvf_client_info {
    bool connected;
    bool shared_memory; /* gets and puts go through shared memory */
    /* With KVF_TRANSPORT_AUTO: why they do not, though the daemon is on this host; "" otherwise. */
    const char *not_shared_why;
    const char *daemon_version; /* "" while never connected */
    const char *ucx_version;
    uint64_t reconnects;
} kvf_client_info_t;
KVF_API void kvf_client_get_info(kvf_client_t *client, kvf_client_info_t *info);

/* ---- space ---- */

typedef struct kvf_space kvf_space_t;

/* Opens the space `name` (1…128 bytes), making it if there is none, within the client's connect_timeout_ms. Blocks.
 * Fails with KVF_ERR_LAYOUT or KVF_ERR_POLICY if it was made with another one: `error` names the field and both values.
 * The space belongs to the client and lives until kvf_close. */
KVF_API_CHECK kvf_status_t kvf_space_open(kvf_client_t *client, const char *name, const kvf_layout_t *layout,
                                          const kvf_policy_t *policy, kvf_space_t **space, kvf_error_t *error);

/* The same, but does not make it: KVF_ERR_NOT_FOUND if there is none, also by a reconnect (to a daemon that has lost its
 * spaces, say: then the space's requests fail with that until it is opened again). For those who only read. */
KVF_API_CHECK kvf_status_t kvf_space_open_existing(kvf_client_t *client, const char *name, const kvf_layout_t *layout,
                                                   const kvf_policy_t *policy, kvf_space_t **space, kvf_error_t *error);

/* Drops the space `name` with all its blocks, whoever uses it, within the client's connect_timeout_ms. Blocks. Its memory
 * goes to other spaces as soon as nobody reads from it. KVF_ERR_NOT_FOUND: there is none. From then on requests of those who
 * have it open, here and elsewhere, get KVF_ERR_NOT_FOUND, until it is opened again (which makes an empty one). A
 * kvf_space_t of it stays valid. */
KVF_API_CHECK kvf_status_t kvf_space_drop(kvf_client_t *client, const char *name, kvf_error_t *error);

/* ---- memory ---- */

/* Memory for blocks that the daemon on this host can read itself (a memfd, populated and shared at once): puts from it cost one
 * copy. To a daemon elsewhere, or one whose client-memory is used up, it is plain memory. Make it once, at start-up: a client has
 * at most 15 of them (KVF_ERR_BUSY). Freed by kvf_memory_free or kvf_close; no request may use it then. */
KVF_API_CHECK kvf_status_t kvf_memory_alloc(kvf_client_t *client, size_t bytes, void **base);
KVF_API void kvf_memory_free(kvf_client_t *client, void *base);

/* Registers memory of the caller (an engine's paged cache) with the network, so that no request pays for it. It must stay
 * mapped until kvf_memory_unregister or kvf_close. Not needed for correctness. */
KVF_API_CHECK kvf_status_t kvf_memory_register(kvf_client_t *client, void *base, size_t bytes);
KVF_API void kvf_memory_unregister(kvf_client_t *client, void *base);

/* ---- requests ---- */

typedef struct kvf_key {
    const void *bytes;
    size_t num_bytes; /* 1…64 */
} kvf_key_t;

typedef struct kvf_piece {
    void *base; /* only read by a put */
    size_t bytes;
} kvf_piece_t;

typedef struct kvf_block {
    kvf_key_t key;
    const kvf_piece_t
        *pieces; /* in the order of the block's bytes; their sum is that of the block, or of the layers asked for */
    size_t num_pieces;
    /* What helps fusion, of a put; all may be 0 or NULL: unknown. */
    uint64_t position;         /* of the block's first token, in tokens: K of the same text at another place is fused */
    const uint32_t *token_ids; /* [block_tokens]; copied */
    kvf_key_t previous;        /* key of the block before it in its prompt; copied */
} kvf_block_t;

typedef struct kvf_request_options {
    uint32_t timeout_ms;  /* 0: the client's */
    uint32_t first_layer; /* get: only the layers first_layer … first_layer + num_layers - 1 */
    uint32_t num_layers;  /* 0: all from first_layer on */
    void *user;           /* comes back in the completion */
    /* put: blocks that a budget of the daemon holds back (KVF_ERR_BUSY, such as while its encoders are behind) are sent again, after
     * pauses and a few at a time, until the time is all but up; then they are KVF_ERR_BUSY. Without it that is told at once. */
    bool await_room;
    /* get: [count, K and V] ε of each block that came, 0: exact; borrowed; NULL: not told. Of policy FUSE it is of planes as a whole, not of
     * each row. */
    float *bounds;
} kvf_request_options_t;

/* All calls below: `count` is 1 to 2^20. Keys, pieces, blocks and options are copied, and may go when the call returns. The
 * blocks' memory and `statuses` [count] are borrowed until the request's completion. `options`, `statuses` and `request` may be
 * NULL. They return KVF_OK (started), KVF_ERR_INVALID, KVF_ERR_TOO_LARGE or KVF_ERR_NO_MEMORY; nothing else happens at once. */
typedef uint64_t kvf_request_t;

/* Stores blocks. Status of each: KVF_OK (its bytes have landed and are readable), KVF_EXISTS, or why not. The bytes must
 * not change until the completion. */
KVF_API_CHECK kvf_status_t kvf_put(kvf_space_t *space, const kvf_block_t *blocks, size_t count,
                                   const kvf_request_options_t *options, kvf_status_t *statuses,
                                   kvf_request_t *request);

/* Reads blocks into their pieces. Status of each: KVF_OK, KVF_ERR_NOT_FOUND (a miss), or why not. Where it is not KVF_OK the
 * block's memory is undefined. */
KVF_API_CHECK kvf_status_t kvf_get(kvf_space_t *space, const kvf_block_t *blocks, size_t count,
                                   const kvf_request_options_t *options, kvf_status_t *statuses,
                                   kvf_request_t *request);

/* Blocks of a space under policy FUSE as the store holds them: vectors that many blocks share, each once, and for every plane of every block
 * which vector it is and with what gain. An engine can attend over them without a copy of each block. A plane is K or V of a layer;
 * plane (layer - first_layer) × planes a layer + K|V. Of block b the plane p is
 *
 *   gain × the vector;   K first turned by `turn` tokens: by the layout's RoPE at position `turn`, back if it is negative; all tokens alike
 *
 * rounded to the layout's dtype, as kvf_get rounds it. So q·k of a query is gain × (q turned by -turn)·(row of the vector), and products
 * with a vector serve all blocks that have it with one turn. */
#define KVF_TABLE_NONE UINT32_MAX
typedef struct kvf_table {
    size_t num_blocks;                            /* the keys, in their order */
    uint32_t first_layer, num_layers, num_planes; /* num_planes: of all these layers */
    const uint32_t *numbers; /* [num_planes, num_blocks] of a vector; KVF_TABLE_NONE: the block did not come */
    const float *gains;      /* [num_planes, num_blocks]; of a block that the daemon has not fused yet all 1 */
    const int64_t *turns;    /* [num_planes, num_blocks] tokens; 0 for V, and without RoPE */
    size_t num_vectors;
    const void *const *
        vectors; /* [num_vectors]: [token, head, dim] of the layout's dtype, and aligned for it; to 16 if vector_bytes is */
    size_t vector_bytes;
} kvf_table_t;

/* Reads blocks into a table. Status of each as of kvf_get. `*table` is NULL until the request's completion is taken (kvf_poll, kvf_wait,
 * kvf_wait_request), and `table` must stay until then; afterwards the table is the caller's, whatever the statuses are, to be freed by
 * kvf_table_free. It never changes and needs no client: it may outlive kvf_close, and be read and freed by any thread. Also returns
 * KVF_ERR_UNSUPPORTED: the space has another policy. */
KVF_API_CHECK kvf_status_t kvf_get_table(kvf_space_t *space, const kvf_key_t *keys, size_t count,
                                         const kvf_request_options_t *options, kvf_status_t *statuses,
                                         kvf_table_t **table, kvf_request_t *request);
KVF_API void kvf_table_free(kvf_table_t *table); /* NULL is allowed */

/* Counts how many of `keys`, from the first on, are readable (`completion.matched`). Changes nothing, holds nothing:
 * a get right after may still miss. */
KVF_API_CHECK kvf_status_t kvf_match(kvf_space_t *space, const kvf_key_t *keys, size_t count,
                                     const kvf_request_options_t *options, kvf_request_t *request);

/* Deletes keys. Status of each: KVF_OK or KVF_ERR_NOT_FOUND. Gets in flight still get their bytes. */
KVF_API_CHECK kvf_status_t kvf_delete(kvf_space_t *space, const kvf_key_t *keys, size_t count,
                                      const kvf_request_options_t *options, kvf_status_t *statuses,
                                      kvf_request_t *request);

typedef struct kvf_completion {
    kvf_request_t request;
    void *user;
    kvf_status_t
        status; /* KVF_OK: each key has KVF_OK or KVF_EXISTS. Else what all failed with, if it was one thing; or KVF_PARTIAL */
    size_t matched; /* of kvf_match */
} kvf_completion_t;

/* A file descriptor that is readable while completions wait (poll, epoll, asyncio, uv_poll). Owned by the client. -1 with
 * KVF_PROGRESS_CALLER. */
KVF_API int kvf_client_fd(const kvf_client_t *client);

/* Takes up to `max` completions, without waiting. Returns how many. */
KVF_API size_t kvf_poll(kvf_client_t *client, kvf_completion_t *completions, size_t max);

/* Takes up to `max` completions, waiting up to `timeout_ms` for the first. Returns how many; 0 on timeout. */
KVF_API size_t kvf_wait(kvf_client_t *client, kvf_completion_t *completions, size_t max, uint32_t timeout_ms);

/* Waits until `request` completes, and takes its completion out of the queue. Others stay there. Returns its status; all
 * requests end within their own timeout, so this does. `matched` may be NULL. Each completion can be taken once: afterwards, and
 * for a number that is no request's, KVF_ERR_INVALID. */
KVF_API kvf_status_t kvf_wait_request(kvf_client_t *client, kvf_request_t request, size_t *matched);

#ifdef __cplusplus
}
#endif
#endif

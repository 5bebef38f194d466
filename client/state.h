/* state.h - what libkvfuse knows: the client, its requests and their parts, its connection and memory.
 *
 *   caller's threads                    loop thread (or whoever drives the loop, with KVF_PROGRESS_CALLER)
 *   kvf_put … -> submitted  ----------> live requests -> queue by operation -> parts -> frames
 *   kvf_poll  <- completed  <---------- request ends   <- statuses          <- answers
 *
 * A request is what the caller asked for; a part is one frame of it, within the daemon's limits. A call is a blocking
 * function of the API that runs on the loop.
 * Threads: fields belong to the loop, unless marked.  Locks: `lock` guards what is marked [lock]; it is a leaf.
 * `driving` is held by whoever runs the loop with KVF_PROGRESS_CALLER; it comes before `lock`. */
#ifndef KVF_CLIENT_STATE_H
#define KVF_CLIENT_STATE_H

#include "client/include/kvfuse.h"

#include "fusion/coder/decoded.h"
#include "fusion/layout.h"
#include "fusion/policy.h"
#include "proto/kvfuse.pb-c.h"
#include "proto/memory_wire.h"
#include "proto/record.h"
#include "proto/wire.h"
#include "transport/segment.h"
#include "transport/worker.h"

#include "client/bounce.h"
#include "client/copy.h"
#include "client/job.h"
#include "client/split.h"
#include "client/units.h"

#include <pthread.h>
#include <stdatomic.h>
/* A table that cannot grow leaves the new element out (its hh.tbl is NULL) instead of ending the process. */
#ifndef HASH_NONFATAL_OOM
#define HASH_NONFATAL_OOM 1
#endif
#include <uthash.h>
#include <utlist.h>
#include <uv.h>

enum {
    KVF__BATCH_MAX = 1 << 20,          /* blocks or keys in a request */
    KVF__NETWORK_PART_BYTES = 4 << 20, /* of a frame's data, unless one block is larger */
    KVF__SHARED_PART_BYTES = 8 << 20,  /* of blocks in a frame through shared memory, unless one is larger */
    KVF__BOUNCE_PARTS = 4, /* a part takes at most this fraction of the bounce ring, unless one block is larger */
    KVF__FLIGHT_BYTES = 32 << 20,       /* of blocks under way, of puts and of gets each, unless one is larger */
    KVF__FUSED_FLIGHT_BYTES = 64 << 20, /* the same of gets of fused spaces */
    KVF__TURN_BYTES = 4 << 20,          /* copied or hashed in one turn of the loop */
    KVF__RECEIVE_BYTES_MAX = 1 << 30,   /* of a frame from the daemon */
    KVF__SEGMENTS_MAX = 1024,           /* of the daemon, mapped at a time */
    KVF__AWAKE_NS = 20000,              /* that the loop stays awake after something came */
    KVF__BACKOFF_MIN_MS = 50,
    KVF__BACKOFF_MAX_MS = 2000,
    KVF__REGISTERED_MAX = 1024,
};

typedef struct kvf__part kvf__part_t;
typedef struct kvf__request kvf__request_t;
typedef struct kvf__call kvf__call_t;
typedef struct kvf__lease kvf__lease_t;
typedef struct kvf__link kvf__link_t;
typedef struct kvf__segment kvf__segment_t;
typedef struct kvf__basis kvf__basis_t;
typedef struct kvf__coded kvf__coded_t;
typedef struct kvf__coding kvf__coding_t;
typedef struct kvf__table kvf__table_t;

/* ---- requests ---- */

typedef enum kvf__op { KVF__OP_PUT, KVF__OP_GET, KVF__OP_MATCH, KVF__OP_DELETE, KVF__NUM_OPS } kvf__op_t;

typedef struct kvf__block {
    kvf_key_t key;
    const kvf_piece_t *pieces; /* none of them empty */
    size_t num_pieces;
    /* of a put, as they travel: 0 or empty where they are not known */
    uint64_t position;
    const uint8_t *token_ids; /* little-endian u32 [block_tokens], or NULL */
    kvf_key_t previous;
} kvf__block_t;

/* Blocks of a request. */
typedef struct kvf__range {
    size_t first, count;
} kvf__range_t;

typedef struct kvf__ranges {
    kvf__range_t *list; /* [count] */
    size_t count, room;
} kvf__ranges_t;

/* Blocks of a put that the daemon has no room for: they are tried again when nothing else of the request is left to do. */
typedef struct kvf__held {
    kvf__ranges_t blocks;
    bool is_resting; /* until until_ns; else the others are under way still */
    uint64_t until_ns;
    uint32_t pause_ms;              /* the last */
    uint32_t round;                 /* blocks that are tried next */
    bool came_through, was_refused; /* a block, since the last pause */
} kvf__held_t;

/* One allocation holds the request, its blocks, pieces, token ids and keys. */
struct kvf__request {
    kvf_client_t *client;
    kvf_request_t id;
    void *user;
    kvf__op_t op;
    kvf_space_t *space;
    uint64_t deadline_ns;
    uint32_t first_layer, num_layers;
    uint64_t slice_bytes;             /* of a block: what of it the request moves */
    bool has_token_ids, has_previous; /* of a put: a block of it has them */
    uint32_t hint_bytes;              /* that they take of a body, a key */
    size_t count;
    kvf__block_t *blocks;   /* [count] */
    kvf_status_t *statuses; /* [count] the caller's, or `own_statuses`; KVF_IN_PROGRESS until known; NULL for a match */
    kvf_status_t *own_statuses;
    float *bounds;           /* of a get: [count, 2] the caller's, or NULL */
    kvf__table_t *table;     /* of kvf_get_table: what it brings; NULL: another request */
    kvf_table_t **table_out; /* where it goes when the completion is taken */

    size_t next;         /* first block that was not sent */
    kvf__part_t *parts;  /* that were sent and have not ended */
    kvf__ranges_t again; /* of a put: before `next`, to be sent raw: they could not go coded, or were held back */
    kvf__held_t held;    /* of a put with `awaits_room` */
    size_t matched;
    bool awaits_room;
    bool is_queued;
    bool is_ending;   /* its fate is `end_status`, but UCX still reads the caller's memory */
    bool is_draining; /* its connection is lost, but the daemon may still read the caller's memory */
    kvf_status_t end_status;
    kvf__request_t *live_prev, *live_next;   /* submitted, not completed */
    kvf__request_t *queue_prev, *queue_next; /* of its operation, while is_queued */

    UT_hash_handle hh; /* [lock] by id, until its completion is taken */
    bool is_completed; /* [lock] */
    kvf_status_t status;
    kvf__request_t *prev, *next_done; /* [lock] in `submitted`, then in `completed` */
};

/* One frame that waits for its answer. Without a request or a call nobody waits any more: it keeps its place among the
 * daemon's requests in flight. */
struct kvf__part {
    UT_hash_handle hh; /* by number */
    uint64_t number;
    kvf_frame_type_t type; /* that was sent */
    kvf_client_t *client;
    kvf__request_t *request;
    kvf__call_t *call;
    kvf_space_t *space;  /* of an open */
    size_t first, count; /* blocks of the request */
    uint64_t bytes;      /* counted in client->flight_bytes */
    bool is_sending;     /* UCX may read the caller's memory */
    bool is_answered;
    bool is_abandoned;       /* counted in client->num_abandoned */
    bool is_lent;            /* the daemon reads the caller's memory */
    bool is_shared;          /* a get through shared memory */
    bool is_coded;           /* a get of coded blocks */
    uint32_t space_number;   /* with is_coded or a coding: of the space that was asked */
    kvf__coded_t *coded;     /* of a get: what came and is not decoded yet; owned */
    kvf__coded_t *units_for; /* of GetUnits: for whom; NULL: nobody any more */
    kvf__basis_t *basis;     /* of GetBasis: a reference */
    kvf__coding_t *coding;   /* of a Plan and the Put that follows; owned */
    kvf__chunk_t *chunk;
    kvf__lease_t *lease;
    uint64_t sent_ns;
    kvf__part_t *prev, *next; /* of the request */
};

/* ---- calls ---- */

struct kvf__call {
    void (*start)(kvf_client_t *client,
                  kvf__call_t *call); /* on the loop; again after each reconnect while it has no part */
    uint64_t deadline_ns;
    kvf_status_t status;
    bool is_done; /* [lock] */
    kvf_error_t error;
    bool is_waiting; /* for a connection */
    kvf__part_t *part;
    kvf_space_t *space;
    const char *name; /* of the space to drop */
    void *base;
    kvf_segment_t segment;
    size_t bytes;
    uint64_t round_trip_ns;
    unsigned region; /* that is lent or taken back, or KVF_REGIONS_MAX */
    kvf__call_t *prev, *next;
};

/* ---- space ---- */

struct kvf_space {
    kvf_client_t *client;
    char name[KVF_SPACE_NAME_BYTES_MAX + 1];
    kvf_layout_t *layout;
    kvf_policy_t policy;
    uint64_t layer_bytes, block_bytes;
    uint32_t id;           /* of this connection */
    kvf_status_t status;   /* KVF_OK, or why it is not open: dropped, or the daemon would not open it again */
    bool must_exist;       /* the daemon is not to make it */
    bool is_fused;         /* its blocks may come coded */
    kvf__basis_t *bases;   /* least recently used first */
    uint64_t raw_until_ns; /* before that the daemon is not asked whether it takes coded blocks */
    bool is_dropped;       /* not opened again by a reconnect */
    kvf_space_t *next;
};

/* ---- memory ---- */

typedef struct kvf__region {
    bool is_used;
    bool is_lent;   /* the daemon has it mapped */
    uint32_t asked; /* KVF_MEMORY_LEND or _TAKE_BACK, while it awaits its answer; else 0 */
    kvf_segment_t segment;
    kvf__call_t *call;
} kvf__region_t;

typedef struct kvf__registration {
    void *base;
    ucp_mem_h memory;
    struct kvf__registration *next;
} kvf__registration_t;

/* Of the daemon, mapped for reading. */
struct kvf__segment {
    UT_hash_handle hh;
    uint32_t number;
    kvf_status_t status; /* KVF_IN_PROGRESS, KVF_OK, or why it cannot be mapped */
    const uint8_t *base;
    size_t bytes;
    uint64_t mapping; /* another number for each mapping */
    uint64_t last_used;
};

enum { KVF__BOUNCE_REGION = 0 };

/* ---- client ---- */

typedef enum kvf__state {
    KVF__STATE_DOWN,       /* waits for the next try */
    KVF__STATE_CONNECTING, /* HELLO was sent */
    KVF__STATE_ATTACHING,  /* ATTACH was sent */
    KVF__STATE_LENDING,    /* LEND of each region was sent */
    KVF__STATE_OPENING,    /* OPEN_SPACE of each space was sent */
    KVF__STATE_READY,
    KVF__STATE_CLOSING,  /* UCX has not let go yet */
    KVF__STATE_DRAINING, /* the daemon has not let go of the caller's memory yet */
} kvf__state_t;

struct kvf_client {
    kvf_client_options_t options; /* defaults filled in */
    char address_text[280];
    char name[64];
    char ucx_tls[160];
    char host[64]; /* boot id */
    struct sockaddr_storage address;
    socklen_t address_bytes;

    /* loop */
    uv_loop_t loop;
    uv_async_t wake;
    uv_timer_t state_timer, ping_timer, deadline_timer;
    uv_idle_t work; /* runs while copies or sends wait for the next turn */
    kvf_ucx_t ucx;
    kvf_worker_t *worker;
    kvf_arena_t *in, *out; /* for the frame that came, and the one that is being made */
    pthread_t thread;
    pthread_mutex_t driving;
    bool is_loop_ready;

    /* connection */
    kvf_conn_t *conn;
    kvf__state_t state;
    kvf_status_t fail_status; /* why it is being closed */
    char fail_text[256];      /* of the last failure */
    unsigned backoff_ms, missed;
    bool was_heard, was_ready;
    unsigned num_asked; /* answers that this state waits for */
    uint64_t last_number;
    uint64_t session, max_message_bytes;
    uint32_t max_requests, max_batch, ping_tick_ms;
    uint8_t token[KVF_TOKEN_BYTES];
    bool is_same_host;       /* as the daemon */
    char memory_socket[108]; /* of a daemon on this host, or "" */
    bool is_shared;
    bool no_shared_gets; /* a segment could not be mapped: gets go by network until the next connection */
    kvf__link_t *link;
    kvf__segment_t *segments; /* uthash by number */
    uint64_t segments_clock;

    /* what is under way */
    kvf__request_t *live;
    kvf__request_t *queues[KVF__NUM_OPS];
    unsigned next_queue;
    kvf__part_t *parts;                  /* uthash by number */
    unsigned num_in_flight;              /* of them: put, get, match, delete */
    unsigned num_abandoned;              /* of those: nobody waits for them any more, but no answer has come */
    uint64_t flight_bytes[KVF__NUM_OPS]; /* of blocks in parts that were sent and have not ended */
    kvf__lease_t *leases;                /* that are being copied out of, oldest first */
    kvf__unit_cache_t units;             /* of fused spaces, by the daemon's number of the space */
    kvf_decoded_t *decoded;              /* the same units, decoded [any thread] */
    kvf__coding_t *codings;              /* blocks that are being coded, oldest first */
    kvf__coded_t *codeds;                /* that are not decoded yet, oldest first */
    unsigned num_to_ask;                 /* bases and units that wait until the daemon takes one more request */
    kvf__job_t *jobs;                    /* with KVF_PROGRESS_CALLER: that have not begun, oldest first */
    unsigned num_jobs;                   /* that have not ended */
    uint64_t turn_bytes;
    bool is_cut_short; /* this turn: something waits for the next */
    uint64_t awake_until_ns;
    uint64_t deadline_ns; /* when deadline_timer fires; UINT64_MAX: not */
    kvf__call_t *calls;
    kvf__call_t *connect_call;
    kvf_space_t *spaces;
    kvf__region_t regions[KVF_REGIONS_MAX]; /* number 0 is the bounce ring */
    kvf__bounce_t bounce;
    bool bounce_is_stale; /* a daemon that was lost may still read from it */
    kvf__registration_t *registrations;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a completion came or a call ended */
    atomic_bool is_closing;
    kvf_request_t last_id;        /* [lock] */
    kvf__request_t *submitted;    /* [lock] */
    kvf__call_t *submitted_calls; /* [lock] */
    kvf__request_t *requests;     /* [lock] uthash by id */
    kvf__request_t *completed;    /* [lock] */
    atomic_size_t num_completed;  /* written under the lock */
    unsigned num_waiting;         /* [lock] threads on `changed` */
    int event_fd;
    bool wants_events; /* [lock] somebody asked for event_fd */
    bool is_connected; /* [lock] and what follows: kvf_client_info_t */
    bool shows_shared;
    const char *not_shared_why; /* static */
    uint64_t reconnects;
    struct kvf__text *texts;
    const char *daemon_version;
};

#endif

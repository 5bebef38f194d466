/* session.h - one client's session, for the files that serve it: session.c (life, dispatch), request_put.c, parking.c (puts that
 * wait for memory), request_get.c, request_keys.c, landing.c (copies out of a client's memory), memory_socket.c (shared
 * memory's descriptors).
 * Threads: the session's service alone. */
#ifndef KVF_DAEMON_SESSION_H
#define KVF_DAEMON_SESSION_H

#include "daemon/sent_units.h"
#include "daemon/service.h"
#include "transport/segment.h"

#include "proto/kvfuse.pb-c.h"

#include <inttypes.h>
#define HASH_NONFATAL_OOM 1 /* else uthash ends the process */
#include <uthash.h>
#include <utlist.h>

enum {
    KVF__SWEEP_MS = 100,
    KVF__HELLO_MS = 5000,         /* for the first frame */
    KVF__REFUSED_MS = 500,        /* for a refusal to leave, and to be read */
    KVF__LANDING_SLICE = 1 << 20, /* bytes copied out of clients' memory a loop turn */
    KVF__PINNED_SHARE = 4,        /* a session may hold 1/4 of the host bytes against eviction */
    KVF__IN_FLIGHT_SLACK = 2,     /* the client counts a request as done before our send's completion is seen */
    KVF__ANSWERS_SPARE = 64,      /* answers that may wait for a client beside those of its requests in flight */
};

/* Records that a request holds against eviction until its bytes have left. */
typedef struct kvf_hold {
    kvf_space_t *space; /* referenced */
    size_t count;
    uint64_t bytes;
    kvf_record_t *records[];
} kvf_hold_t;

/* A get through shared memory: the client reads, then releases. */
typedef struct kvf_lease {
    uint64_t request;
    uint64_t deadline_ns;
    kvf_hold_t *hold;
    UT_hash_handle hh;
} kvf_lease_t;

/* A get over the network: UCX reads the records until `done`. */
typedef struct kvf_reply {
    kvf_session_t *session;
    kvf_hold_t *hold;
    uint64_t started_ns;
    struct kvf_reply *prev, *next;
} kvf_reply_t;

typedef struct kvf_region {
    uint32_t id;
    bool is_used, is_returning; /* is_returning: RETURNED is owed when `readers` falls to 0 */
    unsigned readers;           /* landing jobs */
    kvf_segment_t segment;
} kvf_region_t;

typedef struct kvf_landing kvf_landing_t;
typedef struct kvf_parked kvf_parked_t;
typedef struct kvf_parcel kvf_parcel_t;
typedef struct kvf__coded_put kvf_coded_put_t;

/* Stands beside the session, as libuv frees its handle only later. */
typedef struct kvf_memory_link {
    uv_poll_t poll;
    int fd;
    kvf_session_t *session; /* not looked at once the poll was stopped */
} kvf_memory_link_t;

struct kvf_session {
    kvf_service_t *service;
    kvf_conn_t *conn;
    kvf_card_t card;
    kvf_session_t *prev, *next;
    bool is_greeted;              /* HELLO came */
    bool is_refused;              /* no place in the directory: it is told so, then closed */
    uint64_t opened_ns, heard_ns; /* heard_ns: the last frame, or the refusal */
    unsigned in_flight;           /* landings, replies, leases, parked puts */
    uint64_t held_bytes;          /* by replies and leases */
    kvf_lease_t *leases;          /* uthash by request */
    kvf_reply_t *replies;
    kvf_parcel_t *parcels; /* copies on their way to it, the oldest first */
    uint64_t parcel_bytes;
    kvf_space_t **opened; /* [max-spaces] by place, referenced: those that it opened, and no others, are there for it */
    uint64_t seen_drops;  /* kvf_store_num_drops when `opened` was last looked through */
    uint64_t unit_cache_bytes;   /* of the client, as its hello says */
    kvf_sent_units_t *sent;      /* NULL: none were, yet */
    kvf_coded_put_t *coded_puts; /* on their way through the encoders */
    kvf_memory_link_t *link;
    kvf_region_t regions[KVF_REGIONS_MAX];
};

struct kvf_service {
    const kvf_service_shared_t *shared;
    unsigned number;
    kvf_metrics_t *metrics;
    uv_thread_t thread;
    uv_loop_t loop;
    kvf_worker_t *worker;
    kvf_listener_t *listener;
    uv_async_t wake;
    uv_timer_t sweep;
    uv_idle_t land; /* runs while landings wait */
    kvf_landing_t *landings;
    uv_timer_t retry; /* runs while puts are parked */
    kvf_parked_t *parked;
    uint64_t parked_bytes; /* of their frames, staging-bytes at most */
    uint64_t parcel_bytes; /* of all sessions, staging-bytes and a frame at most */
    kvf_session_t *sessions;
    kvf_arena_t *arena;
    bool is_draining;
    uint64_t drain_deadline_ns;
    pthread_mutex_t inbox_lock;
    struct kvf__letter *inbox;
    kvf_service_call_t *calls; /* [inbox_lock] */
};

/* Counts the end of a request that had `keys` keys, `hits` of them found, and took since `started_ns`. */
static inline void kvf__count_request(kvf_service_t *service, kvf_operation_t operation, kvf_status_t status,
                                      size_t keys, size_t hits, uint64_t started_ns) {
    kvf_metrics_finish(service->metrics, operation, status, uv_hrtime() - started_ns);
    kvf_metrics_count(service->metrics, operation, KVF_OPERATION_KEYS, keys);
    kvf_metrics_count(service->metrics, operation, KVF_OPERATION_HITS, hits);
    kvf_metrics_count(service->metrics, operation, KVF_OPERATION_MISSES, keys - hits);
}

/* Counts the statuses [count] that keys are answered with. */
static inline void kvf__count_keys(kvf_service_t *service, const int32_t *statuses, size_t count) {
    size_t well = 0;
    for (size_t i = 0; i < count; i++) {
        if (statuses[i] == KVF_OK)
            well++;
        else
            kvf_metrics_count_keys(service->metrics, (kvf_status_t)statuses[i], 1);
    }
    kvf_metrics_count_keys(service->metrics, KVF_OK, well);
}

/* ---- session.c ---- */
extern const kvf_worker_callbacks_t kvf__session_callbacks;
void kvf__session_open(kvf_service_t *service, ucp_conn_request_h request);
kvf_session_t *kvf__session_find(kvf_service_t *service, uint64_t number);
/* Ends what has outlived its time; called every KVF__SWEEP_MS. */
void kvf__session_sweep(kvf_session_t *session, uint64_t now_ns);

/* Sends an answer. A failed send closes the session, and so do answers that pile up because the client takes none. */
void kvf__session_answer(kvf_session_t *session, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body);
/* Answers put, get, match or delete `request` with a failure as a whole, and counts it. */
void kvf__session_fail(kvf_session_t *session, kvf_frame_type_t asked, uint64_t request, kvf_status_t status,
                       const char *text);

/* Takes a place among the session's requests in flight; false (and the failure is answered) when there is none. */
bool kvf__session_begin(kvf_session_t *session, kvf_frame_type_t asked, uint64_t request);
void kvf__session_end(kvf_session_t *session);

/* The keys of a request, checked: count 1…max_batch, each 1…64 bytes. NULL (and the failure is answered) if not. Lives in the
 * service's arena until the next frame. */
const kvf_key_t *kvf__session_take_keys(kvf_session_t *session, kvf_frame_type_t asked, uint64_t request, size_t count,
                                        const ProtobufCBinaryData *keys);
/* The space `id` if the session has opened it, else NULL. */
static inline kvf_space_t *kvf__session_peek_space(const kvf_session_t *session, uint32_t id) {
    kvf_space_t *space = session->opened[id % session->service->shared->options->max_spaces];
    return space && kvf_space_id(space) == id ? space : NULL;
}
/* Makes `space` one that the session has opened. Consumes the reference. */
void kvf__session_add_space(kvf_session_t *session, kvf_space_t *space);
/* Lets go of those among the opened spaces that were dropped. */
void kvf__session_forget_dropped(kvf_session_t *session);
/* The space `id` that the session has opened, for any request that works on one. NULL (and the failure is answered): it has not
 * opened it, it was dropped, or the daemon is shutting down. */
kvf_space_t *kvf__session_take_space(kvf_session_t *session, kvf_frame_type_t asked, uint64_t request, uint32_t id);

/* ---- request_*.c: each serves one frame; `payload` is [head->payload_bytes] ---- */
void kvf__serve_open_space(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__OpenSpace *ask);
void kvf__serve_drop_space(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__DropSpace *ask);
void kvf__serve_put(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask, const uint8_t *payload);
void kvf__serve_get(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Get *ask);
void kvf__serve_release(kvf_session_t *session, const kvf_frame_head_t *head);
void kvf__serve_match(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Match *ask);
void kvf__serve_delete(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Delete *ask);

/* ---- parking.c ---- */
/* Keeps a put whose space awaits memory, to be served when that is there. False: nothing was done, it is to be served now. */
bool kvf__parking_put(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask,
                      const uint8_t *payload);
/* Gives up the session's. */
void kvf__parking_cancel(kvf_session_t *session);

/* ---- request_put.c ---- */
/* Serves a put without parking it. */
void kvf__put_now(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask, const uint8_t *payload);
/* Makes the records [count] of one put that landed (those that are not NULL) readable, in the order of its keys. Consumes them;
 * `statuses` says what became of each. */
void kvf__session_commit(kvf_space_t *space, kvf_record_t **records, int32_t *statuses, size_t count);
/* Answers put or delete with a status a key, and counts those. Returns that of the whole: KVF_OK or KVF_PARTIAL. */
kvf_status_t kvf__session_answer_keys(kvf_session_t *session, kvf_frame_type_t type, uint64_t request, size_t count,
                                      int32_t *statuses);
/* Keeps with a reserved record what put says of block `i` beside its bytes. */
void kvf__put_hint(kvf_space_t *space, kvf_record_t *record, const Kvf__Put *ask, size_t i);
/* Answers a put, and counts it. `block_bytes` [count]: what each block took of the frame; NULL: `each_bytes`. */
void kvf__session_end_put(kvf_session_t *session, uint64_t request, size_t count, int32_t *statuses,
                          const uint64_t *block_bytes, uint64_t each_bytes, uint64_t started_ns);

/* ---- request_get.c ---- */
/* Lets go of a lease's records. */
void kvf__lease_drop(kvf_session_t *session, kvf_lease_t *lease);
/* Answers a get with bytes of the records that `hold` keeps until they have left. Consumes the hold. */
void kvf__reply_with_hold(kvf_session_t *session, uint64_t request, kvf_hold_t *hold, const Kvf__GetReply *body,
                          const struct iovec *pieces, size_t num_pieces);
/* Gives up, for want of memory, a get that holds records already, and what was to keep them (NULL: nothing). */
void kvf__hold_fail(kvf_session_t *session, uint64_t request, kvf_hold_t *hold, void *keeper);

/* ---- request_coded.c: fused spaces ---- */
/* Answers Get.coded; `body` has the statuses. Consumes the hold. */
void kvf__reply_coded(kvf_session_t *session, uint64_t request, const Kvf__Get *ask, kvf_hold_t *hold,
                      Kvf__GetReply *body);
void kvf__serve_get_units(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__GetUnits *ask);
void kvf__serve_get_basis(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__GetBasis *ask);

/* ---- parcel.c: answers whose payload is a copy ---- */
/* kvf__session_begin for a request that is answered so: false (and the failure is answered) also while the session, or its thread, has
 * as many bytes of them on their way as it may. */
bool kvf__parcel_begin(kvf_session_t *session, kvf_frame_type_t asked, uint64_t request);
/* Sends `body` with `bytes` [num_bytes] behind it, frees those when they have left, and ends the request that was begun. */
void kvf__parcel_send(kvf_session_t *session, kvf_frame_type_t type, uint64_t request, const ProtobufCMessage *body,
                      void *bytes, size_t num_bytes);
/* Since when the oldest is on its way; UINT64_MAX: there is none. */
uint64_t kvf__parcel_oldest_ns(const kvf_session_t *session);

/* ---- request_plan.c ---- */
void kvf__serve_plan(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Plan *ask);
/* A put of blocks that the client has coded; answers when all were looked at. */
void kvf__put_coded(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask, kvf_space_t *space,
                    const kvf_key_t *keys, const uint8_t *payload);
/* Nobody waits for the session's any more. */
void kvf__coded_puts_cancel(kvf_session_t *session);

/* ---- landing.c ---- */
/* Queues the copy of a put whose bytes lie in the session's regions; answers when done. Takes everything it needs out of `ask`. */
void kvf__landing_start(kvf_session_t *session, const kvf_frame_head_t *head, const Kvf__Put *ask, kvf_space_t *space,
                        const kvf_key_t *keys);
/* Gives up the session's landings. */
void kvf__landing_cancel(kvf_session_t *session);

/* ---- memory_socket.c ---- */
/* Takes over the socket `fd` of the session. */
void kvf__memory_attach(kvf_session_t *session, int fd);
/* Closes it and unmaps the regions. */
void kvf__memory_detach(kvf_session_t *session);
kvf_region_t *kvf__memory_find_region(kvf_session_t *session, uint32_t id);
/* A landing that reads `region` has ended. */
void kvf__memory_end_reading(kvf_session_t *session, kvf_region_t *region);

#endif

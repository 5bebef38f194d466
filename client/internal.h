/* internal.h - what the files of libkvfuse call of each other, file by file.
 * Threads: the loop, unless marked [any].  Locks: see state.h. */
#ifndef KVF_CLIENT_INTERNAL_H
#define KVF_CLIENT_INTERNAL_H

#include "client/state.h"

static inline uint64_t kvf__now_ns(void) { return uv_hrtime(); }
static inline uint64_t kvf__after_ms(uint64_t now_ns, uint64_t ms) { return now_ns + ms * UINT64_C(1000000); }

/* ---- loop.c ---- */
kvf_status_t kvf__loop_open(kvf_client_t *client, kvf_error_t *error);
/* Stops the thread, ends everything with KVF_ERR_CANCELED, closes what kvf__loop_open made. [any] */
void kvf__loop_close(kvf_client_t *client);
/* Makes the loop look at what was submitted. [any] */
void kvf__loop_wake(kvf_client_t *client);
/* With KVF_PROGRESS_CALLER: one turn of the loop, unless another thread is at it. [any] */
void kvf__loop_drive(kvf_client_t *client);
/* Makes the loop's next turn come at once, with work in it. */
void kvf__loop_keep_working(kvf_client_t *client);
/* Something came: more may follow soon. */
void kvf__loop_expect_more(kvf_client_t *client);
/* Makes sure that `deadline_ns` is looked at in time. */
void kvf__loop_watch(kvf_client_t *client, uint64_t deadline_ns);

/* ---- call.c ---- */
/* Runs `call` on the loop and waits for its end, at most until its deadline. Returns its status. [any] */
kvf_status_t kvf__call_run(kvf_client_t *client, kvf__call_t *call);
void kvf__call_end(kvf_client_t *client, kvf__call_t *call, kvf_status_t status, const char *text);
/* Takes in what was submitted, and starts it. */
void kvf__calls_take(kvf_client_t *client);
/* The connection is ready: starts those that wait for it. */
void kvf__calls_resume(kvf_client_t *client);
/* The connection is lost: those that can be asked again wait for the next, the others end. */
void kvf__calls_lose(kvf_client_t *client, kvf_status_t why);
/* Ends those whose time is over (or all of them); returns the earliest deadline of the others. */
uint64_t kvf__calls_expire(kvf_client_t *client, uint64_t now_ns);
void kvf__calls_cancel(kvf_client_t *client);

/* ---- connection.c ---- */
extern const kvf_worker_callbacks_t kvf__connection_callbacks;
void kvf__connection_start(kvf_client_t *client);
/* Gives the connection up; the text says why, for people. */
void kvf__connection_fail(kvf_client_t *client, kvf_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Goes on to the next state: from HELLO answered to ready. */
void kvf__connection_advance(kvf_client_t *client);
/* There is no shared memory to be had: fails if it was asked for, else remembers `why` (static). Returns whether the
 * connection goes on. */
bool kvf__connection_do_without(kvf_client_t *client, const char *why);
/* The daemon has let go of the caller's memory. */
void kvf__connection_drained(kvf_client_t *client);
void kvf__connection_start_timers(kvf_client_t *client);
/* Sends one frame of ours without a payload; a failure closes the connection. */
void kvf__connection_say(kvf_client_t *client, kvf_frame_type_t type, uint64_t number, const ProtobufCMessage *body);

/* ---- hello.c ---- */
void kvf__hello_send(kvf_client_t *client);
void kvf__hello_answered(kvf_client_t *client, const kvf_frame_head_t *head, const uint8_t *data);
void kvf__hello_read_boot_id(char *text, size_t bytes);
void kvf__hello_forget(kvf_client_t *client);

/* ---- part.c ---- */
/* Whether the daemon takes one more request. */
static inline bool kvf__may_ask(const kvf_client_t *client) {
    return client->state == KVF__STATE_READY && client->num_in_flight < client->max_requests;
}
/* A new part with a number, in the table; of the next `count` blocks of `request` if it is not NULL, with `bytes` of
 * blocks. NULL: out of memory. */
kvf__part_t *kvf__part_create(kvf_client_t *client, kvf_frame_type_t type, kvf__request_t *request, size_t count,
                              uint64_t bytes);
/* Takes back a part that could not be sent. */
void kvf__part_discard(kvf__part_t *part);
/* An answer came for `head->request`. */
void kvf__part_answered(kvf_client_t *client, const kvf_frame_head_t *head, const uint8_t *data);
/* What it asked for is known: sets the statuses of its blocks that are not known yet (KVF_IN_PROGRESS: leaves them, they are sent again),
 * and ends it (its request too, if it was the last part) as soon as UCX has let go. */
void kvf__part_end(kvf__part_t *part, kvf_status_t status);
/* kvf_sent_fn of sends that read the caller's memory; `arg` is the part. */
void kvf__part_on_sent(void *arg, kvf_status_t status);
/* Nobody waits for it any more: it leaves its request. */
void kvf__part_abandon(kvf__part_t *part);
/* The same of one that has no request. */
void kvf__part_forsake(kvf__part_t *part);
/* It goes on, after that, with another frame of `type`. False: out of memory. */
bool kvf__part_renew(kvf__part_t *part, kvf_frame_type_t type);
/* Its answer came, which takes a while to be dealt with: the daemon counts it no more. */
void kvf__part_hold(kvf__part_t *part);
/* Statuses that a daemon may give for one key. */
bool kvf__part_check_statuses(const kvf__part_t *part, size_t count, const int32_t *statuses);
/* The daemon said what makes no sense: ends the part and the connection with KVF_ERR_PROTOCOL. */
void kvf__part_refuse(kvf__part_t *part, const char *why);

/* ---- request.c, queue.c ---- */
/* Takes in what was submitted, and sends what can be sent. */
void kvf__requests_take(kvf_client_t *client);
void kvf__queue_add(kvf__request_t *request, bool first);
/* Sends what is queued, as far as limits and this turn allow. */
void kvf__queue_pump(kvf_client_t *client);
/* Whether `bytes` more of blocks may be under way. */
bool kvf__queue_may_fly(const kvf__request_t *request, uint64_t bytes);
/* Whether this turn has work for `bytes` more; if not, the next one comes at once. */
bool kvf__queue_take_turn(kvf_client_t *client, uint64_t bytes);
/* Ends `request` with `status` for all that is not known yet, or as soon as nobody reads the caller's memory. */
void kvf__request_end(kvf__request_t *request, kvf_status_t status);
/* Completes it if nothing of it is left to do. */
void kvf__request_settle(kvf__request_t *request);
uint64_t kvf__requests_expire(kvf_client_t *client, uint64_t now_ns);
/* The connection is gone: ends requests that were sent. Returns whether some wait for the daemon to let go of memory.
 */
bool kvf__requests_lose(kvf_client_t *client, kvf_status_t why);
void kvf__requests_drained(kvf_client_t *client, kvf_status_t why);
void kvf__requests_cancel(kvf_client_t *client);

/* ---- held.c ---- */
/* What is told of a block is its status, or it is sent again later and not known till then. */
void kvf__held_told(kvf__request_t *request, size_t block, kvf_status_t status);
/* Nothing else of the request is left to do. Returns whether it goes on later; if not, what was held is KVF_ERR_BUSY. */
bool kvf__held_rest(kvf__request_t *request);
/* Has some blocks sent if their pause is over. When to look again; UINT64_MAX: nothing rests. */
uint64_t kvf__held_retry(kvf__request_t *request, uint64_t now_ns);
/* The request ends otherwise. */
void kvf__held_forget(kvf__request_t *request);

/* ---- completion.c ---- */
/* Hands `request` over to kvf_poll. */
void kvf__completion_post(kvf__request_t *request, kvf_status_t status);
/* Frees every request, taken or not: the loop has ended. [any] */
void kvf__completion_free_all(kvf_client_t *client);

/* ---- put.c, get.c, keys.c: each sends the next part of a request ---- */
typedef enum kvf__sent {
    KVF__SENT,    /* or a block ended without being sent: request->next has moved */
    KVF__BLOCKED, /* by a limit, until an answer comes or the next turn */
    KVF__LOST,    /* the connection is going */
} kvf__sent_t;
kvf__sent_t kvf__put_send(kvf__request_t *request);
kvf__sent_t kvf__get_send(kvf__request_t *request);
kvf__sent_t kvf__keys_send(kvf__request_t *request);
/* Answers, unpacked. `payload` is [payload_bytes]. */
void kvf__get_answered(kvf__part_t *part, const Kvf__GetReply *reply, const uint8_t *payload, uint64_t payload_bytes);
/* Copies a raw block to its pieces: KVF_OK or KVF_ERR_CORRUPT. `checksums` [num_layers] */
kvf_status_t kvf__get_copy_block(const kvf__request_t *request, size_t block, const uint8_t *bytes,
                                 const uint64_t *checksums);
void kvf__keys_answered(kvf__part_t *part, const Kvf__KeysReply *reply);
void kvf__match_answered(kvf__part_t *part, const Kvf__MatchReply *reply);
static inline ProtobufCBinaryData kvf__key_pack(const kvf_key_t *key) {
    return (ProtobufCBinaryData){.len = key->num_bytes, .data = (uint8_t *)(uintptr_t)key->bytes};
}
/* The keys of `count` blocks from `first` on, in the arena `out`; NULL: out of memory. */
ProtobufCBinaryData *kvf__keys_pack(kvf__request_t *request, size_t first, size_t count);
/* How `part` fared that was handed to kvf_conn_send: KVF__SENT, or it is taken back. */
kvf__sent_t kvf__part_launched(kvf__part_t *part, kvf_status_t status);
/* Sends the block once more, raw. Its status is not known; out of memory it is that. */
void kvf__request_again(kvf__request_t *request, size_t block);
/* False: out of memory. */
bool kvf__ranges_add(kvf__ranges_t *ranges, size_t first, size_t count);
/* Gives all their blocks this status. */
void kvf__ranges_fail(const kvf__ranges_t *ranges, kvf_status_t *statuses, kvf_status_t status);
/* Sets the status of one block that will not be sent. */
kvf__sent_t kvf__request_skip(kvf__request_t *request, kvf_status_t status);

/* ---- lease.c: gets through shared memory ---- */
void kvf__lease_start(kvf__part_t *part, const Kvf__GetReply *reply);
/* Lets go: tells the daemon, forgets the copy. */
void kvf__lease_release(kvf__part_t *part);
/* Copies for a turn. Returns whether more could be done at once. */
bool kvf__leases_work(kvf_client_t *client);
/* Frees `part`'s lease without telling the daemon. */
void kvf__lease_drop(kvf__part_t *part);

/* ---- segments.c ---- */
/* The segment `number`, which is asked for if it is not known; NULL: out of memory. */
kvf__segment_t *kvf__segment_get(kvf_client_t *client, uint32_t number);
/* The daemon's answer; consumes `fd`. */
void kvf__segment_answered(kvf_client_t *client, const kvf_memory_message_t *message, int fd);
void kvf__segments_forget(kvf_client_t *client);

/* ---- link.c: the memory socket ---- */
kvf_status_t kvf__link_open(kvf_client_t *client, const char **why);
void kvf__link_send(kvf_client_t *client, kvf_memory_type_t type, uint32_t id, uint64_t bytes, int fd);
/* Tells the daemon that we go; kvf__connection_drained is called when it has let go. */
void kvf__link_drain(kvf_client_t *client);
void kvf__link_close(kvf_client_t *client);

/* ---- memory.c ---- */
/* Lends all regions, the bounce ring too. Returns how many answers will come. */
unsigned kvf__memory_lend_all(kvf_client_t *client);
/* LENT or RETURNED. */
bool kvf__memory_answered(kvf_client_t *client, const kvf_memory_message_t *message);
/* The connection is gone: nothing is lent. */
void kvf__memory_lose(kvf_client_t *client);
/* The region that holds [base, base + bytes) and is lent, or KVF_REGIONS_MAX. */
unsigned kvf__memory_find(const kvf_client_t *client, const void *base, size_t bytes);
void kvf__memory_free_all(kvf_client_t *client);
void kvf__memory_unregister_all(kvf_client_t *client);

/* ---- space.c ---- */
/* Opens all spaces again. Returns how many answers will come. */
unsigned kvf__spaces_open_all(kvf_client_t *client);
void kvf__space_answered(kvf__part_t *part, const Kvf__OpenSpaceReply *reply);
void kvf__space_drop_answered(kvf__part_t *part, const Kvf__DropSpaceReply *reply);
/* An open or a drop that failed as a whole. */
void kvf__space_refused(kvf__part_t *part, kvf_status_t status, const char *text);
void kvf__space_destroy(kvf_space_t *space);

#endif

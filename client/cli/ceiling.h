/* ceiling.h - what this machine could do at best: the figures that those of the store are held against.
 *
 * A ceiling moves batches of blocks and does nothing else: no keys, no index, no coding. Each of them reads from a set
 * and writes into a set of `set_bytes`, in an order that leaves no block hot, and afterwards checks every byte that
 * arrived.
 *
 *   memcpy       one thread copies the blocks of a batch
 *   ucx_am_tcp   two processes on the loopback device; get: small request, the payload comes back in active messages
 * and is copied to its place; put: the payload goes in active messages, is copied to its place and acknowledged
 *   ucx_am_shm   the same through shared memory
 *   ucx_rma_shm  get: small request and answer, then the client reads the server's memory; put: the client writes
 * there, flushes, and a small message is acknowledged ucx_rma_tcp  the same over the loopback device (UCX emulates it
 * in software) redis_unix   SET and GET of the same values on a running Redis, by its Unix socket redis_tcp    the same
 * by TCP
 *
 * Threads: the caller's. The UCX ceilings fork: call them before the process starts a thread or opens UCX. */
#ifndef KVF_CLIENT_CLI_CEILING_H
#define KVF_CLIENT_CLI_CEILING_H

#include "proto/status.h"

#include <stddef.h>
#include <stdint.h>

enum {
    KVF_CEILING_MAX_BATCH = 64,
    KVF_CEILING_MAX_DEPTH = 64,
    KVF_CEILING_NOTE_BYTES = 192,
};

typedef enum kvf_ceiling_op { KVF_CEILING_GET, KVF_CEILING_PUT } kvf_ceiling_op_t;

/* What is measured. Members that are 0 take the default in brackets; op, block_bytes, batch_blocks, depth and seconds
 * are needed. */
typedef struct kvf_ceiling_task {
    kvf_ceiling_op_t op;     /* memcpy: no difference */
    size_t block_bytes;      /* a multiple of 8, 64 B to 64 MiB */
    unsigned batch_blocks;   /* blocks a request, 1..KVF_CEILING_MAX_BATCH */
    unsigned depth;          /* requests in flight, 1..KVF_CEILING_MAX_DEPTH; memcpy: no difference */
    double seconds;          /* measured time, > 0, at most 3600; warming up and trials add about as much */
    double deadline_seconds; /* the call fails with KVF_ERR_TIMEOUT after about this time [2 * seconds + 30] */
    size_t set_bytes;        /* each of the two sets; holds at least depth requests, at most 16 GiB [512 MiB] */
    size_t message_bytes;    /* ucx_am_*: payload of one active message [the best of several, tried first] */
    const char *address; /* redis_*: Unix socket's path, or HOST:PORT; its keys "kvfuse-ceiling:*" are overwritten */
} kvf_ceiling_task_t;

typedef struct kvf_ceiling_result {
    double gbps;   /* 1e9 bytes of payload a second */
    double p50_us; /* of one batch, from its start to its last byte in place (put: to its acknowledgement) */
    double p99_us;
    double p999_us;
    uint64_t batches;                  /* that were measured */
    uint64_t checked_blocks;           /* that arrived and had the right bytes: all that were touched */
    char note[KVF_CEILING_NOTE_BYTES]; /* which mechanism won; after a failure what was wrong */
} kvf_ceiling_result_t;

/* Name of ceiling `index` in the order above, NULL past the last. Static. [any thread] */
const char *kvf_ceiling_name(unsigned index);

/* Measures ceiling `name`. Blocks. Leaves no process, file or memory behind.
 * KVF_ERR_INVALID: unknown name or a member out of its range; KVF_ERR_UNSUPPORTED: built without hiredis, or *_shm
 * where UCX finds no shared memory; KVF_ERR_UNREACHABLE: no Redis at the address; KVF_ERR_DISCONNECTED: a process or
 * Redis died; KVF_ERR_TIMEOUT; KVF_ERR_CORRUPT: a byte was wrong; KVF_ERR_TRANSPORT: UCX failed; KVF_ERR_PROTOCOL:
 * Redis gave another reply (say its memory is full). result is always written: zeros and a note after a failure. */
kvf_status_t kvf_ceiling_run(const char *name, const kvf_ceiling_task_t *task,
                             kvf_ceiling_result_t *result) KVF_MUST_CHECK;

/* A Redis of our own, run by tests/bench/redis.sh: it dies with this process or at kvf_ceiling_redis_stop. */
typedef struct kvf_ceiling_redis {
    int pid;        /* of the script */
    int control_fd; /* the script stops the server when this is closed */
    char unix_path[108];
    char tcp_address[64]; /* HOST:PORT */
} kvf_ceiling_redis_t;

/* Starts `script` and waits until its server answers, for at most 15 s. KVF_ERR_UNREACHABLE: it did not start (the
 * script says why on stderr, e.g. no redis-server in PATH); KVF_ERR_TIMEOUT; KVF_ERR_IO. Only on success must *redis be
 * stopped. */
kvf_status_t kvf_ceiling_redis_start(const char *script, kvf_ceiling_redis_t *redis) KVF_MUST_CHECK;
/* Stops the server and waits until it is gone. */
void kvf_ceiling_redis_stop(kvf_ceiling_redis_t *redis);

#endif

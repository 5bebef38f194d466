/* fake_internal.h - what fake_daemon.c and fake_memory.c share. */
#ifndef KVF_FAKE_INTERNAL_H
#define KVF_FAKE_INTERNAL_H

#include "fake_daemon.h"

#include <pthread.h>
#include <uthash.h>

enum { FAKE_SEGMENT_BYTES = 64 << 20, FAKE_SESSION = 42 };

typedef struct fake_block {
    UT_hash_handle hh;
    uint8_t key[KVF_KEY_BYTES_MAX];
    unsigned key_bytes;
    size_t offset; /* of its record in the segment */
} fake_block_t;

typedef struct fake_session {
    fake_daemon_t *fake;
    kvf_conn_t *conn;
} fake_session_t;

/* Stands apart, as libuv frees its handle only later. */
typedef struct fake_link {
    uv_poll_t poll;
    fake_daemon_t *fake;
    int fd;
} fake_link_t;

struct fake_daemon {
    fake_options_t options;
    pthread_t thread;
    uv_loop_t loop;
    uv_async_t stop;
    kvf_ucx_t ucx;
    kvf_worker_t *worker;
    kvf_listener_t *listener;
    fake_session_t *session; /* the newest; NULL: none, or it has ended */
    kvf_arena_t *arena;
    char address[64];
    atomic_uint counts[KVF_FRAME_TYPE_END], sessions, ended;

    uint32_t layers;
    uint64_t layer_bytes;
    kvf_segment_t segment; /* both the store of the network and what is lent */
    size_t segment_used;
    uint64_t generation;
    fake_block_t *blocks;

    char socket_path[108];
    int door; /* -1: none */
    uv_poll_t door_poll;
    fake_link_t *link; /* the newest; NULL: none */
    kvf_segment_t regions[KVF_REGIONS_MAX];
};

kvf_record_head_t *fake_record(fake_daemon_t *fake, size_t offset);
uint8_t *fake_data(fake_daemon_t *fake, size_t offset);
fake_block_t *fake_find(fake_daemon_t *fake, const ProtobufCBinaryData *key);
/* A new record, its head written; the bytes are the caller's to write, and then the checksums by fake_seal. */
fake_block_t *fake_add(fake_daemon_t *fake, const ProtobufCBinaryData *key);
void fake_seal(fake_daemon_t *fake, fake_block_t *block);

void fake_memory_open(fake_daemon_t *fake);
void fake_memory_close(fake_daemon_t *fake);
void fake_put_shared(fake_daemon_t *fake, const Kvf__Put *put, int32_t *statuses);

#endif

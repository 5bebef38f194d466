/* directory.h - who is connected: one card a session, for admins and for the memory socket's handshake.
 * Threads: [any thread].  Locks: one mutex, a leaf. Counts on a card are relaxed atomics of its session's thread. */
#ifndef KVF_DAEMON_DIRECTORY_H
#define KVF_DAEMON_DIRECTORY_H

#include "daemon/text.h"
#include "proto/wire.h"

#include <stdatomic.h>
#include <stdbool.h>

enum { KVF_CLIENT_NAME_BYTES = 64 };

typedef struct kvf_card {
    uint64_t session;
    unsigned service;
    uint8_t token[KVF_TOKEN_BYTES];
    char name[KVF_CLIENT_NAME_BYTES]; /* written under the directory's lock */
    uint32_t pid;
    uint64_t since_ns;
    atomic_bool is_shared;
    _Atomic uint64_t requests, in_flight, bytes_in, bytes_out;
    struct kvf_card *prev, *next;
} kvf_card_t;

typedef struct kvf_directory kvf_directory_t;

/* Connections beside max_sessions that may be open at once: those that have not said hello, and those that are told that there
 * is no place. */
enum { KVF_DIRECTORY_GUESTS_MAX = 32 };

kvf_directory_t *kvf_directory_create(unsigned max_sessions); /* NULL: out of memory */
void kvf_directory_destroy(kvf_directory_t *directory);

/* Takes a place for a connection, whatever it will say; false: max_sessions and KVF_DIRECTORY_GUESTS_MAX are open. */
bool kvf_directory_enter(kvf_directory_t *directory);
void kvf_directory_leave(kvf_directory_t *directory);

/* Adds a session of `service`: draws its number and its token into `card` (the caller's; stays put until removed).
 * KVF_ERR_BUSY: max_sessions are here. */
kvf_status_t kvf_directory_add(kvf_directory_t *directory, kvf_card_t *card, unsigned service) KVF_MUST_CHECK;
/* Writes who the client says it is. */
void kvf_directory_introduce(kvf_directory_t *directory, kvf_card_t *card, const char *name, uint32_t pid);
void kvf_directory_remove(kvf_directory_t *directory, kvf_card_t *card);

/* Which service holds session `session`, if `token` is its token. Compares in constant time. */
bool kvf_directory_check(kvf_directory_t *directory, uint64_t session, const uint8_t token[KVF_TOKEN_BYTES],
                         unsigned *service);
/* The `clients` command: a line each. */
void kvf_directory_print(kvf_directory_t *directory, kvf_text_t *text);

#endif

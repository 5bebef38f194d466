/* door.h - the memory socket's entrance: takes clients of this host, checks the token that their session was given, and
 * hands the socket to the session's service. Has a thread of its own, so that who knocks here delays nobody's data.
 * Threads: create and destroy by one thread.  Locks: none. */
#ifndef KVF_DAEMON_DOOR_H
#define KVF_DAEMON_DOOR_H

#include "daemon/directory.h"
#include "daemon/service.h"

typedef struct kvf_door kvf_door_t;

/* Listens at `path` (the file gets `mode`). `services` [count] is borrowed. Fails with KVF_ERR_ADDRESS_IN_USE, … */
kvf_status_t kvf_door_create(const char *path, uint32_t mode, kvf_directory_t *directory,
                             kvf_service_t *const *services, kvf_door_t **door) KVF_MUST_CHECK;
/* Stops, and removes the socket's file. NULL is allowed. */
void kvf_door_destroy(kvf_door_t *door);

#endif

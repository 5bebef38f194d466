/* status.h - the one status type of kvfuse: enum, text and wire value from one table.
 *
 * 0 is done, > 0 is in progress or partial, < 0 failed. Failures come in ranges: request (-1..-99), connection
 * (-100..-199), node (-200..-299). The numbers are the wire values: never reuse one.
 * The public header client/include/kvfuse.h carries the same table; tests/unit/client checks that they agree. */
#ifndef KVF_PROTO_STATUS_H
#define KVF_PROTO_STATUS_H

#include <stdbool.h>
#include <stdint.h>

/* X(name, value, text) */
#define KVF_STATUS_TABLE(X)                                                                                            \
    X(OK, 0, "ok")                                                                                                     \
    X(IN_PROGRESS, 1, "in progress")                                                                                   \
    X(EXISTS, 2, "already stored")                                                                                     \
    X(PARTIAL, 3, "some keys failed, see the status of each")                                                          \
    /* request */                                                                                                      \
    X(ERR_INVALID, -1, "invalid argument")                                                                             \
    X(ERR_NOT_FOUND, -2, "not found")                                                                                  \
    X(ERR_LAYOUT, -3, "layout differs from the space's")                                                               \
    X(ERR_POLICY, -4, "policy differs from the space's or is not supported")                                           \
    X(ERR_TOO_LARGE, -5, "larger than a limit")                                                                        \
    X(ERR_BUSY, -6, "a budget is used up, try again")                                                                  \
    X(ERR_NO_SPACE, -7, "no room and nothing to evict")                                                                \
    X(ERR_CORRUPT, -8, "checksum mismatch")                                                                            \
    X(ERR_TIMEOUT, -9, "timed out")                                                                                    \
    X(ERR_CANCELED, -10, "canceled")                                                                                   \
    X(ERR_UNSUPPORTED, -11, "not supported")                                                                           \
    /* connection */                                                                                                   \
    X(ERR_UNREACHABLE, -100, "peer cannot be reached")                                                                 \
    X(ERR_DISCONNECTED, -101, "connection lost")                                                                       \
    X(ERR_PROTOCOL, -102, "protocol violation")                                                                        \
    X(ERR_VERSION, -103, "peer speaks another version")                                                                \
    X(ERR_ADDRESS_IN_USE, -104, "address is already in use")                                                           \
    X(ERR_ADDRESS, -105, "address cannot be resolved or bound")                                                        \
    /* node */                                                                                                         \
    X(ERR_NO_MEMORY, -200, "out of memory")                                                                            \
    X(ERR_IO, -201, "input/output error")                                                                              \
    X(ERR_TRANSPORT, -202, "transport error")                                                                          \
    X(ERR_INTERNAL, -203, "internal error")                                                                            \
    X(ERR_SHUTDOWN, -204, "shutting down")

#define KVF_EXPORTED __attribute__((visibility("default"))) /* what libkvfuse exports; its map has the last word */

#ifndef KVFUSE_H /* the public header declares the same enum for users */
typedef enum kvf_status {
#define KVF_STATUS_ENUM(name, value, text) KVF_##name = (value),
    KVF_STATUS_TABLE(KVF_STATUS_ENUM)
#undef KVF_STATUS_ENUM
} kvf_status_t;

/* Text of `status` for people, e.g. "not found"; "unknown status" for a number outside the table. Static. [any thread] */
KVF_EXPORTED const char *kvf_status_text(kvf_status_t status);
/* Name of `status` as in the enum, e.g. "KVF_ERR_NOT_FOUND"; "KVF_ERR_UNKNOWN" outside the table. Static. [any thread] */
KVF_EXPORTED const char *kvf_status_name(kvf_status_t status);
#endif

/* Whether `value`, as it came over a wire, is a number of the table. */
bool kvf_status_is_known(int64_t value);
/* Translates an errno (positive). 0 is KVF_OK. Unknown ones are KVF_ERR_IO. */
kvf_status_t kvf_status_from_errno(int error);
/* Index of `status` in the table, 0..KVF_STATUS_COUNT-1, for counters by status; that of ERR_INTERNAL if unknown. */
unsigned kvf_status_index(kvf_status_t status);
/* The status at `index` of the table, the inverse of the above. */
kvf_status_t kvf_status_at(unsigned index);

#define KVF_STATUS_COUNT_ONE(name, value, text) +1
enum { KVF_STATUS_COUNT = 0 KVF_STATUS_TABLE(KVF_STATUS_COUNT_ONE) };

#define KVF_MUST_CHECK __attribute__((warn_unused_result))

#endif

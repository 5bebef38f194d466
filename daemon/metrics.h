/* metrics.h - counters, gauges and latencies of the daemon, from one table. To add one, add a row.
 *
 * Every thread that counts has an instance of its own; a reader sums them. A gauge may be raised by one thread and
 * lowered by another: the sum is right (it is shown as 0 in the moment in which it would be below). Threads: counting
 * by the owner of the instance (atomics, so any other works too, slower); collect [any thread] beside it, while the
 * instances live.  Locks: none. */
#ifndef KVF_DAEMON_METRICS_H
#define KVF_DAEMON_METRICS_H

#include "daemon/histogram.h"
#include "daemon/text.h"
#include "proto/status.h"

#include <jansson.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* X(NAME, kind, unit, description). The name is shown in lower case. */
#define KVF_METRICS_TABLE(X)                                                                                           \
    X(SESSIONS, GAUGE, "sessions", "Sessions open now")                                                                \
    X(SESSIONS_OPENED, COUNTER, "sessions", "Sessions that said hello and were taken")                                 \
    X(SESSIONS_CLOSED, COUNTER, "sessions", "Sessions that ended, for whatever reason")                                \
    X(SESSIONS_REFUSED, COUNTER, "sessions", "Clients turned away: too many, another version, the daemon ends")        \
    X(SESSIONS_TIMED_OUT, COUNTER, "sessions", "Sessions ended for their silence")                                     \
    X(SESSIONS_STUCK, COUNTER, "sessions", "Sessions ended because they did not take their answers")                   \
    X(PROTOCOL_ERRORS, COUNTER, "frames", "Frames that broke the protocol and are not counted as requests")            \
    X(REQUESTS_IN_FLIGHT, GAUGE, "requests", "Requests begun and not answered yet")                                    \
    X(REQUESTS_TIMED_OUT, COUNTER, "requests", "Requests ended by request-timeout")                                    \
    X(STAGING_BYTES, GAUGE, "bytes", "Bytes of puts that have begun and not ended")                                    \
    X(STAGING_REFUSED, COUNTER, "blocks",                                                                              \
      "Blocks of puts refused because staging-bytes or memory was used up for now")                                    \
    X(SPACES, GAUGE, "spaces", "Spaces that exist")                                                                    \
    X(BLOCKS, GAUGE, "blocks", "Blocks stored now")                                                                    \
    X(BLOCK_BYTES, GAUGE, "bytes", "Host memory that those blocks hold")                                               \
    X(BLOCKS_STORED, COUNTER, "blocks", "Blocks that a put stored")                                                    \
    X(BLOCKS_EXISTED, COUNTER, "blocks", "Blocks of a put whose key was stored already")                               \
    X(BLOCKS_DELETED, COUNTER, "blocks", "Blocks that a client deleted")                                               \
    X(BLOCKS_EVICTED, COUNTER, "blocks", "Blocks that made room for others")                                           \
    X(BYTES_EVICTED, COUNTER, "bytes", "Host memory that those held")                                                  \
    X(BLOCKS_NO_SPACE, COUNTER, "blocks", "Blocks refused: no room and nothing to evict")                              \
    X(BLOCKS_CORRUPT, COUNTER, "blocks", "Blocks refused: their bytes did not have the checksum that came with them")  \
    X(BLOCKS_DAMAGED, COUNTER, "blocks", "Blocks that had lost their checksum when they were read, and left")          \
    X(UNITS_SENT, COUNTER, "units", "Units of fused spaces that gets were sent")                                       \
    X(UNITS_SPARED, COUNTER, "units", "Units that gets needed and the client held already")                            \
    X(UNITS_ASKED, COUNTER, "units", "Units that clients had to ask for")                                              \
    X(MEMORY_CLIENTS, GAUGE, "clients", "Clients on this host that lend shared memory")                                \
    X(MEMORY_BYTES, GAUGE, "bytes", "Shared memory that they lend")

/* X(NAME, description): what a client asks for. Each has the counters below and a latency histogram. */
#define KVF_OPERATIONS_TABLE(X)                                                                                        \
    X(OPEN, "Open a space")                                                                                            \
    X(DROP, "Drop a space")                                                                                            \
    X(PUT, "Store blocks")                                                                                             \
    X(GET, "Read blocks")                                                                                              \
    X(MATCH, "Find the longest stored prefix")                                                                         \
    X(DELETE, "Delete blocks")                                                                                         \
    X(PING, "Ask whether the daemon lives")

/* X(NAME, unit, description) */
#define KVF_OPERATION_COUNTERS_TABLE(X)                                                                                \
    X(REQUESTS, "requests", "Requests answered, well or not")                                                          \
    X(KEYS, "keys", "Keys in those of them that were carried out")                                                     \
    X(HITS, "keys", "Keys that were found")                                                                            \
    X(MISSES, "keys", "Keys that were not, or not looked for because a budget was used up")                            \
    X(BYTES_IN, "bytes", "Payload that came in")                                                                       \
    X(BYTES_OUT, "bytes", "Payload that went out")

typedef enum kvf_metric {
#define KVF__METRIC_ENUM(name, kind, unit, description) KVF_METRIC_##name,
    KVF_METRICS_TABLE(KVF__METRIC_ENUM)
#undef KVF__METRIC_ENUM
        KVF_METRIC_COUNT
} kvf_metric_t;

typedef enum kvf_operation {
#define KVF__OPERATION_ENUM(name, description) KVF_OPERATION_##name,
    KVF_OPERATIONS_TABLE(KVF__OPERATION_ENUM)
#undef KVF__OPERATION_ENUM
        KVF_OPERATION_COUNT
} kvf_operation_t;

typedef enum kvf_operation_counter {
#define KVF__OPERATION_COUNTER_ENUM(name, unit, description) KVF_OPERATION_##name,
    KVF_OPERATION_COUNTERS_TABLE(KVF__OPERATION_COUNTER_ENUM)
#undef KVF__OPERATION_COUNTER_ENUM
        KVF_OPERATION_COUNTER_COUNT
} kvf_operation_counter_t;

enum { KVF_CACHE_LINE_BYTES = 64 };

/* One thread's numbers; no cache line is shared with another's. About 220 KiB, most of it untouched. */
typedef struct kvf_metrics {
    alignas(KVF_CACHE_LINE_BYTES) _Atomic uint64_t values[KVF_METRIC_COUNT];
    _Atomic uint64_t operations[KVF_OPERATION_COUNT][KVF_OPERATION_COUNTER_COUNT];
    _Atomic uint64_t statuses[KVF_STATUS_COUNT];     /* of requests, by kvf_status_index */
    _Atomic uint64_t key_statuses[KVF_STATUS_COUNT]; /* of keys */
    kvf_histogram_t latency[KVF_OPERATION_COUNT];
} kvf_metrics_t;

/* An instance with everything at 0, NULL without memory. Ends with kvf_metrics_destroy (NULL allowed). */
kvf_metrics_t *kvf_metrics_create(void);
void kvf_metrics_destroy(kvf_metrics_t *metrics);

/* Raises a counter or gauge by `n`. */
static inline void kvf_metrics_add(kvf_metrics_t *metrics, kvf_metric_t metric, uint64_t n) {
    atomic_fetch_add_explicit(&metrics->values[metric], n, memory_order_relaxed);
}
/* Lowers a gauge by `n`. */
static inline void kvf_metrics_sub(kvf_metrics_t *metrics, kvf_metric_t metric, uint64_t n) {
    atomic_fetch_sub_explicit(&metrics->values[metric], n, memory_order_relaxed);
}
static inline void kvf_metrics_count(kvf_metrics_t *metrics, kvf_operation_t operation, kvf_operation_counter_t counter,
                                     uint64_t n) {
    atomic_fetch_add_explicit(&metrics->operations[operation][counter], n, memory_order_relaxed);
}
/* Counts the end of a request: the request itself, the status that it was answered with, its latency. */
static inline void kvf_metrics_finish(kvf_metrics_t *metrics, kvf_operation_t operation, kvf_status_t status,
                                      uint64_t ns) {
    kvf_metrics_count(metrics, operation, KVF_OPERATION_REQUESTS, 1);
    atomic_fetch_add_explicit(&metrics->statuses[kvf_status_index(status)], 1, memory_order_relaxed);
    kvf_histogram_record(&metrics->latency[operation], ns);
}

/* Counts `n` keys of requests that were answered with a status a key: those with `status`. */
static inline void kvf_metrics_count_keys(kvf_metrics_t *metrics, kvf_status_t status, uint64_t n) {
    atomic_fetch_add_explicit(&metrics->key_statuses[kvf_status_index(status)], n, memory_order_relaxed);
}

/* The sum of one value over `count` instances; a gauge below 0 is 0. */
uint64_t kvf_metrics_sum(const kvf_metrics_t *const *instances, size_t count, kvf_metric_t metric);

/* All of it as a new JSON object of objects and numbers, in the order of the tables:
 * {"sessions": 3, …, "operations": {"put": {"requests": 7, …, "latency_ns": {"count": 7, "mean": …, "p50": …}}, …},
 * "statuses": {"KVF_OK": 6, …}, "key_statuses": {…}}. The caller may add to it and owns it (json_decref). NULL without memory. */
json_t *kvf_metrics_collect(const kvf_metrics_t *const *instances, size_t count);

typedef enum kvf_metrics_format {
    KVF_METRICS_TEXT, /* a line a number: `operations.put.requests 7` */
    KVF_METRICS_JSON, /* one line */
} kvf_metrics_format_t;
/* Appends an object of objects, numbers, strings and truth values, such as collect gives, to `text`. */
void kvf_metrics_render(const json_t *object, kvf_metrics_format_t format, kvf_text_t *text);

/* Appends what each number means: `name kind unit description`, a line each. */
void kvf_metrics_describe(kvf_text_t *text);

#endif

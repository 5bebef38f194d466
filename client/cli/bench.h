/* bench.h - what the parts of `kvfuse bench` share: bench.c (options, output), bench_run.c (client processes),
 * bench_client.c (what one client does). */
#ifndef KVF_CLIENT_CLI_BENCH_H
#define KVF_CLIENT_CLI_BENCH_H

#include "client/cli/cli.h"
#include "client/cli/progress.h"

typedef enum kvf_bench_op { KVF_BENCH_PUT, KVF_BENCH_GET, KVF_BENCH_MATCH } kvf_bench_op_t;

/* One measurement: some client processes do the same for a while. */
typedef struct kvf_bench_task {
    kvf_bench_op_t op;
    kvf_cli_connection_t connection;
    kvf_policy_t policy;
    uint64_t block_bytes; /* match: of the stand-ins */
    unsigned batch;       /* keys a request */
    unsigned depth;       /* requests in flight a client */
    unsigned clients;
    double seconds;
    uint64_t set_bytes; /* get: what is read, over all clients; put: what is written from */
    uint64_t resident;  /* match: keys that are stored */
} kvf_bench_task_t;

typedef struct kvf_bench_result {
    double gbps; /* 1e9 bytes of blocks a second, all clients together */
    double keys_a_second;
    double p50_us, p99_us, p999_us; /* of a request (batch), from its call to its completion */
    double client_cpu_s;            /* of the client processes, user and system, while measured */
    double seconds;
    uint64_t requests, bytes;
    bool shared_memory; /* that it really went so */
} kvf_bench_result_t;

/* Measures. Blocks; forks; keeps `bar` drawn meanwhile. Says on stderr what went wrong. The process must not have threads or
 * UCX in use. */
kvf_status_t kvf_bench_run(const kvf_bench_task_t *task, kvf_bar_t *bar, kvf_bench_result_t *result) KVF_MUST_CHECK;

enum { KVF_BENCH_SAMPLES_MAX = 1 << 16 /* latencies kept by one client: the last ones */ };

/* What a client process sends its parent, followed by `num_samples` floats of microseconds. */
typedef struct kvf_bench_report {
    kvf_status_t status;
    bool shared_memory;
    uint32_t num_samples;
    uint64_t requests, keys, bytes;
    double seconds, cpu_s;
} kvf_bench_report_t;

/* The life of client `number`: prepares, tells `ready` (one byte), waits for one byte on `go`, measures, fills `report` and
 * `samples` [KVF_BENCH_SAMPLES_MAX]. */
void kvf_bench_client(const kvf_bench_task_t *task, unsigned number, int ready, int go, kvf_bench_report_t *report,
                      float *samples);

#endif

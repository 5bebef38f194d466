/* bench.c - `kvfuse bench`: a daemon's figures beside the machine's ceilings, from one run. */
#include "client/cli/bench.h"
#include "client/cli/ceiling.h"
#include "fusion/policy.h"

#include <jansson.h>
#include <string.h>
#include <unistd.h>

enum {
    SIZES_MAX = 8,
    MATCH_BLOCK_BYTES = 128,
    KIB = 1024,
};

typedef struct bench_options {
    kvf_cli_connection_t connection;
    kvf_policy_t policy;
    kvf_cli_socket_t socket;
    uint64_t sizes[SIZES_MAX];
    unsigned num_sizes;
    uint64_t clients, batch, depth, match_batch, resident, set_bytes;
    double seconds;
    bool put, get, match, shared, network, ceilings, json;
    const char *redis_script;
} bench_options_t;

/* ---- ceilings: measured once for each op, size and kind, used by every line that they hold for ---- */

typedef struct ceiling {
    const char *name;
    kvf_ceiling_op_t op;
    uint64_t block_bytes;
    double gbps, p50_us;
    struct ceiling *next;
} ceiling_t;

typedef struct bench {
    const bench_options_t *options;
    kvf_ceiling_redis_t redis;
    bool has_redis;
    ceiling_t *ceilings;
    kvf_bar_t bar; /* of the lines that are printed */
    char label[64];
} bench_t;

static const char *redis_address(const bench_t *bench, const char *name) {
    if (!strcmp(name, "redis_unix")) return bench->redis.unix_path;
    return !strcmp(name, "redis_tcp") ? bench->redis.tcp_address : NULL;
}

static void show(bench_t *bench, const char *what, uint64_t block_bytes) {
    snprintf(bench->label, sizeof(bench->label), "bench %s, %llu KiB", what, (unsigned long long)block_bytes / KIB);
    kvf_bar_draw(&bench->bar);
}

static double measure_ceiling(bench_t *bench, const char *name, kvf_ceiling_op_t op, uint64_t block_bytes) {
    for (ceiling_t *known = bench->ceilings; known; known = known->next)
        if (!strcmp(known->name, name) && known->op == op && known->block_bytes == block_bytes) return known->gbps;
    if (!strncmp(name, "redis", 5) && !bench->has_redis) return 0;
    kvf_ceiling_task_t task = {.op = op,
                               .block_bytes = block_bytes,
                               .batch_blocks = (unsigned)bench->options->batch,
                               .depth = (unsigned)bench->options->depth,
                               .seconds = bench->options->seconds,
                               .set_bytes = bench->options->set_bytes,
                               .address = redis_address(bench, name)};
    kvf_ceiling_result_t result;
    show(bench, name, block_bytes);
    kvf_status_t status = kvf_ceiling_run(name, &task, &result);
    kvf_bar_clear(&bench->bar);
    if (status != KVF_OK) fprintf(stderr, "kvfuse: ceiling %s: %s: %s\n", name, kvf_status_text(status), result.note);
    ceiling_t *made = malloc(sizeof(*made));
    if (!made) return result.gbps;
    *made = (ceiling_t){name, op, block_bytes, result.gbps, result.p50_us, bench->ceilings};
    bench->ceilings = made;
    return result.gbps;
}

/* The ceilings that a line of put or get is held against. */
static json_t *measure_ceilings(bench_t *bench, const kvf_bench_task_t *task, bool shared, double gbps) {
    static const char *const shared_names[] = {"memcpy", "ucx_am_shm", "ucx_rma_shm", "redis_unix", NULL};
    static const char *const network_names[] = {"memcpy", "ucx_am_tcp", "redis_tcp", NULL};
    json_t *list = json_array();
    if (!bench->options->ceilings) return list;
    kvf_ceiling_op_t op = task->op == KVF_BENCH_GET ? KVF_CEILING_GET : KVF_CEILING_PUT;
    for (const char *const *name = shared ? shared_names : network_names; *name; name++) {
        double ceiling = measure_ceiling(bench, *name, op, task->block_bytes);
        if (ceiling <= 0) continue;
        json_t *entry = json_object();
        json_object_set_new(entry, "name", json_string(*name));
        json_object_set_new(entry, "gbps", json_real(ceiling));
        json_object_set_new(entry, "ratio", json_real(gbps / ceiling));
        json_array_append_new(list, entry);
    }
    return list;
}

/* ---- one line ---- */

/* Seconds of processor that the daemon has used, or -1 where its stats socket cannot be asked. */
static double daemon_cpu(const bench_options_t *options) {
    kvf_cli_socket_t socket = options->socket;
    if (!socket.path) socket.address = options->connection.address;
    char *answer = kvf_cli_ask(&socket, "stats json");
    json_t *stats = answer ? json_loads(answer, 0, NULL) : NULL;
    double seconds = stats ? json_number_value(json_object_get(stats, "cpu_s")) : -1;
    json_decref(stats);
    free(answer);
    return seconds;
}

static const char *op_name(kvf_bench_op_t op) {
    return op == KVF_BENCH_PUT ? "put" : op == KVF_BENCH_GET ? "get" : "match";
}

static void print_text(const kvf_bench_task_t *task, const kvf_bench_result_t *result, double cpu_per_gb,
                       const json_t *ceilings) {
    const char *transport = result->shared_memory ? "shared" : "network";
    if (task->op == KVF_BENCH_MATCH) {
        printf("match  %-8s %9llu resident, %u keys: p50 %.1f us, p99 %.1f us, %.2f million keys/s\n", transport,
               (unsigned long long)task->resident, task->batch, result->p50_us, result->p99_us,
               result->keys_a_second / 1e6);
        return;
    }
    char clients[32] = "";
    if (task->clients > 1) snprintf(clients, sizeof(clients), " x %u clients", task->clients);
    printf("%-6s %-8s %5llu KiB x %u%s: %6.2f GB/s  p50 %8.1f us  p99 %8.1f us  cpu %.3f s/GB", op_name(task->op),
           transport, (unsigned long long)task->block_bytes / KIB, task->batch, clients, result->gbps, result->p50_us,
           result->p99_us, cpu_per_gb);
    size_t index;
    json_t *entry;
    json_array_foreach(ceilings, index, entry) {
        printf("  %s %.2f", json_string_value(json_object_get(entry, "name")),
               json_real_value(json_object_get(entry, "ratio")));
    }
    putchar('\n');
}

static void print_json(const kvf_bench_task_t *task, const kvf_bench_result_t *result, double cpu_per_gb,
                       json_t *ceilings) {
    json_t *line = json_object();
    json_object_set_new(line, "op", json_string(op_name(task->op)));
    json_object_set_new(line, "transport", json_string(result->shared_memory ? "shared" : "network"));
    json_object_set_new(line, "block_bytes", json_integer((json_int_t)task->block_bytes));
    json_object_set_new(line, "batch", json_integer(task->batch));
    json_object_set_new(line, "depth", json_integer(task->depth));
    json_object_set_new(line, "clients", json_integer(task->clients));
    char policy[KVF_POLICY_TEXT_BYTES];
    json_object_set_new(line, "policy", json_string(kvf_policy_print(&task->policy, policy, sizeof(policy))));
    json_object_set_new(line, "put_mode", json_string(task->connection.put_mode == KVF_PUT_FUSED ? "fused" : "raw"));
    json_object_set_new(line, "busy_poll", json_boolean(task->connection.busy_poll));
    json_object_set_new(line, "gbps", json_real(result->gbps));
    json_object_set_new(line, "p50_us", json_real(result->p50_us));
    json_object_set_new(line, "p99_us", json_real(result->p99_us));
    json_object_set_new(line, "p999_us", json_real(result->p999_us));
    json_object_set_new(line, "cpu_s_per_gb", json_real(cpu_per_gb));
    if (task->op == KVF_BENCH_MATCH) {
        json_object_set_new(line, "resident", json_integer((json_int_t)task->resident));
        json_object_set_new(line, "keys_a_second", json_real(result->keys_a_second));
    }
    json_object_set(line, "ceilings", ceilings);
    json_dumpf(line, stdout, JSON_REAL_PRECISION(4));
    putchar('\n');
    json_decref(line);
}

static kvf_status_t measure(bench_t *bench, const kvf_bench_task_t *task) {
    kvf_bench_result_t result;
    double before = daemon_cpu(bench->options);
    show(bench, op_name(task->op), task->block_bytes);
    kvf_status_t status = kvf_bench_run(task, &bench->bar, &result);
    kvf_bar_clear(&bench->bar);
    if (status != KVF_OK) return status;
    double after = daemon_cpu(bench->options);
    double cpu = result.client_cpu_s + (before >= 0 && after >= before ? after - before : 0);
    double cpu_per_gb = result.bytes ? cpu / ((double)result.bytes / 1e9) : 0;
    json_t *ceilings =
        task->op == KVF_BENCH_MATCH ? json_array() : measure_ceilings(bench, task, result.shared_memory, result.gbps);
    kvf_bar_advance(&bench->bar, 1, 0);
    kvf_bar_clear(&bench->bar);
    if (bench->options->json)
        print_json(task, &result, cpu_per_gb, ceilings);
    else
        print_text(task, &result, cpu_per_gb, ceilings);
    json_decref(ceilings);
    fflush(stdout);
    return KVF_OK;
}

/* ---- the plan ---- */

static kvf_status_t measure_transport(bench_t *bench, kvf_transport_t transport) {
    const bench_options_t *options = bench->options;
    kvf_bench_task_t task = {.connection = options->connection,
                             .policy = options->policy,
                             .batch = (unsigned)options->batch,
                             .depth = (unsigned)options->depth,
                             .clients = (unsigned)options->clients,
                             .seconds = options->seconds,
                             .set_bytes = options->set_bytes};
    task.connection.transport = transport;
    kvf_status_t status = KVF_OK;
    for (unsigned i = 0; i < options->num_sizes && status == KVF_OK; i++) {
        task.block_bytes = options->sizes[i];
        task.op = KVF_BENCH_PUT;
        if (options->put) status = measure(bench, &task);
        task.op = KVF_BENCH_GET;
        if (options->get && status == KVF_OK) status = measure(bench, &task);
    }
    if (!options->match || status != KVF_OK) return status;
    task.op = KVF_BENCH_MATCH;
    task.block_bytes = MATCH_BLOCK_BYTES;
    task.batch = (unsigned)options->match_batch;
    task.depth = 1;
    task.resident = options->resident / task.batch * task.batch;
    status = measure(bench, &task);
    task.depth = 4;
    return status == KVF_OK ? measure(bench, &task) : status;
}

static uint64_t count_lines(const bench_options_t *options) {
    uint64_t lines = (uint64_t)options->num_sizes * (options->put + options->get) + (options->match ? 2 : 0);
    return lines * (unsigned)(options->shared + options->network);
}

static int run(const bench_options_t *options) {
    bench_t bench = {.options = options};
    kvf_bar_start(&bench.bar, STDERR_FILENO, bench.label, count_lines(options));
    if (options->ceilings && options->redis_script) {
        kvf_status_t status = kvf_ceiling_redis_start(options->redis_script, &bench.redis);
        if (status != KVF_OK) {
            fprintf(stderr, "kvfuse: %s: Redis did not start: %s\n", options->redis_script, kvf_status_text(status));
            return EXIT_FAILURE;
        }
        bench.has_redis = true;
    }
    kvf_status_t status = options->shared ? measure_transport(&bench, KVF_TRANSPORT_SHARED) : KVF_OK;
    if (status == KVF_OK && options->network) status = measure_transport(&bench, KVF_TRANSPORT_NETWORK);
    if (bench.has_redis) kvf_ceiling_redis_stop(&bench.redis);
    while (bench.ceilings) {
        ceiling_t *next = bench.ceilings->next;
        free(bench.ceilings);
        bench.ceilings = next;
    }
    return status == KVF_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- options ---- */

/* Parses a list "get,put" of the `count` `names`: chosen[i] says whether names[i] is in it. False: something else is. */
static bool parse_list(char *text, const char *const *names, bool **chosen, size_t count) {
    for (size_t i = 0; i < count; i++) *chosen[i] = false;
    char *rest = NULL, *word = strtok_r(text, ",", &rest);
    if (!word) return false;
    for (; word; word = strtok_r(NULL, ",", &rest)) {
        size_t i = 0;
        while (i < count && strcmp(word, names[i])) i++;
        if (i == count) return false;
        *chosen[i] = true;
    }
    return true;
}

static void parse_ops(bench_options_t *options, char *text, struct argp_state *state) {
    static const char *const names[] = {"put", "get", "match"};
    bool *chosen[] = {&options->put, &options->get, &options->match};
    if (!parse_list(text, names, chosen, 3)) argp_error(state, "--ops is a list of put, get, match: put,get");
}

static void parse_transports(bench_options_t *options, char *text, struct argp_state *state) {
    static const char *const names[] = {"shared", "network"};
    bool *chosen[] = {&options->shared, &options->network};
    if (!parse_list(text, names, chosen, 2)) argp_error(state, "--transports is a list of shared, network");
}

static void parse_sizes(bench_options_t *options, char *text, struct argp_state *state) {
    options->num_sizes = 0;
    for (char *rest = NULL, *size = strtok_r(text, ",", &rest); size; size = strtok_r(NULL, ",", &rest)) {
        uint64_t bytes = 0;
        if (options->num_sizes == SIZES_MAX || !kvf_cli_parse_bytes(size, &bytes) || bytes < 4096 || bytes % 4096 ||
            bytes > 64 << 20)
            argp_error(state, "--sizes are up to %d multiples of 4K of at most 64M, not '%s'", SIZES_MAX, size);
        options->sizes[options->num_sizes++] = bytes;
    }
    if (!options->num_sizes) argp_error(state, "--sizes is a list of bytes: 32K,2M");
}

static uint64_t parse_number(const char *name, const char *text, uint64_t min, uint64_t max, struct argp_state *state) {
    uint64_t count = 0;
    if (!kvf_cli_parse_count(text, max, &count) || count < min)
        argp_error(state, "--%s is %llu to %llu, not '%s'", name, (unsigned long long)min, (unsigned long long)max,
                   text);
    return count;
}

static error_t parse(int key, char *argument, struct argp_state *state) {
    bench_options_t *options = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->child_inputs[2] = &options->connection;
        state->child_inputs[1] = &options->policy;
        return 0;
    case 'o': parse_ops(options, argument, state); return 0;
    case 'B': parse_sizes(options, argument, state); return 0;
    case 'T': parse_transports(options, argument, state); return 0;
    case 'c': options->clients = parse_number("clients", argument, 1, 64, state); return 0;
    case 'n': options->batch = parse_number("batch", argument, 1, KVF_CEILING_MAX_BATCH, state); return 0;
    case 'd': options->depth = parse_number("depth", argument, 1, KVF_CEILING_MAX_DEPTH, state); return 0;
    case 'm': options->match_batch = parse_number("match-batch", argument, 1, 4096, state); return 0;
    case 'r': options->resident = parse_number("resident", argument, 4096, UINT32_MAX, state); return 0;
    case 'W':
        if (!kvf_cli_parse_bytes(argument, &options->set_bytes) || options->set_bytes < 1 << 20)
            argp_error(state, "--set-bytes is at least 1M, not '%s'", argument);
        return 0;
    case 'x': options->seconds = (double)parse_number("ms", argument, 10, 3600000, state) / 1e3; return 0;
    case 'C': options->ceilings = false; return 0;
    case 'R': options->redis_script = argument; return 0;
    case 's': options->socket.path = argument; return 0;
    case 'j': options->json = true; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

int kvf_command_bench(int argc, char **argv) {
    static const struct argp_option table[] = {
        {"ops", 'o', "LIST", 0, "Of put, get, match (all)", 0},
        {"sizes", 'B', "LIST", 0, "Bytes of a block (32K,256K,2M)", 0},
        {"transports", 'T', "LIST", 0, "Of shared, network (both)", 0},
        {"clients", 'c', "N", 0, "Client processes at once; a line is of all together (1)", 0},
        {"batch", 'n', "N", 0, "Blocks a put or get (16)", 0},
        {"depth", 'd', "N", 0, "Requests in flight a client (4)", 0},
        {"match-batch", 'm', "N", 0, "Keys a match (128)", 0},
        {"resident", 'r', "N", 0, "Keys that are stored while matching (10000)", 0},
        {"set-bytes", 'W', "BYTES", 0, "Read from and written from (512M)", 0},
        {"ms", 'x', "MS", 0, "Time of each measurement (2000)", 0},
        {"no-ceilings", 'C', NULL, 0, "Measure the daemon alone", 0},
        {"redis", 'R', "SCRIPT", 0, "Start Redis by this script as one of the ceilings (tests/bench/redis.sh)", 0},
        {"socket", 's', "PATH", 0, "The daemon's stats socket, for its processor time", 0},
        {"json", 'j', NULL, 0, "One JSON object a line", 0},
        {0}};
    static const struct argp_child children[] = {
        {.argp = &kvf_cli_connection_argp}, {.argp = &kvf_cli_policy_argp}, {.argp = &kvf_cli_put_mode_argp}, {0}};
    const struct argp argp = {.options = table,
                              .parser = parse,
                              .doc = "Measures a daemon with client processes, and in the same run what the machine "
                                     "could do: memcpy, a bare UCX "
                                     "loop, Redis. Each figure's ratio to its ceilings is printed beside it.",
                              .children = children};
    bench_options_t options = {.connection = KVF_CLI_CONNECTION_INIT,
                               .socket = KVF_CLI_SOCKET_INIT,
                               .sizes = {32 * KIB, 256 * KIB, 2048 * KIB},
                               .num_sizes = 3,
                               .clients = 1,
                               .batch = 16,
                               .depth = 4,
                               .match_batch = 128,
                               .resident = 10000,
                               .set_bytes = 512 << 20,
                               .seconds = 2,
                               .put = true,
                               .get = true,
                               .match = true,
                               .shared = true,
                               .network = true,
                               .ceilings = true};
    if (argp_parse(&argp, argc, argv, 0, NULL, &options)) return KVF_EXIT_USAGE;
    return run(&options);
}

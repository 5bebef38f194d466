/* bench_client.c - what one client process of the benchmark does: keeps `depth` requests of `batch` keys in flight. */
#include "client/cli/bench.h"
#include "client/cli/verify.h"
#include "fusion/policy.h"

#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { KEY_BYTES = 16, DEPTH_MAX = 64, BATCH_MAX = 4096 };

typedef struct slot {
    uint64_t first; /* number of its first block */
    double started;
    uint8_t (*keys)[KEY_BYTES]; /* [batch] */
    kvf_key_t *key_list;
    kvf_block_t *blocks;
    kvf_piece_t *pieces;
    kvf_status_t *statuses;
    float *bounds;   /* get: [batch, K and V] */
    uint8_t *memory; /* get: where the blocks go */
} slot_t;

typedef struct client {
    const kvf_bench_task_t *task;
    unsigned number;
    kvf_client_t *client;
    kvf_space_t *space;
    kvf_layout_t layout; /* of the space */
    uint8_t *source;     /* put: [source_blocks, block_bytes], shared with the daemon */
    uint64_t source_blocks, set_blocks, next;
    slot_t slots[DEPTH_MAX];
    kvf_bench_report_t *report;
    float *samples;
    bool is_measuring;
} client_t;

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* ---- blocks ---- */

static void make_key(const client_t *c, uint64_t number, uint8_t *key) {
    /* match reads keys that the first client stored, the others read and write their own */
    uint64_t owner = c->task->op == KVF_BENCH_MATCH ? 0 : c->number + 1;
    memcpy(key, &number, 8);
    memcpy(key + 8, &owner, 8);
}

/* Marks a block so that a wrong one is noticed: its number at both ends. */
static void mark(uint8_t *block, uint64_t bytes, uint64_t number) {
    memcpy(block, &number, 8);
    memcpy(block + bytes - 8, &number, 8);
}
static bool is_marked(const uint8_t *block, uint64_t bytes, uint64_t number) {
    return !memcmp(block, &number, 8) && !memcmp(block + bytes - 8, &number, 8);
}

static bool is_exact(const client_t *c) { return c->task->policy.kind == KVF_POLICY_EXACT; }

/* Whether the rows of a get's block, of its first and of its last token, are as near to those that were put as the policy asks. */
static bool is_near(const client_t *c, const uint8_t *block, uint64_t number, const float *told) {
    const kvf_layout_t *layout = &c->layout;
    const uint8_t *source = c->source + number % c->source_blocks * c->task->block_bytes;
    uint64_t last = c->task->block_bytes - (uint64_t)layout->kv_heads * layout->head_dim * 2;
    double bound = kvf_cli_bound(&c->task->policy, told, 0);
    kvf_row_errors_t errors = {0};
    kvf_plane_errors_t whole = {0};
    if (c->task->policy.kind == KVF_POLICY_FUSE) { /* a row has no bound, the first plane has one */
        kvf_verify_whole(layout, source, block, layout->block_tokens, (double)told[0], &whole);
        return kvf_verify_is_whole_kept(&whole);
    }
    kvf_verify_plane(layout, source, block, 1, bound, &errors);
    kvf_verify_plane(layout, source + last, block + last, 1, bound, &errors);
    return kvf_verify_is_kept(&errors);
}

/* 8 layers where the size allows it: real blocks have layers, and each is checked apart. */
static kvf_layout_t make_layout(uint64_t block_bytes) {
    uint32_t layers = block_bytes % 8192 == 0 ? 8 : 1;
    uint64_t values = block_bytes / layers / 2;
    uint32_t head_dim = 1;
    while (head_dim < 128 && values % (head_dim * 2) == 0) head_dim *= 2;
    uint64_t rest = values / head_dim;
    uint32_t tokens = rest % 2 == 0 ? 2 : 1;
    while (rest / tokens > 64 && tokens < 1024 && rest % (tokens * 2) == 0) tokens *= 2;
    return (kvf_layout_t){.layers = layers,
                          .planes = 1,
                          .kv_heads = (uint32_t)(rest / tokens),
                          .head_dim = head_dim,
                          .block_tokens = tokens,
                          .dtype = KVF_BF16,
                          .model = "kvfuse bench"};
}

/* A space a size and policy, so that runs with several do not meet. */
static kvf_status_t open_space(client_t *c) {
    const kvf_bench_task_t *task = c->task;
    c->layout = make_layout(task->block_bytes);
    char name[128], policy[KVF_POLICY_TEXT_BYTES];
    snprintf(name, sizeof(name), "bench-%llu", (unsigned long long)task->block_bytes);
    if (!is_exact(c)) {
        kvf_policy_print(&task->policy, policy, sizeof(policy));
        policy[strcspn(policy, " ")] = '-';
        snprintf(name, sizeof(name), "bench-%llu-%s", (unsigned long long)task->block_bytes, policy);
    }
    kvf_error_t error = {""};
    kvf_status_t status = kvf_space_open(c->client, name, &c->layout, &task->policy, &c->space, &error);
    if (status != KVF_OK)
        fprintf(stderr, "kvfuse: cannot open space %s: %s: %s\n", name, kvf_status_text(status), error.text);
    return status;
}

static kvf_status_t take_memory(client_t *c) {
    const kvf_bench_task_t *task = c->task;
    uint64_t slot_bytes = task->op == KVF_BENCH_GET ? task->batch * task->block_bytes : 0, used = 0;
    c->source_blocks = c->set_blocks;
    uint64_t source_bytes =
        task->op == KVF_BENCH_MATCH ? task->batch * task->block_bytes : c->source_blocks * task->block_bytes;
    if (task->op == KVF_BENCH_MATCH) c->source_blocks = task->batch;
    void *memory;
    kvf_status_t status = kvf_memory_alloc(c->client, source_bytes + task->depth * slot_bytes, &memory);
    if (status != KVF_OK) return status;
    c->source = memory;
    for (uint64_t block = 0; block < c->source_blocks;
         block++) /* the same in each run: what an earlier one stored is read too */
        kvf_cli_fill(c->source + block * task->block_bytes, task->block_bytes, (uint64_t)c->number << 32 | block);
    used = source_bytes;
    for (unsigned i = 0; i < task->depth; i++) {
        slot_t *slot = &c->slots[i];
        slot->keys = calloc(task->batch, KEY_BYTES);
        slot->key_list = calloc(task->batch, sizeof(kvf_key_t));
        slot->blocks = calloc(task->batch, sizeof(kvf_block_t));
        slot->pieces = calloc(task->batch, sizeof(kvf_piece_t));
        slot->statuses = calloc(task->batch, sizeof(kvf_status_t));
        slot->bounds = calloc(task->batch, 2 * sizeof(float));
        if (!slot->keys || !slot->key_list || !slot->blocks || !slot->pieces || !slot->statuses || !slot->bounds)
            return KVF_ERR_NO_MEMORY;
        slot->memory = c->source + used;
        memset(slot->memory, 0, slot_bytes); /* page it in */
        used += slot_bytes;
    }
    return KVF_OK;
}

/* ---- requests ---- */

static uint64_t next_batch(client_t *c) {
    uint64_t first = c->next;
    c->next += c->task->batch;
    if (c->task->op == KVF_BENCH_GET && c->next + c->task->batch > c->set_blocks) c->next = 0;
    /* any place among the residents, so that the index is not hot */
    if (c->task->op == KVF_BENCH_MATCH) return (first * UINT64_C(7919)) % (c->task->resident - c->task->batch + 1);
    return first;
}

static kvf_status_t submit(client_t *c, slot_t *slot, kvf_bench_op_t op, uint64_t first) {
    const kvf_bench_task_t *task = c->task;
    slot->first = first;
    for (unsigned i = 0; i < task->batch; i++) {
        make_key(c, first + i, slot->keys[i]);
        slot->key_list[i] = (kvf_key_t){slot->keys[i], KEY_BYTES};
        uint8_t *bytes = op == KVF_BENCH_GET ? slot->memory + i * task->block_bytes
                                             : c->source + (first + i) % c->source_blocks * task->block_bytes;
        if (op == KVF_BENCH_PUT && is_exact(c)) mark(bytes, task->block_bytes, first + i);
        slot->pieces[i] = (kvf_piece_t){bytes, task->block_bytes};
        slot->blocks[i] = (kvf_block_t){.key = slot->key_list[i], .pieces = &slot->pieces[i], .num_pieces = 1};
    }
    kvf_request_options_t options = {.user = slot, .bounds = op == KVF_BENCH_GET ? slot->bounds : NULL};
    slot->started = kvf_cli_now();
    switch (op) {
    case KVF_BENCH_PUT: return kvf_put(c->space, slot->blocks, task->batch, &options, slot->statuses, NULL);
    case KVF_BENCH_GET: return kvf_get(c->space, slot->blocks, task->batch, &options, slot->statuses, NULL);
    case KVF_BENCH_MATCH: return kvf_match(c->space, slot->key_list, task->batch, &options, NULL);
    }
    return KVF_ERR_INVALID;
}

static kvf_status_t check_get(const client_t *c, const slot_t *slot) {
    for (unsigned i = 0; i < c->task->batch; i++) {
        const uint8_t *block = slot->memory + i * c->task->block_bytes;
        bool is_right = is_exact(c) ? is_marked(block, c->task->block_bytes, slot->first + i)
                                    : is_near(c, block, slot->first + i, slot->bounds + 2 * (size_t)i);
        if (!is_right) return KVF_ERR_CORRUPT;
    }
    return KVF_OK;
}

static kvf_status_t take(client_t *c, const kvf_completion_t *done, kvf_bench_op_t op) {
    const slot_t *slot = done->user;
    if (done->status != KVF_OK) {
        if (op != KVF_BENCH_MATCH)
            for (unsigned i = 0; i < c->task->batch; i++)
                if (slot->statuses[i] < 0) return slot->statuses[i];
        return done->status;
    }
    if (op == KVF_BENCH_MATCH && done->matched != c->task->batch) return KVF_ERR_NOT_FOUND;
    if (op == KVF_BENCH_GET) {
        kvf_status_t status = check_get(c, slot);
        if (status != KVF_OK) return status;
    }
    if (!c->is_measuring) return KVF_OK;
    c->samples[c->report->requests++ % KVF_BENCH_SAMPLES_MAX] = (float)((kvf_cli_now() - slot->started) * 1e6);
    c->report->keys += c->task->batch;
    c->report->bytes += op == KVF_BENCH_MATCH ? 0 : c->task->batch * c->task->block_bytes;
    return KVF_OK;
}

/* Takes completions; `*free_slots` gets those that came back. */
static kvf_status_t reap(client_t *c, kvf_bench_op_t op, slot_t **free_slots, unsigned *num_free) {
    kvf_completion_t done[DEPTH_MAX];
    size_t count = kvf_wait(c->client, done, c->task->depth, c->task->connection.timeout_ms * 2);
    if (!count) return KVF_ERR_TIMEOUT;
    kvf_status_t status = KVF_OK;
    for (size_t i = 0; i < count; i++) {
        kvf_status_t one = take(c, &done[i], op);
        if (one != KVF_OK) status = one;
        free_slots[(*num_free)++] = done[i].user;
    }
    return status;
}

/* Runs until `total` batches were submitted or `seconds` are over. */
static kvf_status_t loop(client_t *c, kvf_bench_op_t op, uint64_t total, double seconds) {
    slot_t *free_slots[DEPTH_MAX];
    unsigned num_free = 0;
    for (unsigned i = 0; i < c->task->depth; i++) free_slots[num_free++] = &c->slots[i];
    kvf_status_t status = KVF_OK;
    double end = kvf_cli_now() + seconds;
    for (uint64_t submitted = 0; status == KVF_OK && (submitted < total || num_free < c->task->depth);) {
        while (num_free && submitted < total && kvf_cli_now() < end && status == KVF_OK) {
            status = submit(c, free_slots[--num_free], op, next_batch(c));
            submitted++;
        }
        if (kvf_cli_now() >= end) total = submitted;
        if (num_free < c->task->depth && status == KVF_OK) status = reap(c, op, free_slots, &num_free);
    }
    return status;
}

/* Stores what get and match read. Batches that are stored already are no harm. */
static kvf_status_t fill(client_t *c) {
    if (c->task->op == KVF_BENCH_PUT || (c->task->op == KVF_BENCH_MATCH && c->number)) return KVF_OK;
    uint64_t blocks = c->task->op == KVF_BENCH_GET ? c->set_blocks : c->task->resident;
    kvf_status_t status = KVF_OK;
    slot_t *free_slots[DEPTH_MAX];
    unsigned num_free = 0;
    for (unsigned i = 0; i < c->task->depth; i++) free_slots[num_free++] = &c->slots[i];
    for (uint64_t first = 0; status == KVF_OK && (first + c->task->batch <= blocks || num_free < c->task->depth);) {
        while (num_free && first + c->task->batch <= blocks && status == KVF_OK) {
            status = submit(c, free_slots[--num_free], KVF_BENCH_PUT, first);
            first += c->task->batch;
        }
        if (num_free < c->task->depth && status == KVF_OK) status = reap(c, KVF_BENCH_PUT, free_slots, &num_free);
    }
    return status;
}

static kvf_status_t prepare(client_t *c) {
    c->set_blocks = c->task->set_bytes / c->task->clients / c->task->block_bytes / c->task->batch * c->task->batch;
    if (c->set_blocks < c->task->batch * c->task->depth) c->set_blocks = c->task->batch * c->task->depth;
    c->client = kvf_cli_connect(&c->task->connection, "kvfuse bench");
    if (!c->client) return KVF_ERR_UNREACHABLE;
    kvf_status_t status = open_space(c);
    if (status == KVF_OK) status = take_memory(c);
    if (status == KVF_OK) status = fill(c);
    if (status == KVF_OK && c->task->op != KVF_BENCH_PUT) status = loop(c, c->task->op, 2 * c->task->depth, 10);
    return status;
}

static void free_client(client_t *c) {
    kvf_close(c->client);
    for (unsigned i = 0; i < c->task->depth; i++) {
        free(c->slots[i].keys);
        free(c->slots[i].key_list);
        free(c->slots[i].blocks);
        free(c->slots[i].pieces);
        free(c->slots[i].statuses);
        free(c->slots[i].bounds);
    }
    free(c);
}

void kvf_bench_client(const kvf_bench_task_t *task, unsigned number, int ready, int go, kvf_bench_report_t *report,
                      float *samples) {
    *report = (kvf_bench_report_t){.status = KVF_ERR_NO_MEMORY};
    client_t *c = calloc(1, sizeof(*c));
    if (c) {
        c->task = task;
        c->number = number;
        c->report = report;
        c->samples = samples;
        /* puts of an earlier run may still be stored: keys of our own */
        if (task->op == KVF_BENCH_PUT) c->next = (uint64_t)(kvf_cli_now() * 1e6) << 20;
        report->status = prepare(c);
    }
    char byte = 0;
    if (write(ready, &byte, 1) != 1 || read(go, &byte, 1) != 1) report->status = KVF_ERR_CANCELED;
    if (report->status == KVF_OK) {
        kvf_client_info_t info;
        kvf_client_get_info(c->client, &info);
        report->shared_memory = info.shared_memory;
        c->is_measuring = true;
        double cpu = cpu_seconds(), start = kvf_cli_now();
        report->status = loop(c, task->op, UINT64_MAX, task->seconds);
        report->seconds = kvf_cli_now() - start;
        report->cpu_s = cpu_seconds() - cpu;
        report->num_samples =
            (uint32_t)(report->requests < KVF_BENCH_SAMPLES_MAX ? report->requests : KVF_BENCH_SAMPLES_MAX);
    }
    if (c) free_client(c);
}

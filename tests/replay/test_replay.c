#include "tests/replay/replay.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void append(kvf_trace_t *trace, const uint64_t *keys, size_t count) {
    cr_assert_eq(kvf_trace_append(trace, keys, count), KVF_OK);
}

static kvf_replay_result_t run(const kvf_trace_t *trace, kvf_evict_kind_t kind, uint64_t capacity) {
    kvf_replay_result_t result;
    cr_assert_eq(kvf_replay_run(trace, kind, capacity, KVF_REPLAY_BATCH, &result), KVF_OK);
    return result;
}

/* `prompts` chains of `blocks`: two of three are one of `reused` prompts, the third is long and never seen again. */
static kvf_trace_t make_scan(unsigned prompts, unsigned blocks, unsigned reused) {
    kvf_trace_t trace = {0};
    uint64_t keys[256], fresh = 1000000;
    unsigned random = 3;
    for (unsigned p = 0; p < prompts; p++) {
        unsigned which = (unsigned)rand_r(&random) % reused;
        size_t count = p % 3 == 2 ? 4 * blocks : blocks;
        cr_assert_leq(count, 256);
        for (size_t i = 0; i < count; i++) keys[i] = p % 3 == 2 ? fresh++ : which * blocks + i;
        append(&trace, keys, count);
    }
    cr_assert_eq(kvf_trace_finish(&trace), KVF_OK);
    return trace;
}

Test(replay, with_room_for_all_only_the_first_sight_misses) {
    kvf_trace_t trace = {0};
    append(&trace, (uint64_t[]){10, 11, 12}, 3);
    append(&trace, (uint64_t[]){10, 11, 13, 14}, 4); /* 2 hits */
    append(&trace, (uint64_t[]){20, 11}, 2);         /* none: the head is missing */
    append(&trace, (uint64_t[]){10, 11, 12}, 3);     /* 3 hits */
    append(&trace, NULL, 0);
    cr_assert_eq(kvf_trace_finish(&trace), KVF_OK);
    cr_assert_eq(trace.unique, 6);
    for (unsigned kind = 0; kind < KVF_EVICT_KINDS; kind++) {
        kvf_replay_result_t result = run(&trace, (kvf_evict_kind_t)kind, 6);
        cr_assert_eq(result.blocks, 12);
        cr_assert_eq(result.hits, 5);
        cr_assert_eq(result.evictions, 0);
    }
    kvf_trace_fini(&trace);
}

Test(replay, lru_without_room_hits_as_counted_by_hand) {
    kvf_trace_t trace = {0};
    append(&trace, (uint64_t[]){1, 2, 3}, 3);
    append(&trace, (uint64_t[]){4}, 1);       /* 3 leaves: a tail before its head */
    append(&trace, (uint64_t[]){1, 2, 3}, 3); /* 2 hits, 4 leaves for 3 */
    append(&trace, (uint64_t[]){4, 1}, 2);    /* none: 4 is gone, and 2 leaves for it */
    append(&trace, (uint64_t[]){1, 2, 3}, 3); /* 1 hit */
    cr_assert_eq(kvf_trace_finish(&trace), KVF_OK);
    kvf_replay_result_t result = run(&trace, KVF_EVICT_LRU, 3);
    cr_assert_eq(result.hits, 3);
    cr_assert_float_eq(kvf_replay_hit_ratio(&result), 3.0 / 12, 1e-12);
    kvf_trace_fini(&trace);
}

Test(replay, prompt_longer_than_the_store_is_survived) {
    kvf_trace_t trace = make_scan(30, 50, 2);
    for (unsigned kind = 0; kind < KVF_EVICT_KINDS; kind++) {
        for (uint64_t capacity = 1; capacity < 60; capacity += 7) {
            cr_assert_leq(run(&trace, (kvf_evict_kind_t)kind, capacity).hits, trace.blocks);
        }
    }
    kvf_trace_fini(&trace);
}

Test(replay, default_policy_keeps_a_reused_set_through_scans_and_lru_does_not) {
    kvf_trace_t trace = make_scan(3000, 20, 40); /* 800 reused blocks, 80,000 that never return */
    double bound = kvf_replay_hit_ratio(&(kvf_replay_result_t[]){run(&trace, KVF_EVICT_LRU, trace.unique)}[0]);
    kvf_replay_result_t s3fifo = run(&trace, KVF_EVICT_S3FIFO, 1200), lru = run(&trace, KVF_EVICT_LRU, 1200);
    cr_assert_gt(kvf_replay_hit_ratio(&s3fifo), 0.95 * bound);
    cr_assert_lt(kvf_replay_hit_ratio(&lru), 0.7 * bound);
    kvf_trace_fini(&trace);
}

Test(replay, nonsense_is_refused) {
    kvf_trace_t trace = {0};
    kvf_replay_result_t result;
    cr_assert_eq(kvf_trace_finish(&trace), KVF_OK);
    cr_assert_eq(kvf_replay_run(&trace, KVF_EVICT_LRU, 0, 1, &result), KVF_ERR_INVALID);
    cr_assert_eq(kvf_replay_run(&trace, KVF_EVICT_LRU, 1, 0, &result), KVF_ERR_INVALID);
    cr_assert_eq(kvf_replay_run(&trace, KVF_EVICT_LRU, UINT64_MAX, 1, &result), KVF_ERR_INVALID);
    cr_assert_eq(kvf_replay_run(&trace, KVF_EVICT_KINDS, 1, 1, &result), KVF_ERR_INVALID);
    cr_assert_eq(kvf_replay_run(&trace, KVF_EVICT_LRU, 1, SIZE_MAX, &result), KVF_OK);
    cr_assert_eq(kvf_replay_hit_ratio(&result), 0);
    kvf_trace_fini(&trace);
}

static kvf_status_t load_text(const char *text, kvf_trace_t *trace, size_t *line) {
    char path[] = "/tmp/kvf_replay_XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    kvf_status_t status = kvf_trace_load(path, trace, line);
    unlink(path);
    return status;
}

Test(replay, trace_file_is_read) {
    kvf_trace_t trace;
    size_t line;
    cr_assert_eq(
        load_text("{\"timestamp\": 0, \"hash_ids\": [5, 900]}\n{\"hash_ids\": []}\n{\"hash_ids\": [5]}", &trace, &line),
        KVF_OK);
    cr_assert_eq(trace.prompts, 3);
    cr_assert_eq(trace.blocks, 3);
    cr_assert_eq(trace.unique, 2);
    cr_assert_eq(trace.starts[3], 3);
    cr_assert_eq(trace.names[0], trace.names[2]);
    cr_assert_neq(trace.names[0], trace.names[1]);
    kvf_trace_fini(&trace);
}

Test(replay, broken_trace_file_is_refused_with_its_line) {
    const char *broken[] = {"{\"hash_ids\": [1, \"a\"]}",
                            "{\"hash_ids\": 3}",
                            "{}",
                            "[1]",
                            "{\"hash_ids\": [1",
                            "garbage",
                            "\n",
                            "{\"hash_ids\": [1.5]}",
                            "{\"hash_ids\": [99999999999999999999999]}"};
    for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
        char text[128];
        snprintf(text, sizeof(text), "{\"hash_ids\": [1]}\n%s", broken[i]);
        kvf_trace_t trace;
        size_t line;
        cr_assert_eq(load_text(text, &trace, &line), KVF_ERR_INVALID, "%s", broken[i]);
        cr_assert_eq(line, 2);
        cr_assert_null(trace.keys);
    }
    kvf_trace_t trace;
    size_t line;
    cr_assert_eq(kvf_trace_load("/nonexistent/trace", &trace, &line), KVF_ERR_NOT_FOUND);
}

#include "daemon/metrics.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

enum { ROUNDS = 20000 };

static kvf_metrics_t *metrics[2];

static void start(void) {
    for (int i = 0; i < 2; i++) cr_assert((metrics[i] = kvf_metrics_create()) != NULL);
}
static void stop(void) {
    for (int i = 0; i < 2; i++) kvf_metrics_destroy(metrics[i]);
}
TestSuite(metrics, .init = start, .fini = stop);

static json_t *collect(void) {
    json_t *tree = kvf_metrics_collect((const kvf_metrics_t *const *)metrics, 2);
    cr_assert(tree != NULL);
    return tree;
}

/* The number at a path like "operations.put.requests", -1 if there is none. */
static json_int_t at(const json_t *tree, const char *path) {
    char name[64];
    const char *dot;
    for (; (dot = strchr(path, '.')) != NULL; path = dot + 1) {
        snprintf(name, sizeof(name), "%.*s", (int)(dot - path), path);
        tree = json_object_get(tree, name);
    }
    const json_t *value = json_object_get(tree, path);
    return json_is_integer(value) ? json_integer_value(value) : -1;
}

Test(metrics, instances_share_no_cache_line) {
    for (int i = 0; i < 2; i++) cr_assert_eq((uintptr_t)metrics[i] % KVF_CACHE_LINE_BYTES, 0);
    cr_assert_eq(sizeof(kvf_metrics_t) % KVF_CACHE_LINE_BYTES, 0);
}

Test(metrics, a_new_instance_is_all_zero_and_has_every_row) {
    json_t *tree = collect();
#define CHECK_VALUE(name, kind, unit, description) values++;
    size_t values = 0;
    KVF_METRICS_TABLE(CHECK_VALUE)
    cr_assert_eq(json_object_size(tree), values + 3);
    cr_assert_eq(at(tree, "sessions"), 0);
    cr_assert_eq(at(tree, "memory_bytes"), 0);
    cr_assert_eq(json_object_size(json_object_get(tree, "operations")), 7);
    cr_assert_eq(json_object_size(json_object_get(tree, "statuses")), (size_t)KVF_STATUS_COUNT);
    cr_assert_eq(json_object_size(json_object_get(tree, "key_statuses")), (size_t)KVF_STATUS_COUNT);
    cr_assert_eq(at(tree, "operations.ping.latency_ns.p99"), 0);
    json_decref(tree);
}

Test(metrics, threads_add_up_and_rows_do_not_mix) {
    kvf_metrics_add(metrics[0], KVF_METRIC_BLOCKS_STORED, 3);
    kvf_metrics_add(metrics[1], KVF_METRIC_BLOCKS_STORED, 4);
    kvf_metrics_add(metrics[1], KVF_METRIC_BLOCKS_EVICTED, 1);
    kvf_metrics_add(metrics[0], KVF_METRIC_BLOCK_BYTES, 50);
    json_t *tree = collect();
    cr_assert_eq(at(tree, "blocks_stored"), 7);
    cr_assert_eq(at(tree, "blocks_evicted"), 1);
    cr_assert_eq(at(tree, "block_bytes"), 50);
    cr_assert_eq(at(tree, "blocks_deleted"), 0);
    json_decref(tree);
}

Test(metrics, a_gauge_may_fall_on_another_thread_than_it_rose_on) {
    kvf_metrics_add(metrics[0], KVF_METRIC_SESSIONS, 5);
    kvf_metrics_sub(metrics[1], KVF_METRIC_SESSIONS, 3);
    cr_assert_eq(kvf_metrics_sum((const kvf_metrics_t *const *)metrics, 2, KVF_METRIC_SESSIONS), 2);
}

Test(metrics, a_gauge_below_zero_shows_as_zero) {
    kvf_metrics_sub(metrics[1], KVF_METRIC_SESSIONS, 3);
    json_t *tree = collect();
    cr_assert_eq(at(tree, "sessions"), 0);
    json_decref(tree);
}

Test(metrics, a_finished_request_counts_with_status_and_latency) {
    kvf_metrics_finish(metrics[0], KVF_OPERATION_GET, KVF_OK, 1000);
    kvf_metrics_finish(metrics[1], KVF_OPERATION_GET, KVF_ERR_BUSY, 3000);
    kvf_metrics_finish(metrics[1], KVF_OPERATION_PUT, (kvf_status_t)-9999, 10);
    kvf_metrics_count(metrics[0], KVF_OPERATION_GET, KVF_OPERATION_HITS, 12);
    json_t *tree = collect();
    cr_assert_eq(at(tree, "operations.get.requests"), 2);
    cr_assert_eq(at(tree, "operations.get.hits"), 12);
    cr_assert_eq(at(tree, "operations.get.misses"), 0);
    cr_assert_eq(at(tree, "operations.get.latency_ns.count"), 2);
    cr_assert_eq(at(tree, "operations.get.latency_ns.mean"), 2000);
    const json_int_t max = at(tree, "operations.get.latency_ns.max");
    cr_assert(max >= 3000 && max < 3024);
    cr_assert_eq(at(tree, "operations.put.requests"), 1);
    cr_assert_eq(at(tree, "statuses.KVF_OK"), 1);
    cr_assert_eq(at(tree, "statuses.KVF_ERR_BUSY"), 1);
    cr_assert_eq(at(tree, "statuses.KVF_ERR_INTERNAL"), 1, "an unknown status is an internal error");
    cr_assert_eq(at(tree, "key_statuses.KVF_OK"), 0, "requests are not keys");
    json_decref(tree);
    kvf_metrics_count_keys(metrics[0], KVF_ERR_BUSY, 2);
    kvf_metrics_count_keys(metrics[1], KVF_ERR_BUSY, 3);
    tree = collect();
    cr_assert_eq(at(tree, "key_statuses.KVF_ERR_BUSY"), 5);
    cr_assert_eq(at(tree, "statuses.KVF_ERR_BUSY"), 1, "keys are not requests");
    json_decref(tree);
}

Test(metrics, text_has_a_line_for_every_number_of_the_json) {
    kvf_text_t text;
    kvf_text_init(&text, 1 << 20);
    kvf_metrics_add(metrics[0], KVF_METRIC_SPACES, 2);
    json_t *tree = collect();
    json_object_set_new(tree, "version", json_string("1\n2"));
    kvf_metrics_render(tree, KVF_METRICS_TEXT, &text);
    cr_assert_eq(text.status, KVF_OK);
    cr_assert(strstr(text.data, "\nspaces 2\n"), "%s", text.data);
    cr_assert(strstr(text.data, "\noperations.put.latency_ns.p999 0\n"));
    cr_assert(strstr(text.data, "\nversion 1\\n2\n"));
    kvf_text_clear(&text);
    json_decref(tree);
}

Test(metrics, json_is_one_line_that_parses_to_the_same) {
    kvf_text_t text;
    kvf_text_init(&text, 1 << 20);
    json_t *tree = collect();
    json_object_set_new(tree, "name", json_string("a\nb"));
    kvf_metrics_render(tree, KVF_METRICS_JSON, &text);
    cr_assert_eq(strchr(text.data, '\n'), text.data + text.size - 1);
    json_t *back = json_loads(text.data, 0, NULL);
    cr_assert(json_equal(tree, back));
    json_decref(back);
    json_decref(tree);
    kvf_text_clear(&text);
}

Test(metrics, a_text_that_is_too_small_says_so) {
    kvf_text_t text;
    json_t *tree = collect();
    for (int format = KVF_METRICS_TEXT; format <= KVF_METRICS_JSON; format++) {
        kvf_text_init(&text, 64);
        kvf_metrics_render(tree, (kvf_metrics_format_t)format, &text);
        cr_assert_eq(text.status, KVF_ERR_TOO_LARGE);
        cr_assert_leq(text.size, 64);
        kvf_text_clear(&text);
    }
    json_decref(tree);
}

Test(metrics, a_name_in_the_tree_cannot_fake_a_line) {
    kvf_text_t text;
    kvf_text_init(&text, 4096);
    json_t *inner = json_pack("{s:i}", "blocks", 1);
    json_t *tree = json_object();
    json_object_set_new(tree, "space\nEND\n", inner);
    kvf_metrics_render(tree, KVF_METRICS_TEXT, &text);
    cr_assert_str_eq(kvf_text_string(&text), "space\\nEND\\n.blocks 1\n");
    json_decref(tree);
    kvf_text_clear(&text);
}

Test(metrics, each_number_is_described) {
    kvf_text_t text;
    kvf_text_init(&text, 1 << 20);
    kvf_metrics_describe(&text);
    cr_assert(strstr(text.data, "\nblocks_evicted counter blocks Blocks that made room for others\n"), "%s", text.data);
    cr_assert(strstr(text.data, "\noperations.match.hits counter keys Keys that were found\n"));
    kvf_text_clear(&text);
}

static void *count_up_and_down(void *arg) {
    kvf_metrics_t *mine = arg;
    for (int i = 0; i < ROUNDS; i++) {
        kvf_metrics_add(mine, KVF_METRIC_SESSIONS, 1);
        kvf_metrics_finish(mine, KVF_OPERATION_PING, KVF_OK, 100);
        kvf_metrics_sub(metrics[0], KVF_METRIC_SESSIONS, 1);
    }
    return NULL;
}

Test(metrics, a_reader_beside_writers_sees_sane_numbers) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) cr_assert_eq(pthread_create(&threads[i], NULL, count_up_and_down, metrics[i]), 0);
    for (int i = 0; i < 10; i++) {
        json_t *tree = collect();
        cr_assert_leq(at(tree, "sessions"), 2 * ROUNDS);
        cr_assert_leq(at(tree, "operations.ping.requests"), 2 * ROUNDS);
        json_decref(tree);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    json_t *tree = collect();
    cr_assert_eq(at(tree, "sessions"), 0);
    cr_assert_eq(at(tree, "operations.ping.latency_ns.count"), 2 * ROUNDS);
    json_decref(tree);
}

/* ---- text ---- */

Test(metrics, a_text_keeps_to_its_limit_and_its_first_failure) {
    kvf_text_t text;
    kvf_text_init(&text, 5);
    kvf_text_append(&text, "abc", 3);
    kvf_text_printf(&text, "%s", "de");
    cr_assert_eq(text.status, KVF_OK);
    kvf_text_append(&text, "f", 1);
    kvf_text_append(&text, "", 0);
    cr_assert_eq(text.status, KVF_ERR_TOO_LARGE);
    cr_assert_str_eq(kvf_text_string(&text), "abcde");
    kvf_text_clear(&text);
    cr_assert_eq(text.status, KVF_OK);
    cr_assert_str_eq(kvf_text_string(&text), "");
}

Test(metrics, a_text_escapes_long_bytes_piece_by_piece) {
    char bytes[300];
    kvf_text_t text;
    memset(bytes, 0xff, sizeof(bytes));
    kvf_text_init(&text, 4096);
    kvf_text_append_escaped(&text, bytes, sizeof(bytes));
    cr_assert_eq(text.size, 4 * sizeof(bytes));
    cr_assert_str_eq(text.data + text.size - 4, "\\xff");
    kvf_text_clear(&text);
}

/* Blocks, spaces and daemons that go while real KV is fused: right rows or misses, and nothing is left of what went. */
#include "tests/integration/sample_rig.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

enum { ENOUGH = 4 /* copies that have the tokens to make a basis of at once: without a wait */ };

static const char *const few_encoders[] = {"--host-bytes", "256MiB", "--encoders", "2", NULL};

/* ---- blocks and spaces that go ---- */

typedef struct flight {
    kvf_request_t requests[8];
    size_t count;
} flight_t;

/* Gets of all blocks, several at once. The memory is shared out: no two write to the same. */
static void take_off(sample_client_t *client, flight_t *flight) {
    size_t each = client->sample->count / 8;
    for (flight->count = 0; flight->count < 8; flight->count++) {
        size_t first = flight->count * each;
        kvf_request_options_t options = {.bounds = client->bounds + 2 * first};
        cr_assert_eq(kvf_get(client->space, client->blocks + first, each, &options, client->statuses + first,
                             &flight->requests[flight->count]),
                     KVF_OK);
    }
}

static size_t land(sample_client_t *client, const flight_t *flight) {
    for (size_t i = 0; i < flight->count; i++) (void)kvf_wait_request(client->client, flight->requests[i], NULL);
    return sample_check(client, 0, client->sample->count, true);
}

static void delete_all(sample_client_t *client) {
    kvf_key_t keys[SAMPLE_BLOCKS * SAMPLE_COPIES_MAX];
    kvf_request_t request;
    for (size_t i = 0; i < client->sample->count; i++) keys[i] = client->blocks[i].key;
    cr_assert_eq(kvf_delete(client->space, keys, client->sample->count, NULL, client->statuses, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(client->client, request, NULL), KVF_PARTIAL); /* two have a key twice */
}

Test(fused_spaces, after_deleting_all_blocks_no_unit_is_left) {
    sample_store_t store;
    sample_store_start(&store, ENOUGH, "error 0.05", few_encoders);
    sample_store_code(&store);
    cr_assert_gt(daemon_stat(&store.daemon, "fusion.units"), 0);
    flight_t flight;
    take_off(&store.client, &flight);
    sample_client_t other;
    kvf_client_options_t options = sample_options(&store.daemon);
    sample_connect(&other, &store.sample, &options, "fused", "error 0.05");
    delete_all(&other);
    land(&store.client, &flight);
    sample_wait_stat(&store.daemon, "fusion.units", 0);
    sample_wait_stat(&store.daemon, "fusion.bytes_records", 0);
    sample_wait_stat(&store.daemon, "fusion.bytes_units", 0);
    sample_wait_stat(&store.daemon, "blocks", 0);
    cr_assert_eq(sample_get(&store.client, 0, 8), KVF_ERR_NOT_FOUND);
    sample_store_code(&store); /* and again, with what is left of it in the clients' caches */
    sample_get_all_coded(&store.client);
    sample_get_all_coded(&other);
    sample_disconnect(&other);
    sample_store_stop(&store);
}

Test(fused_spaces, a_block_that_is_deleted_before_it_is_coded_leaves_nothing) {
    sample_store_t store;
    sample_store_start(&store, ENOUGH, "error 0.05", few_encoders);
    for (int round = 0; round < 3; round++) {
        sample_put_patiently(&store.client, 0, store.sample.count);
        delete_all(&store.client);
        sample_wait_stat(&store.daemon, "staging_bytes", 0);
        sample_wait_stat(&store.daemon, "fusion.units", 0);
        cr_assert_eq(daemon_stat(&store.daemon, "blocks"), 0);
        cr_assert_eq(sample_get(&store.client, 0, 8), KVF_ERR_NOT_FOUND);
    }
    sample_store_stop(&store);
}

Test(fused_spaces, a_space_that_is_dropped_under_gets_gives_right_rows_or_misses) {
    sample_store_t store;
    sample_store_start(&store, ENOUGH, "error 0.05", few_encoders);
    sample_client_t other;
    kvf_client_options_t options = sample_options(&store.daemon);
    sample_connect(&other, &store.sample, &options, "fused", "error 0.05");
    kvf_error_t error;
    for (unsigned round = 0; round < 4; round++) {
        sample_put_patiently(&store.client, 0, store.sample.count);
        if (round % 2) sample_wait_coded(&store.daemon); /* else while it is being coded */
        flight_t flight;
        take_off(&store.client, &flight);
        sample_sleep_ms(round);
        cr_assert_eq(kvf_space_drop(other.client, "fused", &error), KVF_OK, "%s", error.text);
        land(&store.client, &flight);
        cr_assert_eq(sample_get(&store.client, 0, 8), KVF_ERR_NOT_FOUND);
        sample_flip(&store.sample); /* what comes next is not what was kept */
        kvf_space_t *again;
        cr_assert_eq(
            kvf_space_open(store.client.client, "fused", store.sample.layout, &store.client.policy, &again, &error),
            KVF_OK, "%s", error.text);
        cr_assert_eq(again, store.client.space);
    }
    sample_store_code(&store);
    sample_get_all_coded(&store.client);
    sample_wait_stat(&store.daemon, "spaces", 1);
    sample_disconnect(&other);
    sample_store_stop(&store);
}

Test(fused_spaces, a_space_is_not_opened_under_another_policy) {
    static const struct {
        const char *policy, *names;
    } others[] = {{"error 0.06", "error_k"},
                  {"error K=0.05,V=0.1", "error_v"},
                  {"ratio 6", "has error, asked for ratio"},
                  {"exact", "has error, asked for exact"}};
    sample_store_t store;
    sample_store_start(&store, 1, "error 0.05", NULL);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        kvf_policy_t policy;
        kvf_error_t error = {.text = ""};
        kvf_space_t *space;
        cr_assert_eq(kvf_policy_parse(others[i].policy, &policy, &error), KVF_OK);
        cr_assert_eq(kvf_space_open(store.client.client, "fused", store.sample.layout, &policy, &space, &error),
                     KVF_ERR_POLICY, "%s", others[i].policy);
        cr_assert(strstr(error.text, others[i].names), "%s: %s", others[i].policy, error.text);
    }
    sample_store_stop(&store);
}

/* ---- budgets ---- */

Test(fused_spaces, puts_beyond_staging_are_busy_and_succeed_when_made_again) {
    static const char *const args[] = {"--host-bytes", "256MiB", "--staging-bytes", "26MiB", "--encoders", "2", NULL};
    sample_store_t store;
    sample_store_start(&store, 5, "error 0.05", args); /* the first 64 of 100 blocks fit, and are enough for a basis */
    cr_assert_eq(sample_put(&store.client, 0, store.sample.count), KVF_PARTIAL);
    size_t stored = 0, busy = 0;
    for (size_t i = 0; i < store.sample.count; i++) {
        stored += store.client.statuses[i] >= 0;
        busy += store.client.statuses[i] == KVF_ERR_BUSY;
    }
    cr_assert_gt(busy, 0);
    cr_assert_eq(stored + busy, store.sample.count);
    cr_assert_leq(daemon_stat(&store.daemon, "staging_bytes"), 26 << 20);
    cr_assert_gt(daemon_stat(&store.daemon, "staging_refused"), 0);
    sample_store_code(&store);
    sample_get_all_coded(&store.client);
    sample_store_stop(&store);
}

Test(fused_spaces, puts_beyond_staging_wait_for_room_if_asked) {
    static const char *const args[] = {"--host-bytes", "256MiB", "--staging-bytes", "26MiB", "--encoders", "2", NULL};
    sample_store_t store;
    sample_store_start(&store, 5, "error 0.05", args);
    sample_put_patiently(&store.client, 0, store.sample.count);
    cr_assert_gt(daemon_stat(&store.daemon, "staging_refused"), 0, "nothing was held back");
    uint64_t existed = daemon_stat(&store.daemon, "blocks_existed"); /* the sample has some texts twice */
    cr_assert_eq(daemon_stat(&store.daemon, "blocks_stored") + existed, store.sample.count);
    sample_store_code(&store);
    sample_get_all_coded(&store.client);
    sample_store_stop(&store);
}

/* ---- restarts ---- */

/* The same texts and keys, but other bytes: an old unit, basis or record would be seen. */
Test(fused_spaces, nothing_of_a_daemon_that_is_gone_is_used_for_the_next) {
    sample_store_t store;
    sample_store_start(&store, ENOUGH, "error 0.05", few_encoders);
    sample_store_code(&store);
    sample_get_all_coded(&store.client);
    flight_t flight;
    take_off(&store.client, &flight);
    cr_assert_eq(daemon_signal(&store.daemon, SIGKILL), -SIGKILL);
    daemon_start_again(&store.daemon);
    land(&store.client, &flight);
    sample_flip(&store.sample);
    sample_get(&store.client, 0, store.sample.count); /* waits for the connection, or loses it */
    cr_assert_eq(sample_check(&store.client, 0, store.sample.count, true), 0);
    sample_store_code(&store);
    sample_get_all_coded(&store.client);
    kvf_client_info_t info;
    kvf_client_get_info(store.client.client, &info);
    cr_assert_geq(info.reconnects, 1);
    sample_store_stop(&store);
}

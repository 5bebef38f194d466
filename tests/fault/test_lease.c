/* A get through shared memory whose lease ends early, between two turns of the copy. The test drives the client's loop
 * itself, so it knows when that is. */
#include "client_rig.h"
#include "fake_daemon.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 8 << 20 /* two turns */, LAYERS = 8 };

typedef struct setup {
    fake_daemon_t *fake;
    kvf_client_t *client;
    kvf_space_t *space;
    unsigned char *memory; /* [BLOCK_BYTES] */
    kvf_piece_t piece;
    kvf_block_t block;
    kvf_status_t status;
} setup_t;

static void open_all(setup_t *setup, bool skip_verify) {
    *setup = (setup_t){.fake = fake_start(&(fake_options_t){.with_memory = true})};
    kvf_client_options_t options = rig_options(fake_address(setup->fake), KVF_TRANSPORT_SHARED);
    options.progress = KVF_PROGRESS_CALLER;
    options.skip_verify = skip_verify;
    options.bounce_bytes = BLOCK_BYTES;
    kvf_layout_t layout = {.layers = LAYERS,
                           .planes = 1,
                           .kv_heads = 32,
                           .head_dim = 1024,
                           .block_tokens = BLOCK_BYTES / LAYERS / 32 / 1024 / 2,
                           .dtype = KVF_BF16,
                           .model = "lease"};
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_error_t error = {.text = ""};
    cr_assert_eq(kvf_layout_block_bytes(&layout), BLOCK_BYTES);
    cr_assert_eq(kvf_connect(&options, &setup->client, &error), KVF_OK, "%s", error.text);
    cr_assert_eq(kvf_space_open(setup->client, "lease", &layout, &policy, &setup->space, &error), KVF_OK, "%s",
                 error.text);
    setup->memory = malloc(BLOCK_BYTES);
    cr_assert_not_null(setup->memory);
    memset(setup->memory, 1, BLOCK_BYTES);
    setup->piece = (kvf_piece_t){setup->memory, BLOCK_BYTES};
    setup->block = (kvf_block_t){.key = {"a", 1}, .pieces = &setup->piece, .num_pieces = 1};
    kvf_request_t request;
    cr_assert_eq(kvf_put(setup->space, &setup->block, 1, NULL, NULL, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(setup->client, request, NULL), KVF_OK);
}

static void close_all(setup_t *setup) {
    kvf_close(setup->client);
    fake_stop(setup->fake);
    free(setup->memory);
}

/* Starts to get the block, and stops when some of it has come but not all. */
static kvf_request_t get_half(setup_t *setup) {
    memset(setup->memory, 2, BLOCK_BYTES);
    kvf_request_t request;
    kvf_completion_t none;
    cr_assert_eq(kvf_get(setup->space, &setup->block, 1, NULL, &setup->status, &request), KVF_OK);
    while (setup->memory[0] == 2) cr_assert_eq(kvf_poll(setup->client, &none, 1), 0);
    cr_assert_eq(setup->memory[BLOCK_BYTES - 1], 2, "it came in one turn");
    return request;
}

static bool skips[] = {false, true};
ParameterizedTestParameters(lease, a_slot_with_another_record_after_the_copy_is_a_miss) {
    return cr_make_param_array(bool, skips, 2);
}
ParameterizedTest(bool *skip_verify, lease, a_slot_with_another_record_after_the_copy_is_a_miss) {
    setup_t setup;
    open_all(&setup, *skip_verify);
    kvf_request_t request = get_half(&setup);
    uint8_t *slot = fake_segment(setup.fake)->base;
    ((kvf_record_head_t *)(void *)slot)->generation++; /* as the daemon does that gives the slot to another key */
    memset(slot + kvf_record_data_offset(LAYERS), 3, BLOCK_BYTES);
    cr_assert_eq(kvf_wait_request(setup.client, request, NULL), KVF_ERR_NOT_FOUND, "%s", kvf_status_name(setup.status));
    close_all(&setup);
}

Test(lease, a_slot_that_keeps_its_record_is_a_hit_without_checksums) {
    setup_t setup;
    open_all(&setup, true);
    cr_assert_eq(kvf_wait_request(setup.client, get_half(&setup), NULL), KVF_OK);
    for (size_t i = 0; i < BLOCK_BYTES; i++) cr_assert_eq(setup.memory[i], 1);
    close_all(&setup);
}

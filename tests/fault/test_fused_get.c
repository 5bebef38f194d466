/* Blocks of a fused space come back as the coder decodes them, wherever they go, whatever else happens meanwhile. */
#include "client/state.h"
#include "fake_fused.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static kvf_layout_t small;

/* A delete ends the connection. */
static bool hang_up_on_delete(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    if (head->type != KVF_FRAME_DELETE) return fake_fused_on_frame(fake, head, data);
    fake_close(fake);
    return true;
}

static void hang_up(rig_t *rig) {
    kvf_request_t request;
    cr_assert_eq(kvf_delete(rig->space, rig->keys, 1, NULL, NULL, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(rig->client, request, NULL), KVF_ERR_DISCONNECTED);
}

static fake_daemon_t *start(const kvf_layout_t *layout) {
    fake_fused_make(layout);
    return fake_start(&(fake_options_t){.on_frame = hang_up_on_delete, .is_fused = true, .with_memory = true});
}

static fake_daemon_t *start_small(rig_t *rig, const kvf_client_options_t *more) {
    small = rig_layout();
    fake_daemon_t *fake = start(&small);
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    if (more) {
        options.transport = more->transport;
        options.progress = more->progress;
        options.unit_cache_bytes = more->unit_cache_bytes;
        options.skip_verify = more->skip_verify;
    }
    fake_fused_open(rig, &options, &small);
    return fake;
}

static void stop(fake_daemon_t *fake, rig_t *rig) {
    rig_close(rig);
    fake_stop(fake);
    fake_fused_free();
}

static bool is_block(const rig_t *rig, size_t i) {
    return !memcmp(rig->memory + i * rig->block_bytes, fake_fused_block(i), rig->block_bytes);
}

static void sleep_ms(unsigned ms) { nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL); }

static void get_all(rig_t *rig) {
    cr_assert_eq(rig_get(rig, RIG_BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert(is_block(rig, i), "block %zu", i);
}

/* ---- where they go ---- */

Test(fused_get, blocks_come_back_as_the_coder_decodes_them) {
    static const fake_fused_t forms[] = {{0},
                                         {.is_exact = true},
                                         {.is_exact = true, .has_model = true},
                                         {.is_exact = true, .has_model = true, .is_fine = true}};
    static const kvf_client_options_t ways[] = {{.transport = KVF_TRANSPORT_NETWORK},
                                                {.transport = KVF_TRANSPORT_AUTO},
                                                {.transport = KVF_TRANSPORT_NETWORK, .skip_verify = true},
                                                {.progress = KVF_PROGRESS_CALLER}};
    for (size_t f = 0; f < sizeof(forms) / sizeof(forms[0]); f++)
        for (size_t w = 0; w < sizeof(ways) / sizeof(ways[0]); w++) {
            fake_fused = forms[f];
            rig_t rig;
            fake_daemon_t *fake = start_small(&rig, &ways[w]);
            get_all(&rig);
            get_all(&rig);
            cr_assert_eq(fake_count(fake, KVF_FRAME_GET_BASIS), 1);
            cr_assert_eq(fake_count(fake, KVF_FRAME_RELEASE), 0, "no leases");
            stop(fake, &rig);
        }
}

Test(fused_get, bounds_are_told_and_are_zero_for_what_is_exact) {
    fake_fused = (fake_fused_t){.raw_blocks = 1u << 3, .missing = 1u << 5};
    rig_t rig;
    fake_daemon_t *fake = start_small(&rig, NULL);
    float bounds[2 * RIG_BLOCKS];
    for (size_t i = 0; i < 2 * RIG_BLOCKS; i++) bounds[i] = -1;
    kvf_request_options_t options = {.bounds = bounds};
    kvf_request_t request;
    cr_assert_eq(kvf_get(rig.space, rig.blocks, RIG_BLOCKS, &options, rig.statuses, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(rig.client, request, NULL), KVF_PARTIAL);
    for (size_t i = 0; i < RIG_BLOCKS; i++) {
        cr_assert_eq(rig.statuses[i], i == 5 ? KVF_ERR_NOT_FOUND : KVF_OK);
        if (i != 5) cr_assert(is_block(&rig, i), "block %zu", i);
        for (size_t p = 0; p < 2; p++) cr_assert_eq(bounds[2 * i + p], i == 3 || i == 5 ? 0 : FUSED_BOUND);
    }
    stop(fake, &rig);
}

/* Cuts [bytes] from `base` in pieces of `most` bytes. Returns how many. */
static size_t cut(unsigned char *base, size_t bytes, size_t most, kvf_piece_t *pieces) {
    size_t count = 0;
    for (size_t at = 0; at < bytes; at += most)
        pieces[count++] = (kvf_piece_t){.base = base + at, .bytes = bytes - at < most ? bytes - at : most};
    return count;
}

Test(fused_get, layers_go_to_pieces_that_are_cut_anywhere) {
    static const struct { uint32_t first, count; } ranges[] = {{0, 4}, {1, 2}, {3, 1}};
    static const size_t cuts[] = {1000, 1024, 3, 1537};
    fake_fused = (fake_fused_t){.raw_blocks = 1u << 2};
    rig_t rig;
    fake_daemon_t *fake = start_small(&rig, NULL);
    kvf_piece_t *pieces = malloc(rig.block_bytes * sizeof(*pieces));
    unsigned char *memory = malloc(rig.block_bytes + 2); /* at an odd address, with a byte that is nobody's behind it */
    for (size_t r = 0; r < sizeof(ranges) / sizeof(ranges[0]); r++)
        for (size_t c = 0; c < sizeof(cuts) / sizeof(cuts[0]); c++)
            for (size_t i = 0; i < 4; i++) {
                size_t bytes = ranges[r].count * rig.layer_bytes;
                memset(memory, 0xaa, rig.block_bytes + 2);
                kvf_block_t block = {.key = rig.keys[i], .pieces = pieces};
                block.num_pieces = cut(memory + 1, bytes, cuts[c], pieces);
                kvf_request_options_t options = {.first_layer = ranges[r].first, .num_layers = ranges[r].count};
                kvf_request_t request;
                cr_assert_eq(kvf_get(rig.space, &block, 1, &options, NULL, &request), KVF_OK);
                cr_assert_eq(kvf_wait_request(rig.client, request, NULL), KVF_OK);
                cr_assert_arr_eq(memory + 1, fake_fused_block(i) + ranges[r].first * rig.layer_bytes, bytes);
                cr_assert(memory[0] == 0xaa && memory[bytes + 1] == 0xaa);
            }
    free(memory);
    free(pieces);
    stop(fake, &rig);
}

Test(fused_get, blocks_of_several_versions_come_in_one_frame) {
    fake_fused = (fake_fused_t){.two_versions = true};
    rig_t rig;
    fake_daemon_t *fake = start_small(&rig, NULL);
    get_all(&rig);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET), 1);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_BASIS), 2);
    stop(fake, &rig);
}

/* ---- what is asked for ---- */

Test(fused_get, units_that_did_not_come_are_asked_for_once_and_kept) {
    fake_fused = (fake_fused_t){.withholds_units = true};
    rig_t rig;
    fake_daemon_t *fake = start_small(&rig, NULL);
    for (int i = 0; i < 3; i++) get_all(&rig);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_UNITS), 1);
    stop(fake, &rig);
}

Test(fused_get, units_that_the_cache_has_no_room_for_are_asked_for_again) {
    fake_fused = (fake_fused_t){.withholds_units = true};
    rig_t rig;
    fake_daemon_t *fake = start_small(&rig, &(kvf_client_options_t){.unit_cache_bytes = 8192});
    for (int i = 0; i < 3; i++) get_all(&rig);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_UNITS), 3);
    cr_assert_leq(rig.client->units.bytes, 8192);
    stop(fake, &rig);
}

Test(fused_get, requests_wait_for_one_basis_together) {
    fake_fused = (fake_fused_t){0};
    rig_t rig;
    fake_daemon_t *fake = start_small(&rig, NULL);
    kvf_request_t requests[RIG_BLOCKS];
    for (size_t i = 0; i < RIG_BLOCKS; i++)
        cr_assert_eq(kvf_get(rig.space, &rig.blocks[i], 1, NULL, NULL, &requests[i]), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++) {
        cr_assert_eq(kvf_wait_request(rig.client, requests[i], NULL), KVF_OK);
        cr_assert(is_block(&rig, i));
    }
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_BASIS), 1);
    stop(fake, &rig);
}

Test(fused_get, one_request_at_a_time_is_enough) {
    small = rig_layout();
    fake_fused = (fake_fused_t){.withholds_units = true, .two_versions = true};
    fake_fused_make(&small);
    fake_daemon_t *fake = fake_start(
        &(fake_options_t){.on_frame = fake_fused_on_frame, .is_fused = true, .max_requests = 1, .max_batch = 5});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    fake_fused_open(&rig, &options, &small);
    get_all(&rig);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET), 7);
    stop(fake, &rig);
}

/* ---- the connection's end ---- */

Test(fused_get, nothing_is_kept_for_the_next_connection) {
    fake_fused = (fake_fused_t){0};
    rig_t rig;
    fake_daemon_t *fake = start_small(&rig, NULL);
    get_all(&rig);
    unsigned sent = fake_fused_units_sent();
    hang_up(&rig);
    fake_fused.withholds_units = true; /* what is left of the last one would do */
    get_all(&rig);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_BASIS), 2);
    cr_assert_eq(fake_fused_units_sent(), 2 * sent);
    stop(fake, &rig);
}

static bool rename_space(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    if (head->type != KVF_FRAME_OPEN_SPACE) return fake_fused_on_frame(fake, head, data);
    Kvf__OpenSpaceReply reply = KVF__OPEN_SPACE_REPLY__INIT;
    reply.space = 10 + fake_count(fake, KVF_FRAME_OPEN_SPACE);
    reply.is_fused = true;
    fake_send(fake, KVF_FRAME_OPEN_SPACE_REPLY, head->request, &reply.base, NULL, 0);
    return true;
}

Test(fused_get, a_space_that_was_made_anew_has_other_units) {
    small = rig_layout();
    fake_fused = (fake_fused_t){.is_exact = true};
    fake_fused_make(&small);
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = rename_space});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    fake_fused_open(&rig, &options, &small);
    get_all(&rig);
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *again;
    cr_assert_eq(kvf_space_open(rig.client, "rig", &small, &policy, &again, NULL), KVF_OK);
    cr_assert_eq(again, rig.space);
    unsigned sent = fake_fused_units_sent();
    fake_fused.withholds_units = true;
    get_all(&rig);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_BASIS), 2);
    cr_assert_eq(fake_fused_units_sent(), 2 * sent);
    stop(fake, &rig);
}

static bool drop_space(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    if (head->type != KVF_FRAME_DROP_SPACE) return fake_fused_on_frame(fake, head, data);
    Kvf__DropSpaceReply reply = KVF__DROP_SPACE_REPLY__INIT;
    fake_send(fake, KVF_FRAME_DROP_SPACE_REPLY, head->request, &reply.base, NULL, 0);
    return true;
}

Test(fused_get, a_space_that_is_dropped_holds_nothing) {
    small = rig_layout();
    fake_fused = (fake_fused_t){0};
    fake_fused_make(&small);
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = drop_space, .is_fused = true});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    fake_fused_open(&rig, &options, &small);
    get_all(&rig);
    cr_assert(rig.space->bases && rig.client->units.bytes);
    cr_assert_eq(kvf_space_drop(rig.client, "rig", NULL), KVF_OK);
    cr_assert(!rig.space->bases && !rig.client->units.bytes);
    cr_assert_eq(rig_get(&rig, 1, 0), KVF_ERR_NOT_FOUND);
    stop(fake, &rig);
}

/* Answers for the basis only when the space was opened again, as another one. */
static uint64_t basis_request;
static bool rename_space_before_its_basis(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    if (head->type != KVF_FRAME_GET_BASIS && head->type != KVF_FRAME_OPEN_SPACE)
        return fake_fused_on_frame(fake, head, data);
    if (head->type == KVF_FRAME_GET_BASIS) {
        basis_request = head->request;
        return true;
    }
    rename_space(fake, head, data);
    if (basis_request) fake_fused_send_basis(fake, basis_request, FUSED_VERSION);
    return true;
}

Test(fused_get, blocks_of_a_space_that_became_another_one_are_misses) {
    small = rig_layout();
    fake_fused = (fake_fused_t){.is_exact = true, .two_versions = true};
    fake_fused_make(&small);
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = rename_space_before_its_basis});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    fake_fused_open(&rig, &options, &small);
    kvf_request_t request;
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *again;
    cr_assert_eq(kvf_get(rig.space, rig.blocks, RIG_BLOCKS, NULL, rig.statuses, &request), KVF_OK);
    while (!fake_count(fake, KVF_FRAME_GET_BASIS)) sleep_ms(1);
    cr_assert_eq(kvf_space_open(rig.client, "rig", &small, &policy, &again, NULL), KVF_OK);
    cr_assert_eq(kvf_wait_request(rig.client, request, NULL), KVF_ERR_NOT_FOUND);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_BASIS), 1);
    stop(fake, &rig);
}

/* ---- time ---- */

/* Holds the only thread of libuv's pool until it is let go. */
typedef struct plug {
    uv_loop_t loop;
    uv_work_t work;
    uv_sem_t begun, end;
} plug_t;

static void wait_for_end(uv_work_t *work) {
    plug_t *plug = work->data;
    uv_sem_post(&plug->begun);
    uv_sem_wait(&plug->end);
}

static void ignore_end(uv_work_t *work, int status) {
    (void)work;
    (void)status;
}

static void plug_in(plug_t *plug) {
    cr_assert(!uv_loop_init(&plug->loop) && !uv_sem_init(&plug->begun, 0) && !uv_sem_init(&plug->end, 0));
    plug->work.data = plug;
    cr_assert_eq(uv_queue_work(&plug->loop, &plug->work, wait_for_end, ignore_end), 0);
    uv_sem_wait(&plug->begun);
}

static void pull(plug_t *plug) {
    uv_sem_post(&plug->end);
    uv_run(&plug->loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&plug->loop), 0);
    uv_sem_destroy(&plug->begun);
    uv_sem_destroy(&plug->end);
}

Test(fused_get, a_timeout_cancels_what_has_not_begun) {
    cr_assert_eq(setenv("UV_THREADPOOL_SIZE", "1", 1), 0);
    fake_fused = (fake_fused_t){0};
    rig_t rig;
    fake_daemon_t *fake = start_small(&rig, NULL);
    get_all(&rig);
    plug_t plug;
    plug_in(&plug);
    cr_assert_eq(rig_get(&rig, RIG_BLOCKS, 100), KVF_ERR_TIMEOUT);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert(rig_is_wiped(&rig, i));
    pull(&plug);
    sleep_ms(20);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert(rig_is_wiped(&rig, i));
    get_all(&rig);
    stop(fake, &rig);
}

static const float big_frequencies[32] = {1, 0.5f, 0.25f};
static const kvf_layout_t big = {.layers = 8,
                                 .planes = 2,
                                 .kv_heads = 8,
                                 .head_dim = 64,
                                 .block_tokens = 16,
                                 .dtype = KVF_BF16,
                                 .rope_style = KVF_ROPE_NEOX,
                                 .rope_dim = 64,
                                 .rope_tables = 1,
                                 .rope_frequencies = big_frequencies,
                                 .model = "big"};

Test(fused_get, nothing_is_written_after_a_timeout_in_the_midst_of_decoding) {
    for (int is_caller = 0; is_caller < 2; is_caller++) {
        fake_fused = (fake_fused_t){0};
        fake_daemon_t *fake = start(&big);
        kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
        options.progress = is_caller ? KVF_PROGRESS_CALLER : KVF_PROGRESS_THREAD;
        rig_t rig;
        fake_fused_open(&rig, &options, &big);
        get_all(&rig);
        size_t bytes = RIG_BLOCKS * rig.block_bytes;
        unsigned char *before = malloc(bytes);
        for (unsigned i = 0; i < 16; i++) {
            kvf_status_t status = rig_get(&rig, RIG_BLOCKS, 1 + i % 8);
            cr_assert(status == KVF_OK || status == KVF_ERR_TIMEOUT || status == KVF_PARTIAL);
            memcpy(before, rig.memory, bytes);
            for (size_t b = 0; b < RIG_BLOCKS; b++)
                if (rig.statuses[b] == KVF_OK) cr_assert(is_block(&rig, b));
            sleep_ms(5);
            kvf_completion_t none;
            (void)kvf_poll(rig.client, &none, 1);
            cr_assert(!memcmp(before, rig.memory, bytes));
        }
        free(before);
        /* so many went unanswered, on a busy machine, that the connection may have been given up for another */
        for (unsigned i = 0; i < 10 && rig_get(&rig, RIG_BLOCKS, 0) != KVF_OK; i++) sleep_ms(100);
        get_all(&rig);
        stop(fake, &rig);
    }
}

Test(fused_get, close_waits_for_what_is_being_decoded) {
    fake_fused = (fake_fused_t){0};
    fake_daemon_t *fake = start(&big);
    for (unsigned i = 0; i < 12; i++) {
        kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
        options.progress = i % 3 == 2 ? KVF_PROGRESS_CALLER : KVF_PROGRESS_THREAD;
        rig_t rig;
        kvf_completion_t none;
        fake_fused_open(&rig, &options, &big);
        cr_assert_eq(kvf_get(rig.space, rig.blocks, RIG_BLOCKS, NULL, NULL, NULL), KVF_OK);
        if (options.progress == KVF_PROGRESS_CALLER)
            while (!rig.client->jobs) (void)kvf_poll(rig.client, &none, 0);
        else
            sleep_ms(i);
        rig_close(&rig); /* frees the blocks' memory */
    }
    fake_stop(fake);
    fake_fused_free();
}

Test(fused_get, a_lost_connection_ends_gets_that_are_being_decoded) {
    fake_fused = (fake_fused_t){0};
    fake_daemon_t *fake = start(&big);
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    fake_fused_open(&rig, &options, &big);
    for (unsigned i = 0; i < 6; i++) {
        kvf_request_t request;
        cr_assert_eq(kvf_get(rig.space, rig.blocks, RIG_BLOCKS, NULL, rig.statuses, &request), KVF_OK);
        sleep_ms(i);
        hang_up(&rig);
        kvf_status_t status = kvf_wait_request(rig.client, request, NULL);
        cr_assert(status == KVF_OK || status == KVF_PARTIAL || status == KVF_ERR_DISCONNECTED, "%d", status);
        for (size_t b = 0; b < RIG_BLOCKS; b++)
            if (rig.statuses[b] == KVF_OK) cr_assert(is_block(&rig, b));
    }
    stop(fake, &rig);
}

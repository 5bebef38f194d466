/* Blocks that the library codes before it puts them: within their bound, by way of the plan, and raw where that is no way. */
#include "client/state.h"
#include "fake_fused.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const unsigned ALL = 0xffffffff;

static kvf_layout_t small;

static fake_daemon_t *start(rig_t *rig, const fake_fused_t *fused, kvf_progress_t progress, uint32_t max_requests) {
    small = rig_layout();
    fake_fused = *fused;
    fake_fused_make(&small);
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = fake_fused_on_frame,
                                                       .is_fused = true,
                                                       .with_memory = true,
                                                       .max_requests = max_requests,
                                                       .max_batch = max_requests == 1 ? 7 : 0});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_AUTO);
    options.put_mode = KVF_PUT_FUSED;
    options.progress = progress;
    fake_fused_open(rig, &options, &small);
    for (size_t i = 0; i < RIG_BLOCKS; i++)
        memcpy(rig->memory + i * rig->block_bytes, fake_fused_raw(i), rig->block_bytes);
    return fake;
}

static void stop(fake_daemon_t *fake, rig_t *rig) {
    rig_close(rig);
    fake_stop(fake);
    fake_fused_free();
}

static void put_all(rig_t *rig, unsigned coded) {
    cr_assert_eq(rig_put(rig, RIG_BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert_eq(rig->statuses[i], KVF_OK, "block %zu", i);
    cr_assert_eq(fake_fused_put_coded(), coded, "%x", fake_fused_put_coded());
}

Test(fused_put, blocks_go_coded_and_within_their_bound) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){0}, KVF_PROGRESS_THREAD, 0);
    put_all(&rig, ALL);
    cr_assert_eq(fake_count(fake, KVF_FRAME_PUT), 1);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_BASIS), 1);
    stop(fake, &rig);
}

Test(fused_put, the_callers_thread_can_do_it) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){0}, KVF_PROGRESS_CALLER, 0);
    put_all(&rig, ALL);
    stop(fake, &rig);
}

Test(fused_put, one_request_at_a_time_is_enough) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.lost = 0x10}, KVF_PROGRESS_THREAD, 1);
    put_all(&rig, ALL & ~0x10u);
    cr_assert_eq(fake_count(fake, KVF_FRAME_PLAN), 5);
    stop(fake, &rig);
}

Test(fused_put, pieces_may_be_cut_anywhere_and_hints_be_given) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){0}, KVF_PROGRESS_THREAD, 0);
    unsigned char *memory = malloc(RIG_BLOCKS * rig.block_bytes + 1);
    kvf_piece_t pieces[RIG_BLOCKS][3];
    uint32_t ids[16] = {1, 2, 3};
    memcpy(memory + 1, rig.memory, RIG_BLOCKS * rig.block_bytes);
    for (size_t i = 0; i < RIG_BLOCKS; i++) {
        unsigned char *base = memory + 1 + i * rig.block_bytes;
        pieces[i][0] = (kvf_piece_t){base, 1025};
        pieces[i][1] = (kvf_piece_t){base + 1025, 4000 + i};
        pieces[i][2] = (kvf_piece_t){base + 5025 + i, rig.block_bytes - 5025 - i};
        rig.blocks[i].pieces = pieces[i];
        rig.blocks[i].num_pieces = 3;
        if (i % 3 == 0) rig.blocks[i].token_ids = ids;
        if (i) rig.blocks[i].previous = rig.keys[i - 1];
    }
    put_all(&rig, ALL);
    stop(fake, &rig);
    free(memory);
}

Test(fused_put, blocks_that_are_there_end_with_the_plan) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.there = 0xff0}, KVF_PROGRESS_THREAD, 0);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert_eq(rig.statuses[i], 0xff0 >> i & 1 ? KVF_EXISTS : KVF_OK);
    cr_assert_eq(fake_fused_put_coded(), ~0xff0u);
    fake_fused.there = ALL;
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert_eq(rig.statuses[i], KVF_EXISTS);
    cr_assert_eq(fake_count(fake, KVF_FRAME_PUT), 1);
    stop(fake, &rig);
}

/* Got from the honest daemon, which has those that were put raw. */
static bool is_there_raw(rig_t *rig, size_t i) {
    size_t matched;
    kvf_request_t request;
    cr_assert_eq(kvf_match(rig->space, &rig->keys[i], 1, NULL, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(rig->client, request, &matched), KVF_OK);
    return matched;
}

Test(fused_put, without_a_plan_blocks_go_raw_and_others_too_for_a_while) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.plan_status = KVF_ERR_UNSUPPORTED}, KVF_PROGRESS_THREAD, 0);
    put_all(&rig, 0);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert(rig.statuses[i] == KVF_EXISTS && is_there_raw(&rig, i));
    cr_assert_eq(fake_count(fake, KVF_FRAME_PLAN), 1);
    stop(fake, &rig);
}

Test(fused_put, a_block_whose_unit_went_meanwhile_goes_raw) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.lost = 0x3a0}, KVF_PROGRESS_THREAD, 0);
    put_all(&rig, ~0x3a0u);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert_eq(is_there_raw(&rig, i), 0x3a0 >> i & 1);
    stop(fake, &rig);
}

Test(fused_put, a_block_that_is_held_back_goes_raw_if_it_awaits_room) {
    const unsigned held_back = 0x80000f0fu;
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.lost = 0x3a0, .held_back = held_back}, KVF_PROGRESS_THREAD, 0);
    kvf_request_options_t options = {.await_room = true};
    kvf_request_t request;
    cr_assert_eq(kvf_put(rig.space, rig.blocks, RIG_BLOCKS, &options, rig.statuses, &request), KVF_OK);
    cr_assert_eq(kvf_wait_request(rig.client, request, NULL), KVF_OK);
    cr_assert_eq(fake_fused_put_coded(), ~(0x3a0u | held_back), "%x", fake_fused_put_coded());
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert_eq(is_there_raw(&rig, i), (0x3a0u | held_back) >> i & 1);
    stop(fake, &rig);
}

/* Says that it keeps every bit, as it may under a bound that is finer than the values. */
static void spoil_basis_form(fused_reply_t *reply) {
    reply->basis.form = KVF_FORM_EXACT;
    reply->basis.n_bounds = 0;
    reply->payload_bytes = 0;
}

Test(fused_put, blocks_go_raw_where_there_is_nothing_to_code_with) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.spoil_basis = spoil_basis_form}, KVF_PROGRESS_THREAD, 0);
    put_all(&rig, 0);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_BASIS), 1);
    stop(fake, &rig);
}

Test(fused_put, an_exact_space_is_put_raw) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){0}, KVF_PROGRESS_THREAD, 0);
    rig.space->policy = (kvf_policy_t){.kind = KVF_POLICY_EXACT};
    put_all(&rig, 0);
    cr_assert_eq(fake_count(fake, KVF_FRAME_PLAN), 0);
    stop(fake, &rig);
}

/* Rows without end are kept raw, and cost more than they do without a record around them. */
Test(fused_put, what_coding_makes_too_large_for_a_frame_goes_raw) {
    small = rig_layout();
    fake_fused = (fake_fused_t){0};
    fake_fused_make(&small);
    fake_daemon_t *fake = fake_start(&(fake_options_t){
        .on_frame = fake_fused_on_frame, .is_fused = true, .max_message_bytes = kvf_layout_block_bytes(&small) + 300});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    options.put_mode = KVF_PUT_FUSED;
    rig_t rig;
    fake_fused_open(&rig, &options, &small);
    uint64_t state = 1;
    for (size_t at = 0; at < RIG_BLOCKS * rig.block_bytes; at += 2) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        rig.memory[at] = (unsigned char)(state >> 40);
        rig.memory[at + 1] = 0x7f; /* infinite, or no number */
    }
    put_all(&rig, 0);
    cr_assert_eq(fake_count(fake, KVF_FRAME_PLAN), RIG_BLOCKS);
    stop(fake, &rig);
}

/* ---- a daemon that is not honest ---- */

static void no_basis(fused_reply_t *r) {
    r->basis.status = KVF_ERR_NOT_FOUND;
    r->payload_bytes = 0;
}
static void loose_bounds(fused_reply_t *r) {
    for (size_t i = 0; i < r->basis.n_bounds; i++) r->basis.bounds[i] = 1;
}
static void odd_spans(fused_reply_t *r) {
    for (size_t i = 0; i < r->plan.n_spans; i++) memset(r->plan.spans[i].data, (int)(i * 31), KVF_RECORD_SPAN_BYTES);
}
static void odd_places(fused_reply_t *r) {
    for (size_t i = 0; i < r->plan.n_spans; i++) r->plan.spans[i].data[8 + i % 8] = (uint8_t)(i * 5 + 1);
}

Test(fused_put, what_cannot_be_coded_goes_raw) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.spoil_basis = no_basis}, KVF_PROGRESS_THREAD, 0);
    put_all(&rig, 0);
    stop(fake, &rig);
    fake = start(&rig, &(fake_fused_t){.spoil_plan = odd_spans}, KVF_PROGRESS_THREAD, 0);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    cr_assert_eq(fake_fused_put_coded() & 0x55555555, 0x55555555, "those without spans are coded");
    stop(fake, &rig);
    fake = start(&rig, &(fake_fused_t){.spoil_plan = odd_places}, KVF_PROGRESS_THREAD, 0);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    stop(fake, &rig);
}

Test(fused_put, the_policys_bound_holds_whatever_the_daemon_says) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.spoil_basis = loose_bounds}, KVF_PROGRESS_THREAD, 0);
    put_all(&rig, ALL); /* the fake daemon looks at each row */
    stop(fake, &rig);
}

Test(fused_put, units_that_did_not_come_are_done_without) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.withholds_units = true}, KVF_PROGRESS_THREAD, 0);
    put_all(&rig, ALL);
    stop(fake, &rig);
}

static void no_version(fused_reply_t *r) { r->plan.version = 0; }
static void fewer_statuses(fused_reply_t *r) { r->plan.n_statuses--; }
static void fewer_counts(fused_reply_t *r) { r->plan.n_num_spans--; }
static void fewer_spans(fused_reply_t *r) { r->plan.n_spans--; }
static void a_short_span(fused_reply_t *r) { r->plan.spans[0].len--; }
static void many_spans(fused_reply_t *r) { r->plan.num_spans[0] = KVF_SPANS_MAX + 1; }
static void a_status_that_is_none(fused_reply_t *r) { r->plan.statuses[0] = KVF_ERR_BUSY; }
static void spans_of_what_is_there(fused_reply_t *r) { r->plan.statuses[1] = KVF_EXISTS; }
static void a_longer_unit(fused_reply_t *r) { r->plan.unit_bytes[0]++; }
static void fewer_hashes(fused_reply_t *r) { r->plan.n_unit_hashes--; }
static void a_longer_payload(fused_reply_t *r) { r->payload_bytes++; }
static void a_unit_without_a_name(fused_reply_t *r) { r->plan.unit_ids[0] = 0; }
static const fused_spoil_fn odd_plans[] = {no_version,    fewer_statuses, fewer_counts,          fewer_spans,
                                           a_short_span,  many_spans,     a_status_that_is_none, spans_of_what_is_there,
                                           a_longer_unit, fewer_hashes,   a_longer_payload,      a_unit_without_a_name};

Test(fused_put, a_plan_that_does_not_add_up_ends_the_connection) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){0}, KVF_PROGRESS_THREAD, 0);
    for (size_t i = 0; i < sizeof(odd_plans) / sizeof(odd_plans[0]); i++) {
        fake_fused.spoil_plan = odd_plans[i];
        cr_assert_eq(rig_put(&rig, 4, 0), KVF_ERR_PROTOCOL, "case %zu", i);
    }
    fake_fused.spoil_plan = NULL;
    put_all(&rig, ALL);
    stop(fake, &rig);
}

static void fewer_answers(fused_reply_t *r) { r->put.n_statuses--; }
static void an_odd_answer(fused_reply_t *r) { r->put.statuses[0] = 99; }

Test(fused_put, answers_that_do_not_add_up_end_the_connection) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.spoil_put = fewer_answers}, KVF_PROGRESS_THREAD, 0);
    cr_assert_eq(rig_put(&rig, 4, 0), KVF_ERR_PROTOCOL);
    fake_fused.spoil_put = an_odd_answer;
    cr_assert_eq(rig_put(&rig, 4, 0), KVF_ERR_PROTOCOL);
    stop(fake, &rig);
}

/* ---- time ---- */

Test(fused_put, what_is_not_answered_times_out) {
    static const kvf_frame_type_t types[] = {KVF_FRAME_PLAN, KVF_FRAME_GET_BASIS, KVF_FRAME_PUT};
    for (size_t i = 0; i < 3; i++) {
        rig_t rig;
        size_t matched;
        fake_daemon_t *fake = start(&rig, &(fake_fused_t){.silent_about = 1u << types[i]}, KVF_PROGRESS_THREAD, 0);
        for (int k = 0; k < 3; k++) {
            cr_assert_eq(rig_put(&rig, 4, 50), KVF_ERR_TIMEOUT);
            cr_assert_eq(rig_match(&rig, 1, &matched), KVF_OK);
        }
        stop(fake, &rig);
    }
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

/* What is read after that is freed memory. */
Test(fused_put, nothing_is_read_after_a_completion_or_a_close) {
    fake_fused = (fake_fused_t){0};
    fake_fused_make(&big);
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = fake_fused_on_frame, .is_fused = true});
    for (unsigned i = 0; i < 12; i++) {
        kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
        options.put_mode = KVF_PUT_FUSED;
        options.progress = i % 3 == 2 ? KVF_PROGRESS_CALLER : KVF_PROGRESS_THREAD;
        rig_t rig;
        fake_fused_open(&rig, &options, &big);
        unsigned char *copy = malloc(rig.block_bytes);
        memcpy(copy, fake_fused_raw(0), rig.block_bytes);
        kvf_piece_t piece = {copy, rig.block_bytes};
        for (size_t b = 0; b < RIG_BLOCKS; b++) rig.blocks[b].pieces = &piece;
        kvf_block_t *first = rig.blocks;
        first->position = 0;
        for (size_t b = 0; b < RIG_BLOCKS; b++) rig.blocks[b].key = rig.keys[0]; /* one block, many times */
        if (i % 2) {
            kvf_status_t status = rig_put(&rig, RIG_BLOCKS, 1 + i);
            cr_assert(status == KVF_OK || status == KVF_PARTIAL || status == KVF_ERR_TIMEOUT, "%d", status);
            free(copy);
            nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
            rig_close(&rig);
        } else {
            kvf_completion_t none;
            cr_assert_eq(kvf_put(rig.space, rig.blocks, RIG_BLOCKS, NULL, NULL, NULL), KVF_OK);
            for (unsigned k = 0; k < i; k++) {
                (void)kvf_poll(rig.client, &none, 0);
                nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
            }
            rig_close(&rig);
            free(copy);
        }
    }
    fake_stop(fake);
    fake_fused_free();
}

/* Gets and tables of a space in the paper's form, from a daemon that sends anything: each block ends with a status, a table leads nowhere but to
 * its own vectors, and the next one is right. */
#include "fake_fused.h"

#include "fusion/joint/internal.h"
#include "kernels/kernels.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 4, RAW = 2 };

static kvf_layout_t layout;
static float frequencies[64];

static fake_daemon_t *start(rig_t *rig, fake_fused_t fused) {
    layout = rig_layout();
    layout.rope_style = KVF_ROPE_NEOX;
    layout.rope_dim = layout.head_dim;
    layout.rope_tables = 1;
    for (size_t j = 0; j < layout.rope_dim / 2; j++)
        frequencies[j] = (float)pow(10000, -2.0 * (double)j / layout.rope_dim);
    layout.rope_frequencies = frequencies;
    fused.is_joint = true;
    fake_fused = fused;
    fake_fused_make(&layout);
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = fake_fused_on_frame, .is_fused = true});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    fake_fused_open(rig, &options, &layout);
    return fake;
}

static void stop(fake_daemon_t *fake, rig_t *rig) {
    rig_close(rig);
    fake_stop(fake);
    fake_fused_free();
}

static kvf_status_t get_table(rig_t *rig, size_t count, uint32_t timeout_ms, kvf_table_t **table) {
    kvf_request_t request;
    kvf_request_options_t options = {.timeout_ms = timeout_ms};
    cr_assert_eq(kvf_get_table(rig->space, rig->keys, count, &options, rig->statuses, table, &request), KVF_OK);
    cr_assert_null(*table);
    kvf_status_t status = kvf_wait_request(rig->client, request, NULL);
    cr_assert_not_null(*table, "it is the caller's, whatever came");
    return status;
}

/* Every cell is empty or leads to a vector, a block has all or none, and every vector can be read. */
static void check_table(const rig_t *rig, const kvf_table_t *table, size_t count) {
    cr_assert(table->num_blocks == count && table->num_planes == layout.layers * layout.planes);
    for (size_t b = 0; b < count; b++)
        for (uint32_t p = 0; p < table->num_planes; p++) {
            size_t cell = p * count + b;
            bool is_there = table->numbers[cell] != KVF_TABLE_NONE;
            cr_assert_eq(is_there, rig->statuses[b] == KVF_OK, "block %zu, plane %u", b, p);
            if (is_there) cr_assert(table->numbers[cell] < table->num_vectors && isfinite(table->gains[cell]));
        }
    volatile uint64_t sum = 0;
    for (size_t n = 0; n < table->num_vectors; n++)
        sum += kvf_kernels()->hash64(table->vectors[n], table->vector_bytes);
}

/* Blocks put together from a table are those that a get brings, to the bit. */
static void compare(rig_t *rig, const kvf_table_t *table) {
    static kvf__joint_turn_t turn;
    kvf__joint_shape_t shape;
    cr_assert_eq(kvf__joint_shape_make(&layout, &shape), KVF_OK);
    float *z = malloc(kvf__joint_values(&shape, layout.block_tokens) * sizeof(*z));
    uint8_t *plane = malloc(table->vector_bytes);
    turn.is_made = false;
    for (size_t b = 0; b < table->num_blocks; b++)
        for (uint32_t p = 0; p < table->num_planes; p++) {
            size_t cell = p * table->num_blocks + b;
            kvf__joint_restore(&shape, &turn, p, layout.block_tokens, table->vectors[table->numbers[cell]],
                               (uint64_t)table->turns[cell], table->gains[cell], z, plane);
            cr_assert_eq(memcmp(plane, fake_fused_block(b) + p * table->vector_bytes, table->vector_bytes), 0,
                         "block %zu, plane %u", b, p);
        }
    free(z);
    free(plane);
    kvf__joint_shape_free(&shape);
    cr_assert_eq(rig_get(rig, BLOCKS, 0), KVF_OK);
    for (size_t b = 0; b < BLOCKS; b++)
        cr_assert_eq(memcmp(rig->memory + b * rig->block_bytes, fake_fused_block(b), rig->block_bytes), 0);
}

static void is_honest_again(rig_t *rig) {
    kvf_table_t *table = NULL;
    fake_fused.spoil_get = fake_fused.spoil_units = fake_fused.spoil_basis = NULL;
    fake_fused.gone_units = fake_fused.silent_about = 0;
    cr_assert_eq(get_table(rig, BLOCKS, 0, &table), KVF_OK);
    check_table(rig, table, BLOCKS);
    compare(rig, table);
    kvf_table_free(table);
}

Test(fused_table, what_a_daemon_sends_comes_as_a_table_and_as_blocks_alike) {
    for (int withholds = 0; withholds < 2; withholds++)
        for (unsigned raw = 0; raw < 2; raw++) {
            rig_t rig;
            fake_daemon_t *fake = start(&rig, (fake_fused_t){.withholds_units = withholds, .raw_blocks = raw << RAW});
            is_honest_again(&rig);
            is_honest_again(&rig); /* with units that are kept */
            stop(fake, &rig);
        }
}

/* ---- replies that do not add up ---- */

static void a_bound_between(fused_reply_t *r) { r->get.bounds[0] = 0.1f; }
static void a_bound_that_is_none(fused_reply_t *r) { r->get.bounds[1] = NAN; }
static void a_bound_of_a_raw_block(fused_reply_t *r) { r->get.bounds[2 * RAW] = r->get.bounds[0]; }
static void a_coded_block_that_is_raw(fused_reply_t *r) { r->get.versions[0] = 0; }
static void one_checksum_less(fused_reply_t *r) { r->get.n_checksums--; }
static void a_payload_one_shorter(fused_reply_t *r) { r->payload_bytes--; }
static void a_unit_of_4_gb(fused_reply_t *r) { r->get.unit_bytes[0] = UINT32_MAX; }
static void another_form(fused_reply_t *r) { r->basis.form = KVF_FORM_BOUNDED; }
static void bounds_where_none_belong(fused_reply_t *r) { r->basis.n_bounds = 8; }
static void something_learnt(fused_reply_t *r) { fused_add(r, "basis", 5); }

Test(fused_table, replies_that_do_not_add_up_end_the_connection_and_the_table_is_empty) {
    static const struct {
        fused_spoil_fn get, basis;
        kvf_status_t status;
    } cases[] = {{a_bound_between, NULL, KVF_ERR_PROTOCOL},
                 {a_bound_that_is_none, NULL, KVF_ERR_PROTOCOL},
                 {a_bound_of_a_raw_block, NULL, KVF_ERR_PROTOCOL},
                 {a_coded_block_that_is_raw, NULL, KVF_ERR_PROTOCOL},
                 {one_checksum_less, NULL, KVF_ERR_PROTOCOL},
                 {a_payload_one_shorter, NULL, KVF_ERR_PROTOCOL},
                 {a_unit_of_4_gb, NULL, KVF_ERR_PROTOCOL},
                 {NULL, another_form, KVF_ERR_DISCONNECTED},
                 {NULL, bounds_where_none_belong, KVF_ERR_DISCONNECTED},
                 {NULL, something_learnt, KVF_PARTIAL}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        rig_t rig;
        kvf_table_t *table = NULL;
        fake_daemon_t *fake = start(&rig, (fake_fused_t){.raw_blocks = 1u << RAW});
        fake_fused.spoil_get = cases[i].get;
        fake_fused.spoil_basis = cases[i].basis;
        kvf_status_t status = get_table(&rig, BLOCKS, 0, &table);
        cr_assert(status == cases[i].status || (cases[i].basis && status == KVF_PARTIAL), "case %zu: %s", i,
                  kvf_status_name(status));
        for (size_t b = 0; b < BLOCKS; b++) cr_assert(b == RAW || rig.statuses[b] < 0, "case %zu, block %zu", i, b);
        check_table(&rig, table, BLOCKS);
        kvf_table_free(table);
        is_honest_again(&rig);
        stop(fake, &rig);
    }
}

/* ---- bytes of any kind ---- */

static size_t records_end(const fused_reply_t *r) {
    size_t at = 0;
    for (size_t i = 0; i < r->get.n_record_bytes; i++) at += r->get.record_bytes[i];
    return at;
}

static uint64_t noise = 1;
static void make_noise(fused_reply_t *r, size_t from, size_t end, unsigned every) {
    for (size_t at = from; at < end; at++) {
        noise = noise * 6364136223846793005u + 1442695040888963407u;
        if (!(noise >> 33 & (every - 1))) r->payload[at] = (uint8_t)(noise >> 40);
    }
    uint8_t *at = r->payload; /* with hashes that fit */
    for (size_t i = 0; i < r->get.n_record_bytes; at += r->get.record_bytes[i++])
        r->get.record_hashes[i] = kvf_kernels()->hash64(at, r->get.record_bytes[i]);
    for (size_t i = 0; i < r->get.n_unit_bytes; at += r->get.unit_bytes[i++])
        r->get.unit_hashes[i] = kvf_kernels()->hash64(at, r->get.unit_bytes[i]);
}
static void noise_for_records(fused_reply_t *r) { make_noise(r, 0, records_end(r), 1); }
static void noise_in_records(fused_reply_t *r) { make_noise(r, 0, records_end(r), 64); }
static void noise_in_gains(fused_reply_t *r) { make_noise(r, 24, 24 + 8 * 4, 2); }
static void noise_in_heads(fused_reply_t *r) { make_noise(r, records_end(r), records_end(r) + 24, 8); }
static void noise_in_units(fused_reply_t *r) { make_noise(r, records_end(r), r->payload_bytes, 256); }
static void short_units(fused_reply_t *r) {
    size_t last = r->get.n_unit_bytes - 1, less = r->get.unit_bytes[last] / 2;
    r->payload_bytes -= less;
    r->get.unit_bytes[last] -= (uint32_t)less;
    make_noise(r, 0, 0, 1);
}

Test(fused_table, bytes_of_any_kind_are_decoded_or_refused) {
    static const fused_spoil_fn kinds[] = {noise_for_records, noise_in_records, noise_in_gains,
                                           noise_in_heads,    noise_in_units,   short_units};
    rig_t rig;
    size_t good = 0, bad = 0;
    fake_daemon_t *fake = start(&rig, (fake_fused_t){0});
    for (unsigned i = 0; i < 300; i++) {
        kvf_table_t *table = NULL;
        fake_fused.spoil_get = kinds[i % (sizeof(kinds) / sizeof(kinds[0]))];
        if (i % 2)
            (void)rig_get(&rig, BLOCKS, 0);
        else
            (void)get_table(&rig, BLOCKS, 0, &table);
        for (size_t b = 0; b < BLOCKS; b++) {
            kvf_status_t status = rig.statuses[b];
            cr_assert(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND, "%d", status);
            good += status == KVF_OK;
            bad += status != KVF_OK;
        }
        if (table) check_table(&rig, table, BLOCKS);
        kvf_table_free(table);
        for (size_t b = BLOCKS; b < RIG_BLOCKS; b++) cr_assert(rig_is_filled(&rig, b));
    }
    cr_assert(good > 50 && bad > 50, "%zu and %zu", good, bad);
    stop(fake, &rig);
}

/* ---- what does not come ---- */

Test(fused_table, units_that_are_gone_are_misses) {
    static const kvf_status_t expected[] = {KVF_ERR_NOT_FOUND, KVF_ERR_NOT_FOUND, KVF_OK, KVF_OK};
    rig_t rig;
    kvf_table_t *table = NULL;
    fake_daemon_t *fake = start(&rig, (fake_fused_t){.gone_units = 1});
    cr_assert_eq(get_table(&rig, BLOCKS, 0, &table), KVF_PARTIAL);
    cr_assert_arr_eq(rig.statuses, expected, sizeof(expected));
    check_table(&rig, table, BLOCKS);
    kvf_table_free(table);
    is_honest_again(&rig);
    stop(fake, &rig);
}

Test(fused_table, what_is_not_answered_times_out_and_kvf_close_lets_go_of_the_rest) {
    static const kvf_frame_type_t types[] = {KVF_FRAME_GET, KVF_FRAME_GET_UNITS, KVF_FRAME_GET_BASIS};
    for (size_t i = 0; i < 3; i++) {
        rig_t rig;
        kvf_table_t *table = NULL, *never = NULL;
        fake_daemon_t *fake = start(&rig, (fake_fused_t){.withholds_units = true, .silent_about = 1u << types[i]});
        cr_assert_eq(get_table(&rig, BLOCKS, 50, &table), KVF_ERR_TIMEOUT);
        check_table(&rig, table, BLOCKS);
        cr_assert_eq(kvf_get_table(rig.space, rig.keys, BLOCKS, NULL, NULL, &never, NULL), KVF_OK);
        stop(fake, &rig);
        cr_assert_null(never);
        kvf_table_free(table);
    }
}

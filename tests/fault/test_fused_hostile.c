/* Whatever a daemon answers of coded blocks, each block ends with a status, nothing is written outside of the caller's pieces, and the next get
 * works. */
#include "client/state.h"
#include "fake_fused.h"

#include "fusion/basis.h"
#include "kernels/kernels.h"

#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

static kvf_layout_t layout;

static fake_daemon_t *start(rig_t *rig, const fake_fused_t *fused) {
    layout = rig_layout();
    fake_fused = *fused;
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

/* Another client, which holds nothing. */
static void reopen(fake_daemon_t *fake, rig_t *rig) {
    rig_close(rig);
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    fake_fused_open(rig, &options, &layout);
}

static bool is_block(const rig_t *rig, size_t i) {
    return !memcmp(rig->memory + i * rig->block_bytes, fake_fused_block(i), rig->block_bytes);
}

enum { BLOCKS = 4, RAW = 2 }; /* got by each case; block 2 comes raw */

static void is_honest_again(rig_t *rig) {
    fake_fused.spoil_get = fake_fused.spoil_units = fake_fused.spoil_basis = NULL;
    fake_fused.gone_units = fake_fused.silent_about = 0;
    cr_assert_eq(rig_get(rig, BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < BLOCKS; i++) cr_assert(is_block(rig, i), "block %zu", i);
}

/* ---- replies that do not add up ---- */

static void one_version_less(fused_reply_t *r) { r->get.n_versions--; }
static void one_record_size_less(fused_reply_t *r) { r->get.n_record_bytes--; }
static void one_record_hash_less(fused_reply_t *r) { r->get.n_record_hashes--; }
static void one_bound_less(fused_reply_t *r) { r->get.n_bounds--; }
static void a_bound_beyond_the_policy(fused_reply_t *r) { r->get.bounds[0] = 2 * FUSED_BOUND; }
static void a_bound_that_is_none(fused_reply_t *r) { r->get.bounds[1] = NAN; }
static void a_bound_of_a_raw_block(fused_reply_t *r) { r->get.bounds[2 * RAW] = FUSED_BOUND; }
static void a_negative_bound(fused_reply_t *r) { r->get.bounds[0] = -FUSED_BOUND; }
static void one_checksum_less(fused_reply_t *r) { r->get.n_checksums--; }
static void a_raw_block_with_a_record(fused_reply_t *r) { r->get.record_bytes[RAW] = 1; }
static void a_coded_block_without_one(fused_reply_t *r) { r->get.record_bytes[0] = 0; }
static void a_coded_block_that_is_raw(fused_reply_t *r) { r->get.versions[0] = 0; }
static void a_record_of_4_gb(fused_reply_t *r) { r->get.record_bytes[0] = UINT32_MAX; }
static void a_record_one_longer(fused_reply_t *r) { r->get.record_bytes[0]++; }
static void a_unit_one_longer(fused_reply_t *r) { r->get.unit_bytes[0]++; }
static void a_unit_of_4_gb(fused_reply_t *r) { r->get.unit_bytes[0] = UINT32_MAX; }
static void an_empty_unit(fused_reply_t *r) { r->get.unit_bytes[0] = 0; }
static void a_unit_without_a_name(fused_reply_t *r) { r->get.unit_ids[0] = 0; }
static void one_unit_hash_less(fused_reply_t *r) { r->get.n_unit_hashes--; }
static void one_unit_size_less(fused_reply_t *r) { r->get.n_unit_bytes--; }
static void a_payload_one_longer(fused_reply_t *r) { r->payload_bytes++; }
static void a_payload_one_shorter(fused_reply_t *r) { r->payload_bytes--; }
static void no_payload(fused_reply_t *r) { r->payload_bytes = 0; }
static void sums_that_go_round(fused_reply_t *r) { /* 2^32 more in one, less in another, as 32 bits would see it */
    r->get.record_bytes[0] += 0x80000000u;
    r->get.record_bytes[1] += 0x80000000u;
}
static void segments(fused_reply_t *r) {
    static uint32_t segment = 7;
    r->get.n_segments = 1;
    r->get.segments = &segment;
}

static const fused_spoil_fn odd_replies[] = {
    one_version_less,
    one_record_size_less,
    one_record_hash_less,
    one_bound_less,
    a_bound_beyond_the_policy,
    a_bound_that_is_none,
    a_bound_of_a_raw_block,
    a_negative_bound,
    one_checksum_less,
    a_raw_block_with_a_record,
    a_coded_block_without_one,
    a_coded_block_that_is_raw,
    a_record_of_4_gb,
    a_record_one_longer,
    a_unit_one_longer,
    a_unit_of_4_gb,
    an_empty_unit,
    a_unit_without_a_name,
    one_unit_hash_less,
    one_unit_size_less,
    a_payload_one_longer,
    a_payload_one_shorter,
    no_payload,
    sums_that_go_round,
    segments,
};

Test(fused_hostile, a_get_reply_that_does_not_add_up_ends_the_connection) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.raw_blocks = 1u << RAW});
    for (size_t i = 0; i < sizeof(odd_replies) / sizeof(odd_replies[0]); i++) {
        fake_fused.spoil_get = odd_replies[i];
        cr_assert_eq(rig_get(&rig, BLOCKS, 0), KVF_ERR_PROTOCOL, "case %zu", i);
        is_honest_again(&rig);
    }
    stop(fake, &rig);
}

static void a_unit_that_nobody_asked_for(fused_reply_t *r) { r->units.unit_ids[0] = 99; }
static void a_unit_twice(fused_reply_t *r) { r->units.unit_ids[1] = r->units.unit_ids[0]; }
static void a_longer_unit(fused_reply_t *r) { r->units.unit_bytes[0]++; }
static void a_huge_unit(fused_reply_t *r) { r->units.unit_bytes[0] = UINT32_MAX; }
static void fewer_hashes(fused_reply_t *r) { r->units.n_unit_hashes--; }
static void fewer_sizes(fused_reply_t *r) { r->units.n_unit_bytes--; }
static void a_status_that_is_none(fused_reply_t *r) { r->units.status = 77; }

static const fused_spoil_fn odd_units[] = {
    a_unit_that_nobody_asked_for, a_unit_twice, a_longer_unit, a_huge_unit, fewer_hashes, fewer_sizes,
    a_status_that_is_none};

Test(fused_hostile, units_that_do_not_add_up_end_the_connection) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.withholds_units = true});
    for (size_t i = 0; i < sizeof(odd_units) / sizeof(odd_units[0]); i++) {
        fake_fused.spoil_units = odd_units[i];
        kvf_status_t status = rig_get(&rig, BLOCKS, 0);
        cr_assert(status == KVF_ERR_PROTOCOL || status == KVF_ERR_DISCONNECTED, "case %zu: %d", i, status);
        is_honest_again(&rig);
        reopen(fake, &rig);
    }
    stop(fake, &rig);
}

static void another_version(fused_reply_t *r) { r->basis.version++; }
static void another_form(fused_reply_t *r) { r->basis.form = KVF_FORM_EXACT; }
static void no_form(fused_reply_t *r) { r->basis.form = 0; }
static void fewer_bounds(fused_reply_t *r) { r->basis.n_bounds--; }
static void a_bound_of_zero(fused_reply_t *r) { r->basis.bounds[0] = 0; }
static void a_bound_of_two(fused_reply_t *r) { r->basis.bounds[1] = 2; }
static void an_odd_status(fused_reply_t *r) { r->basis.status = 3; }

static const fused_spoil_fn odd_bases[] = {another_version, another_form,   no_form,      fewer_bounds,
                                           a_bound_of_zero, a_bound_of_two, an_odd_status};

Test(fused_hostile, a_basis_that_is_none_of_the_space_ends_the_connection) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){0});
    for (size_t i = 0; i < sizeof(odd_bases) / sizeof(odd_bases[0]); i++) {
        fake_fused.spoil_basis = odd_bases[i];
        kvf_status_t status = rig_get(&rig, BLOCKS, 0);
        cr_assert(status == KVF_ERR_PROTOCOL || status == KVF_ERR_DISCONNECTED, "case %zu: %d", i, status);
        is_honest_again(&rig);
        reopen(fake, &rig);
    }
    stop(fake, &rig);
}

/* ---- bytes that are not what they should be ---- */

static size_t record_at(const fused_reply_t *r, size_t i) {
    size_t at = 0;
    for (size_t k = 0; k < i; k++) at += r->get.record_bytes[k];
    return at;
}

static void damage_record_1(fused_reply_t *r) { r->payload[record_at(r, 1) + 30] ^= 1; }
static void damage_unit_1(fused_reply_t *r) {
    size_t at = record_at(r, r->get.n_record_bytes);
    r->payload[at + 5] ^= 1;
}
static void damage_asked_unit(fused_reply_t *r) { r->payload[5] ^= 1; }

/* Statuses of the first blocks: 0 and 1 refer to unit 1, 2 and 3 to unit 3. */
static void expect(rig_t *rig, const kvf_status_t expected[BLOCKS]) {
    (void)rig_get(rig, BLOCKS, 0);
    for (size_t i = 0; i < BLOCKS; i++) {
        cr_assert_eq(rig->statuses[i], expected[i], "block %zu: %d", i, rig->statuses[i]);
        if (expected[i] == KVF_OK) cr_assert(is_block(rig, i));
    }
    for (size_t i = BLOCKS; i < RIG_BLOCKS; i++) cr_assert(rig_is_filled(rig, i));
}

Test(fused_hostile, damaged_bytes_cost_the_blocks_that_need_them) {
    static const kvf_status_t one[] = {KVF_OK, KVF_ERR_CORRUPT, KVF_OK, KVF_OK};
    static const kvf_status_t two[] = {KVF_ERR_CORRUPT, KVF_ERR_CORRUPT, KVF_OK, KVF_OK};
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.spoil_get = damage_record_1});
    expect(&rig, one);
    fake_fused.spoil_get = damage_unit_1;
    expect(&rig, two);
    is_honest_again(&rig);
    stop(fake, &rig);
    fake = start(&rig, &(fake_fused_t){.withholds_units = true, .spoil_units = damage_asked_unit});
    expect(&rig, two);
    is_honest_again(&rig);
    stop(fake, &rig);
}

Test(fused_hostile, units_that_are_gone_are_misses_and_asked_for_once_a_get) {
    static const kvf_status_t expected[] = {KVF_ERR_NOT_FOUND, KVF_ERR_NOT_FOUND, KVF_OK, KVF_OK};
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.gone_units = 1});
    expect(&rig, expected);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_UNITS), 1);
    expect(&rig, expected);
    cr_assert_eq(fake_count(fake, KVF_FRAME_GET_UNITS), 2);
    is_honest_again(&rig);
    stop(fake, &rig);
}

/* With hashes that fit. */
static void rehash(fused_reply_t *r) {
    uint8_t *at = r->payload;
    for (size_t i = 0; i < r->get.n_record_bytes; at += r->get.record_bytes[i++])
        r->get.record_hashes[i] = kvf_kernels()->hash64(at, r->get.record_bytes[i]);
    for (size_t i = 0; i < r->get.n_unit_bytes; at += r->get.unit_bytes[i++])
        r->get.unit_hashes[i] = kvf_kernels()->hash64(at, r->get.unit_bytes[i]);
}

static uint64_t noise = 1;
static void make_noise(fused_reply_t *r, size_t from, size_t end, unsigned every) {
    for (size_t at = from; at < end; at++) {
        noise = noise * 6364136223846793005u + 1442695040888963407u;
        if (noise >> 33 & (every - 1)) continue;
        r->payload[at] = (uint8_t)(noise >> 40);
    }
    rehash(r);
}
static void noise_for_records(fused_reply_t *r) { make_noise(r, 0, record_at(r, BLOCKS), 1); }
static void noise_in_records(fused_reply_t *r) { make_noise(r, 0, record_at(r, BLOCKS), 64); }
static void noise_in_parts(fused_reply_t *r) {
    for (size_t i = 0; i < BLOCKS; i++) make_noise(r, record_at(r, i) + 40, record_at(r, i + 1), 16);
}
static void noise_in_units(fused_reply_t *r) { make_noise(r, record_at(r, BLOCKS), r->payload_bytes, 256); }
static void short_units(fused_reply_t *r) { /* the last one lacks its second half */
    size_t last = r->get.n_unit_bytes - 1;
    r->payload_bytes -= r->get.unit_bytes[last] / 2;
    r->get.unit_bytes[last] -= r->get.unit_bytes[last] / 2;
    rehash(r);
}

/* Hashes are no proof against who sends them: any bytes are safe, and the memory around a block is left alone. */
Test(fused_hostile, bytes_of_any_kind_are_decoded_or_refused) {
    static const fused_spoil_fn kinds[] = {noise_for_records, noise_in_records, noise_in_parts, noise_in_units,
                                           short_units};
    for (int is_exact = 0; is_exact < 2; is_exact++) {
        rig_t rig;
        fake_daemon_t *fake = start(&rig, &(fake_fused_t){.is_exact = is_exact, .has_model = true});
        for (unsigned i = 0; i < 100; i++) {
            fake_fused.spoil_get = kinds[i % (sizeof(kinds) / sizeof(kinds[0]))];
            (void)rig_get(&rig, BLOCKS, 0);
            for (size_t b = 0; b < BLOCKS; b++) {
                kvf_status_t status = rig.statuses[b];
                cr_assert(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND, "%d", status);
            }
            for (size_t b = BLOCKS; b < RIG_BLOCKS; b++) cr_assert(rig_is_filled(&rig, b));
        }
        stop(fake, &rig);
    }
}

static void noise_for_basis(fused_reply_t *r) {
    for (size_t at = 0; at < r->payload_bytes; at++) r->payload[at] = (uint8_t)(at * 7);
}
static void short_basis(fused_reply_t *r) { r->payload_bytes /= 2; }
static void empty_basis(fused_reply_t *r) { r->payload_bytes = 0; }
static void basis_of_another_version(fused_reply_t *r) {
    kvf_basis_t *basis = kvf_basis_create_hadamard(&layout, FUSED_VERSION + 9);
    cr_assert_eq(kvf_basis_bytes(basis), r->payload_bytes);
    memcpy(r->payload, kvf_basis_serialised(basis), r->payload_bytes);
    kvf_basis_unref(basis);
}
static void no_such_basis(fused_reply_t *r) {
    r->basis.status = KVF_ERR_NOT_FOUND;
    r->payload_bytes = 0;
}

Test(fused_hostile, a_basis_that_is_none_costs_the_blocks_that_need_it) {
    static const struct {
        fused_spoil_fn spoil;
        kvf_status_t expected;
    } cases[] = {{noise_for_basis, KVF_ERR_CORRUPT},
                 {short_basis, KVF_ERR_CORRUPT},
                 {empty_basis, KVF_ERR_CORRUPT},
                 {basis_of_another_version, KVF_ERR_CORRUPT},
                 {no_such_basis, KVF_ERR_NOT_FOUND}};
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){.raw_blocks = 1u << RAW});
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fake_fused.spoil_basis = cases[i].spoil;
        cr_assert_eq(rig_get(&rig, BLOCKS, 0), KVF_PARTIAL);
        for (size_t b = 0; b < BLOCKS; b++)
            cr_assert_eq(rig.statuses[b], b == RAW ? KVF_OK : cases[i].expected, "case %zu: %d", i, rig.statuses[b]);
    }
    is_honest_again(&rig);
    stop(fake, &rig);
}

/* ---- answers that do not come ---- */

Test(fused_hostile, what_is_not_answered_times_out_and_blocks_nobody_else) {
    static const kvf_frame_type_t types[] = {KVF_FRAME_GET, KVF_FRAME_GET_UNITS, KVF_FRAME_GET_BASIS};
    for (size_t i = 0; i < 3; i++) {
        rig_t rig;
        size_t matched;
        fake_daemon_t *fake = start(&rig, &(fake_fused_t){.withholds_units = true, .silent_about = 1u << types[i]});
        for (int k = 0; k < 3; k++) {
            cr_assert_eq(rig_get(&rig, BLOCKS, 50), KVF_ERR_TIMEOUT);
            cr_assert_eq(rig_match(&rig, 1, &matched), KVF_OK);
        }
        for (size_t b = 0; b < BLOCKS; b++) cr_assert(rig_is_wiped(&rig, b));
        stop(fake, &rig);
    }
}

static bool fail_what_is_asked(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    if (head->type != KVF_FRAME_GET_UNITS && head->type != KVF_FRAME_GET_BASIS)
        return fake_fused_on_frame(fake, head, data);
    if (!(fake_fused.silent_about >> head->type & 1)) return fake_fused_on_frame(fake, head, data);
    Kvf__Error error = KVF__ERROR__INIT;
    error.status = KVF_ERR_BUSY;
    error.text = (char *)(uintptr_t) "busy";
    fake_send(fake, KVF_FRAME_ERROR, head->request, &error.base, NULL, 0);
    return true;
}

Test(fused_hostile, errors_for_units_and_bases_are_those_of_the_blocks) {
    layout = rig_layout();
    fake_fused = (fake_fused_t){.withholds_units = true, .silent_about = 1u << KVF_FRAME_GET_BASIS};
    fake_fused_make(&layout);
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = fail_what_is_asked, .is_fused = true});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_NETWORK);
    rig_t rig;
    fake_fused_open(&rig, &options, &layout);
    cr_assert_eq(rig_get(&rig, BLOCKS, 0), KVF_ERR_BUSY);
    fake_fused.silent_about = 1u << KVF_FRAME_GET_UNITS;
    cr_assert_eq(rig_get(&rig, BLOCKS, 0), KVF_ERR_BUSY);
    is_honest_again(&rig);
    stop(fake, &rig);
}

Test(fused_hostile, an_exact_space_is_not_served_within_a_bound) {
    rig_t rig;
    fake_daemon_t *fake = start(&rig, &(fake_fused_t){0});
    rig.space->policy = (kvf_policy_t){.kind = KVF_POLICY_EXACT};
    cr_assert_eq(rig_get(&rig, BLOCKS, 0), KVF_ERR_PROTOCOL);
    rig.space->policy = (kvf_policy_t){.kind = KVF_POLICY_RATIO, .ratio = 4};
    cr_assert_eq(rig_get(&rig, BLOCKS, 0), KVF_OK);
    stop(fake, &rig);
}

/* Bytes that come from anywhere: units, records, models; and the tables in them. */
#include "tests/unit/fusion/exact_data.h"

/* ---- damage ---- */

static kvf_status_t decode_copy(kvf_exact_decoder_t *decoder, const uint8_t *bytes, size_t num_bytes, block_t *b) {
    uint8_t *copy = malloc(num_bytes ? num_bytes : 1); /* of its exact size, for the sanitizer */
    cr_assert_not_null(copy);
    memcpy(copy, bytes, num_bytes);
    kvf_unit_bytes_t unit = {copy, num_bytes};
    kvf_status_t status = kvf_exact_unit_decode(decoder, &unit, 16, b->to);
    free(copy);
    return status;
}

Test(exact_bytes, cut_or_changed_bytes_are_refused_or_decode_to_something) {
    kvf_layout_t layout = layout_of(2, 1, 64, 16, KVF_BF16);
    block_t b = make(&layout, 16, SPECIAL), learnt = make(&layout, 16, NORMAL);
    kvf_exact_model_t *model = learn(&layout, &learnt, 16, 3);
    for (int with_model = 0; with_model < 2; with_model++) {
        kvf_exact_encoder_t *encoder = make_encoder(&layout, with_model ? model : NULL);
        kvf_exact_decoder_t *decoder = make_decoder(&layout, model);
        kvf_exact_out_t out = encode(encoder, with_model ? &learnt : &b, 16, NULL);
        uint8_t *unit = malloc(out.unit_bytes);
        cr_assert_not_null(unit);
        memcpy(unit, out.unit, out.unit_bytes);
        for (size_t cut = 0; cut < out.unit_bytes; cut++)
            cr_assert_eq(decode_copy(decoder, unit, cut, &b), KVF_ERR_CORRUPT, "%zu bytes", cut);
        for (size_t at = 0; at < out.unit_bytes; at++)
            for (int bit = 0; bit < 8; bit++) {
                unit[at] ^= (uint8_t)(1 << bit);
                (void)decode_copy(decoder, unit, out.unit_bytes, &b);
                unit[at] ^= (uint8_t)(1 << bit);
            }
        cr_assert_eq(decode_copy(decoder, unit, out.unit_bytes, &b), KVF_OK);
        free(unit);
        kvf_exact_encoder_destroy(encoder);
        kvf_exact_decoder_destroy(decoder);
    }
    kvf_exact_model_unref(model);
    drop(&b);
    drop(&learnt);
}

Test(exact_bytes, records_that_contradict_themselves_are_refused) {
    uint8_t record[KVF_EXACT_RECORD_HEAD_BYTES + 2 * KVF_EXACT_RUN_BYTES];
    kvf_exact_same_t same[4] = {{5, 0}, {0}, {6, 3}, {0}};
    kvf_exact_record_info_t info;
    uint32_t own;
    size_t bytes = kvf__exact_record_write(record, 8, 9, same, 4, &own);
    cr_assert(bytes == sizeof(record) && own == 2);
    cr_assert_eq(kvf_exact_record_read(record, bytes, 8, 4, &info), KVF_OK);
    cr_assert_eq(kvf_exact_record_read(record, bytes, 7, 4, &info), KVF_ERR_CORRUPT, "more tokens than a block has");
    cr_assert_eq(kvf_exact_record_read(record, bytes - 1, 8, 4, &info), KVF_ERR_CORRUPT);
    cr_assert_eq(kvf_exact_record_read(record, bytes, 8, 2, &info), KVF_ERR_CORRUPT, "planes that do not exist");
    static const struct {
        size_t at;
        uint8_t value;
        const char *what;
    } changes[] = {
        {0, 9, "version"},     {2, 0, "no tokens"},           {4, 3, "more runs"},     {8, 0, "no own unit"},
        {16, 0, "unit 0"},     {26, 0, "empty run"},          {26, 3, "runs overlap"}, {28, 4, "beyond the unit"},
        {42, 3, "beyond all"}, {40, 9, "from beyond all on"}, {46, 1, "not zero"},     {24, 3, "runs fall"}};
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        uint8_t kept = record[changes[i].at];
        record[changes[i].at] = changes[i].value;
        cr_assert_eq(kvf_exact_record_read(record, bytes, 8, 4, &info), KVF_ERR_CORRUPT, "%s", changes[i].what);
        record[changes[i].at] = kept;
    }
}

/* ---- models and tables ---- */

Test(exact_bytes, models_come_back_from_their_bytes_and_from_no_others) {
    kvf_layout_t layout = layout_of(1, 1, 32, 16, KVF_BF16), other = layout_of(1, 1, 32, 16, KVF_FP16);
    block_t b = make(&layout, 16, NORMAL);
    kvf_exact_model_t *model = learn(&layout, &b, 16, 3), *again = NULL;
    size_t count = kvf_exact_model_bytes(model);
    uint8_t *bytes = malloc(count);
    cr_assert_not_null(bytes);
    memcpy(bytes, kvf_exact_model_serialised(model), count);
    cr_assert_eq(kvf_exact_model_parse(bytes, count, &layout, &again), KVF_OK);
    cr_assert_eq(kvf_exact_model_version(again), 3);
    cr_assert(kvf_exact_model_bytes(again) == count && !memcmp(kvf_exact_model_serialised(again), bytes, count));
    cr_assert_eq(round_trip(&layout, again, &b, 16, "parsed"), round_trip(&layout, model, &b, 16, "learnt"));
    kvf_exact_model_unref(again);
    cr_assert_eq(kvf_exact_model_parse(bytes, count, &other, &again), KVF_ERR_LAYOUT);
    for (size_t cut = 0; cut < count; cut++)
        cr_assert_eq(kvf_exact_model_parse(bytes, cut, &layout, &again), KVF_ERR_CORRUPT);
    for (size_t at = 0; at < count; at++) {
        bytes[at] ^= 0x10;
        cr_assert(kvf_exact_model_parse(bytes, count, &layout, &again) < 0, "byte %zu changed", at);
        bytes[at] ^= 0x10;
    }
    /* a right checksum over wrong numbers: a table too many, shares that do not add up */
    for (int i = 0; i < 2; i++) {
        size_t at = i ? 64 : count - 9;
        bytes[at] = (uint8_t)(bytes[at] + KVF_EXACT_TABLES);
        kvf__store64(bytes + count - 8, kvf_kernels()->hash64(bytes, count - 8));
        cr_assert_eq(kvf_exact_model_parse(bytes, count, &layout, &again), KVF_ERR_CORRUPT);
        bytes[at] = (uint8_t)(bytes[at] - KVF_EXACT_TABLES);
    }
    free(bytes);
    kvf_exact_model_unref(model);
    drop(&b);
}

Test(exact_bytes, shares_add_up_and_leave_no_symbol_out) {
    for (int round = 0; round < 3000; round++) {
        uint64_t counts[256] = {0}, present = (uint64_t)round % 256 + 1;
        kvf__exact_freq_t freq;
        for (uint64_t i = 0; i < present; i++)
            counts[draw() % 256] += draw() % 3 ? draw() % 50 + 1 : draw() << (draw() % 16);
        kvf__exact_share(counts, false, freq);
        cr_assert(kvf__exact_is_whole(freq));
        for (int s = 0; s < 256; s++) cr_assert(!counts[s] == !freq[s] || (round == 0 && s == 0));
        kvf__exact_share(counts, true, freq);
        cr_assert(kvf__exact_is_whole(freq) && freq[KVF__EXACT_ESCAPE]);
    }
    uint64_t none[256] = {0};
    kvf__exact_freq_t freq;
    kvf__exact_share(none, true, freq);
    cr_assert(kvf__exact_is_whole(freq) && freq[KVF__EXACT_ESCAPE]);
}

Test(exact_bytes, learners_refuse_what_they_cannot_do) {
    kvf_layout_t layout = layout_of(1, 1, 32, 16, KVF_BF16), large = layout_of(64, 128, 128, 16, KVF_BF16);
    kvf_exact_learner_t *learner = NULL;
    kvf_exact_model_t *model = NULL;
    cr_assert_eq(kvf_exact_learner_create(&large, &learner), KVF_ERR_TOO_LARGE);
    cr_assert_eq(kvf_exact_learner_create(&layout, &learner), KVF_OK);
    cr_assert_eq(kvf_exact_learner_finish(learner, 1, &model), KVF_ERR_INVALID, "nothing was added");
    block_t b = make(&layout, 16, NOISE);
    for (int i = 0; i < 4200; i++) kvf_exact_learner_add(learner, b.planes, 16); /* more than are counted */
    cr_assert_eq(kvf_exact_learner_finish(learner, 0, &model), KVF_ERR_INVALID, "version 0 is none");
    cr_assert_eq(kvf_exact_learner_finish(learner, 1, &model), KVF_OK);
    (void)round_trip(&layout, model, &b, 16, "noise, learnt");
    kvf_exact_model_unref(model);
    kvf_exact_learner_destroy(learner);
    drop(&b);
}

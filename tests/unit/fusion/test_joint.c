#include "tests/unit/fusion/joint_data.h"

#include <stdio.h>

static kvf_joint_encoder_t *make_encoder(const kvf_layout_t *layout, float tau) {
    kvf_joint_encoder_t *encoder;
    cr_assert_eq(kvf_joint_encoder_create(layout, tau, &encoder), KVF_OK);
    return encoder;
}

static kvf_joint_decoder_t *make_decoder(const kvf_layout_t *layout) {
    kvf_joint_decoder_t *decoder;
    cr_assert_eq(kvf_joint_decoder_create(layout, &decoder), KVF_OK);
    return decoder;
}

/* Decodes what was made of a block, and holds each plane against what is promised. */
static void expect(kvf_joint_decoder_t *decoder, const kvf_layout_t *layout, float tau, block_t *b,
                   const kvf_joint_out_t *out, shelf_t *shelf, const char *what) {
    uint32_t changed = 0, flags = 0;
    cr_assert_eq(
        kvf_joint_decode(decoder, out->record, out->record_bytes, find_on_shelf, shelf, 0, layout->layers, b->to),
        KVF_OK, "%s", what);
    for (size_t p = 0; p < b->num_planes; p++) {
        likeness_t likeness = like(b->planes[p], b->to[p], b->plane_bytes, layout->dtype);
        changed += !likeness.is_same;
        if (!likeness.is_same) flags |= layout->planes == 2 && p % 2 ? KVF_JOINT_V_CHANGED : KVF_JOINT_K_CHANGED;
        cr_assert_geq(likeness.cosine, (double)tau - 1e-12, "%s: plane %zu has cosine %.9f", what, p, likeness.cosine);
        cr_assert_leq(likeness.error, (double)kvf_joint_bound(tau) * (1 + 1e-6), "%s: plane %zu is off by %.6f", what,
                      p, likeness.error);
    }
    kvf_joint_record_info_t info;
    cr_assert_eq(
        kvf_joint_record_read(out->record, out->record_bytes, layout->block_tokens, (uint32_t)b->num_planes, &info),
        KVF_OK);
    cr_assert_eq(info.flags & ~(uint32_t)KVF_JOINT_OWN, flags, "%s: flags", what);
    cr_assert_eq(out->planes_changed, changed, "%s: %u planes changed, not %u", what, changed, out->planes_changed);
    cr_assert_eq(!out->unit, !(info.flags & KVF_JOINT_OWN), "%s: an own unit", what);
}

static const struct {
    uint32_t layers, planes, heads, dim, tokens;
    kvf_dtype_t dtype;
    kvf_rope_style_t style;
    float tau;
} shapes[] = {{2, 2, 3, 64, 16, KVF_BF16, KVF_ROPE_NEOX, 0.9f},  {1, 2, 1, 32, 5, KVF_FP16, KVF_ROPE_GPTJ, 0.8f},
              {3, 1, 1, 80, 7, KVF_FP32, KVF_ROPE_NONE, 0.95f},  {1, 2, 2, 128, 32, KVF_BF16, KVF_ROPE_NONE, 0.5f},
              {1, 2, 5, 96, 3, KVF_BF16, KVF_ROPE_NEOX, 0.999f}, {2, 2, 1, 16, 1, KVF_FP16, KVF_ROPE_NEOX, 0.9f}};

Test(joint, every_plane_as_decoded_has_the_cosine_and_the_error_that_are_promised) {
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        kvf_layout_t layout = layout_of(shapes[s].layers, shapes[s].planes, shapes[s].heads, shapes[s].dim,
                                        shapes[s].tokens, shapes[s].dtype, shapes[s].style);
        kvf_joint_encoder_t *encoder = make_encoder(&layout, shapes[s].tau);
        kvf_joint_decoder_t *decoder = make_decoder(&layout);
        random_state_t r = {s + 1};
        uint32_t fused = 0, changed = 0, planes = shapes[s].layers * shapes[s].planes;
        for (unsigned batch = 0; batch < 12; batch++) {
            size_t count = 1 + batch * 5 % KVF_JOINT_BATCH_MAX, requests = 1 + batch % 4;
            block_t blocks[KVF_JOINT_BATCH_MAX];
            kvf_joint_block_t in[KVF_JOINT_BATCH_MAX];
            kvf_joint_out_t out[KVF_JOINT_BATCH_MAX];
            shelf_t shelf = {0};
            for (size_t b = 0; b < count; b++) {
                blocks[b] =
                    make_text(&layout, (uint64_t)(random_uniform(&r) * 5000), b % 6, random_uniform(&r) * 0.6, &r);
                in[b] = (kvf_joint_block_t){.planes = blocks[b].planes,
                                            .tokens = layout.block_tokens,
                                            .position = blocks[b].position,
                                            .unit = 100 + b,
                                            .request = (uint32_t)(b * requests / count)};
            }
            cr_assert_eq(kvf_joint_encode(encoder, in, count, find_on_shelf, &shelf, out), KVF_OK);
            for (size_t b = 0; b < count; b++) {
                char what[64];
                (void)snprintf(what, sizeof(what), "shape %zu, batch %u, block %zu", s, batch, b);
                if (out[b].unit) put_on_shelf(&shelf, in[b].unit, out[b].unit, out[b].unit_bytes);
                expect(decoder, &layout, shapes[s].tau, &blocks[b], &out[b], &shelf,
                       what); /* units of earlier blocks do */
                fused += out[b].planes_fused;
                changed += out[b].planes_changed;
                cr_assert_leq(out[b].worst, 1.0f);
                kvf_joint_record_info_t info;
                cr_assert_eq(
                    kvf_joint_record_read(out[b].record, out[b].record_bytes, layout.block_tokens, planes, &info),
                    KVF_OK);
                cr_assert(!(info.flags & KVF_JOINT_OWN) || kvf_joint_record_unit(&info, 0) == in[b].unit,
                          "its own is the first");
            }
            for (size_t b = 0; b < count; b++) drop_block(&blocks[b]);
            clear_shelf(&shelf);
        }
        cr_assert(fused && changed, "shape %zu: nothing was fused, this shows nothing", s);
        kvf_joint_encoder_destroy(encoder);
        kvf_joint_decoder_destroy(decoder);
    }
}

Test(joint, a_plane_that_nobody_is_like_comes_back_bit_for_bit_whatever_is_in_it) {
    kvf_layout_t layout = layout_of(2, 2, 2, 32, 8, KVF_BF16, KVF_ROPE_NEOX);
    kvf_joint_encoder_t *encoder = make_encoder(&layout, 0.9f);
    kvf_joint_decoder_t *decoder = make_decoder(&layout);
    random_state_t r = {5};
    shelf_t shelf = {0};
    block_t blocks[6];
    kvf_joint_block_t in[6];
    kvf_joint_out_t out[6];
    for (size_t b = 0; b < 6; b++) {
        blocks[b] = make_text(&layout, 16 * b, 10 + b, 0, &r);
        in[b] = (kvf_joint_block_t){
            .planes = blocks[b].planes, .tokens = 8, .position = 16 * b, .unit = 1 + b, .request = (uint32_t)b};
    }
    const uint16_t specials[] = {0x7fc1, 0xff80, 0x7f80, 0x8000, 0xffff, 0x0001};
    memcpy(blocks[0].bytes + 6, specials, sizeof(specials));         /* NaN and Inf in K of layer 0 */
    memcpy(blocks[1].bytes, blocks[0].bytes, blocks[0].plane_bytes); /* and the same again */
    memset(blocks[2].bytes, 0, blocks[2].plane_bytes);               /* zeros */
    memset(blocks[3].bytes, 0, blocks[3].plane_bytes);
    cr_assert_eq(kvf_joint_encode(encoder, in, 6, find_on_shelf, &shelf, out), KVF_OK);
    for (size_t b = 0; b < 6; b++) {
        cr_assert_eq(out[b].planes_fused, 0, "block %zu", b);
        put_on_shelf(&shelf, in[b].unit, out[b].unit, out[b].unit_bytes);
        cr_assert_eq(
            kvf_joint_decode(decoder, out[b].record, out[b].record_bytes, find_on_shelf, &shelf, 0, 2, blocks[b].to),
            KVF_OK);
        cr_assert_eq(memcmp(blocks[b].back, blocks[b].bytes, blocks[b].num_planes * blocks[b].plane_bytes), 0);
        drop_block(&blocks[b]);
    }
    clear_shelf(&shelf);
    kvf_joint_encoder_destroy(encoder);
    kvf_joint_decoder_destroy(decoder);
}

Test(joint, a_later_block_joins_vectors_that_are_known_at_its_own_position) {
    kvf_layout_t layout = layout_of(2, 2, 3, 64, 16, KVF_BF16, KVF_ROPE_NEOX);
    kvf_joint_encoder_t *encoder = make_encoder(&layout, 0.9f);
    kvf_joint_decoder_t *decoder = make_decoder(&layout);
    random_state_t r = {7};
    shelf_t shelf = {0};
    kvf_joint_out_t out;
    block_t first = make_text(&layout, 1000, 1, 0.1, &r), other = make_text(&layout, 3, 2, 0.1, &r);
    kvf_joint_block_t in = {.planes = other.planes, .tokens = 16, .position = 3, .unit = 8};
    cr_assert_eq(kvf_joint_encode(encoder, &in, 1, find_on_shelf, &shelf, &out), KVF_OK);
    put_on_shelf(&shelf, 8, out.unit, out.unit_bytes);
    in = (kvf_joint_block_t){.planes = first.planes, .tokens = 16, .position = 1000, .unit = 9};
    cr_assert_eq(kvf_joint_encode(encoder, &in, 1, find_on_shelf, &shelf, &out), KVF_OK);
    put_on_shelf(&shelf, 9, out.unit, out.unit_bytes);

    uint64_t known[4 * KVF_JOINT_KNOWN_MAX]; /* one that is not there, one that is unlike, the right one twice */
    for (size_t p = 0; p < 4; p++)
        memcpy(known + p * KVF_JOINT_KNOWN_MAX, (uint64_t[]){77, 8, 9, 9}, 4 * sizeof(*known));
    const uint64_t positions[] = {1000, 0, 20000};
    for (size_t i = 0; i < 3; i++) {
        block_t again = make_text(&layout, positions[i], 1, 0.1, &r);
        in = (kvf_joint_block_t){
            .planes = again.planes, .tokens = 16, .position = positions[i], .unit = 10 + i, .known = known};
        cr_assert_eq(kvf_joint_encode(encoder, &in, 1, find_on_shelf, &shelf, &out), KVF_OK);
        cr_assert(out.planes_fused == 4 && !out.unit, "it needs no unit of its own");
        expect(decoder, &layout, 0.9f, &again, &out, &shelf, "known");
        drop_block(&again);
    }
    in = (kvf_joint_block_t){.planes = first.planes, .tokens = 16, .position = 1000, .unit = 20, .known = known};
    cr_assert_eq(kvf_joint_encode(encoder, &in, 1, find_on_shelf, &shelf, &out), KVF_OK);
    cr_assert(out.planes_fused == 4 && out.planes_same == 4 && !out.planes_changed, "the same bytes come back as such");
    expect(decoder, &layout, 0.9f, &first, &out, &shelf, "the same");

    shelf.units[1].bytes[shelf.units[1].num_bytes - 1] ^= 0x40; /* V of layer 1, beyond its neighbours */
    cr_assert_eq(kvf_joint_encode(encoder, &in, 1, find_on_shelf, &shelf, &out), KVF_OK);
    shelf.units[1].bytes[3] ^= 1;
    cr_assert_eq(kvf_joint_encode(encoder, &in, 1, find_on_shelf, &shelf, &out), KVF_OK);
    cr_assert_eq(out.planes_fused, 0, "a unit that is none is left out");
    drop_block(&first);
    drop_block(&other);
    clear_shelf(&shelf);
    kvf_joint_encoder_destroy(encoder);
    kvf_joint_decoder_destroy(decoder);
}

Test(joint, a_known_vector_without_a_finite_norm_keeps_no_other_from_being_joined) {
    kvf_layout_t layout = layout_of(1, 2, 2, 32, 8, KVF_FP32, KVF_ROPE_NONE);
    kvf_joint_encoder_t *encoder = make_encoder(&layout, 0.9f);
    random_state_t r = {3};
    shelf_t shelf = {0};
    kvf_joint_out_t out;
    block_t x = make_text(&layout, 0, 1, 0.1, &r), bad = make_text(&layout, 0, 1, 0.1, &r);
    ((float *)(void *)bad.bytes)[5] = INFINITY;                  /* K */
    ((float *)(void *)(bad.bytes + bad.plane_bytes))[7] = 1e30f; /* V: its square is beyond fp32 */
    const block_t *const held[] = {&x, &bad};
    for (size_t i = 0; i < 2; i++) {
        kvf_joint_block_t in = {.planes = held[i]->planes, .tokens = 8, .unit = 1 + i};
        cr_assert_eq(kvf_joint_encode(encoder, &in, 1, find_on_shelf, &shelf, &out), KVF_OK);
        put_on_shelf(&shelf, 1 + i, out.unit, out.unit_bytes);
    }
    const uint64_t orders[][2] = {{1, 2}, {2, 1}};
    for (size_t i = 0; i < 2; i++) {
        uint64_t known[2 * KVF_JOINT_KNOWN_MAX] = {0};
        for (size_t p = 0; p < 2; p++) memcpy(known + p * KVF_JOINT_KNOWN_MAX, orders[i], sizeof(orders[i]));
        kvf_joint_block_t in = {.planes = x.planes, .tokens = 8, .unit = 3, .known = known};
        cr_assert_eq(kvf_joint_encode(encoder, &in, 1, find_on_shelf, &shelf, &out), KVF_OK);
        cr_assert_eq(out.planes_same, 2, "order %zu", i);
    }
    drop_block(&x);
    drop_block(&bad);
    clear_shelf(&shelf);
    kvf_joint_encoder_destroy(encoder);
}

Test(joint, layers_can_be_read_alone_and_planes_left_out) {
    kvf_layout_t layout = layout_of(5, 2, 1, 32, 4, KVF_BF16, KVF_ROPE_NEOX);
    kvf_joint_encoder_t *encoder = make_encoder(&layout, 0.9f);
    kvf_joint_decoder_t *decoder = make_decoder(&layout);
    random_state_t r = {11};
    shelf_t shelf = {0};
    block_t a = make_text(&layout, 40, 1, 0.2, &r), b = make_text(&layout, 4, 1, 0.2, &r),
            whole = make_text(&layout, 0, 3, 0, &r);
    kvf_joint_block_t in[2] = {{.planes = a.planes, .tokens = 4, .position = 40, .unit = 1},
                               {.planes = b.planes, .tokens = 4, .position = 4, .unit = 2, .request = 1}};
    kvf_joint_out_t out[2];
    cr_assert_eq(kvf_joint_encode(encoder, in, 2, find_on_shelf, &shelf, out), KVF_OK);
    for (size_t i = 0; i < 2; i++)
        if (out[i].unit) put_on_shelf(&shelf, in[i].unit, out[i].unit, out[i].unit_bytes);
    cr_assert_eq(kvf_joint_decode(decoder, out[1].record, out[1].record_bytes, find_on_shelf, &shelf, 0, 5, whole.to),
                 KVF_OK);
    for (uint32_t first = 0; first <= 5; first++)
        for (uint32_t layers = 0; first + layers <= 5; layers++) {
            void *to[10] = {0};
            for (uint32_t p = 0; p < 2 * layers; p++) to[p] = p % 3 == 1 ? NULL : b.to[p];
            memset(b.back, 0xa5, b.num_planes * b.plane_bytes);
            cr_assert_eq(
                kvf_joint_decode(decoder, out[1].record, out[1].record_bytes, find_on_shelf, &shelf, first, layers, to),
                KVF_OK);
            for (uint32_t p = 0; p < 2 * layers; p++)
                if (p % 3 != 1) cr_assert_eq(memcmp(b.to[p], whole.to[2 * first + p], b.plane_bytes), 0);
        }
    cr_assert_eq(kvf_joint_decode(decoder, out[1].record, out[1].record_bytes, find_on_shelf, &shelf, 5, 1, b.to),
                 KVF_ERR_INVALID);
    clear_shelf(&shelf);
    cr_assert_eq(kvf_joint_decode(decoder, out[1].record, out[1].record_bytes, find_on_shelf, &shelf, 0, 5, b.to),
                 KVF_ERR_NOT_FOUND);
    drop_block(&a);
    drop_block(&b);
    drop_block(&whole);
    kvf_joint_encoder_destroy(encoder);
    kvf_joint_decoder_destroy(decoder);
}

Test(joint, any_bytes_are_safe) {
    kvf_layout_t layout = layout_of(3, 2, 1, 32, 4, KVF_BF16, KVF_ROPE_NEOX);
    kvf_joint_encoder_t *encoder = make_encoder(&layout, 0.9f);
    kvf_joint_decoder_t *decoder = make_decoder(&layout);
    random_state_t r = {13};
    shelf_t shelf = {0};
    block_t a = make_text(&layout, 40, 1, 0.2, &r), b = make_text(&layout, 4, 1, 0.2, &r);
    kvf_joint_block_t in[2] = {{.planes = a.planes, .tokens = 4, .position = 40, .unit = 1},
                               {.planes = b.planes, .tokens = 4, .position = 4, .unit = 2, .request = 1}};
    kvf_joint_out_t out[2];
    cr_assert_eq(kvf_joint_encode(encoder, in, 2, find_on_shelf, &shelf, out), KVF_OK);
    put_on_shelf(&shelf, 1, out[0].unit, out[0].unit_bytes);
    if (out[1].unit) put_on_shelf(&shelf, 2, out[1].unit, out[1].unit_bytes);
    size_t good = 0, bad = 0;
    for (int i = 0; i < 200000; i++) {
        size_t bytes = out[1].record_bytes - (i % 7 ? 0 : (size_t)(random_uniform(&r) * (double)out[1].record_bytes));
        uint8_t *record = memcpy(malloc(bytes ? bytes : 1), out[1].record, bytes); /* of its exact size */
        uint8_t *at = i % 3 && bytes ? record + (size_t)(random_uniform(&r) * (double)bytes)
                                     : shelf.units[0].bytes + (size_t)(random_uniform(&r) * 80);
        uint8_t was = *at;
        *at = (uint8_t)(random_uniform(&r) * 256);
        kvf_status_t status = kvf_joint_decode(decoder, record, bytes, find_on_shelf, &shelf, 0, 3, b.to);
        cr_assert(status == KVF_OK || status == KVF_ERR_CORRUPT || status == KVF_ERR_NOT_FOUND);
        good += status == KVF_OK;
        bad += status != KVF_OK;
        *at = was;
        free(record);
    }
    cr_assert(good > 1000 && bad > 1000, "%zu and %zu", good, bad);
    clear_shelf(&shelf);
    drop_block(&a);
    drop_block(&b);
    kvf_joint_encoder_destroy(encoder);
    kvf_joint_decoder_destroy(decoder);
}

Test(joint, wrong_arguments_are_refused) {
    kvf_layout_t layout = layout_of(1, 2, 1, 32, 4, KVF_BF16, KVF_ROPE_NEOX), broken = layout;
    kvf_joint_encoder_t *encoder = NULL;
    broken.head_dim = 0;
    cr_assert_eq(kvf_joint_encoder_create(&broken, 0.9f, &encoder), KVF_ERR_INVALID);
    cr_assert_eq(kvf_joint_encoder_create(&layout, 1.0f, &encoder), KVF_ERR_INVALID);
    cr_assert_eq(kvf_joint_encoder_create(&layout, NAN, &encoder), KVF_ERR_INVALID);
    encoder = make_encoder(&layout, 0.9f);
    random_state_t r = {17};
    block_t a = make_text(&layout, 0, 1, 0, &r);
    kvf_joint_block_t good = {.planes = a.planes, .tokens = 4, .unit = 1, .request = 1}, in[2] = {good, good};
    kvf_joint_out_t out[2];
    shelf_t shelf = {0};
    cr_assert_eq(kvf_joint_encode(encoder, in, 0, find_on_shelf, &shelf, out), KVF_ERR_INVALID);
    cr_assert_eq(kvf_joint_encode(encoder, in, KVF_JOINT_BATCH_MAX + 1, find_on_shelf, &shelf, out), KVF_ERR_INVALID);
    cr_assert_eq(kvf_joint_encode(encoder, in, 2, find_on_shelf, &shelf, out), KVF_ERR_INVALID, "one id twice");
    in[1].unit = 2;
    in[1].request = 0;
    cr_assert_eq(kvf_joint_encode(encoder, in, 2, find_on_shelf, &shelf, out), KVF_ERR_INVALID, "requests fall");
    in[0].tokens = 5;
    cr_assert_eq(kvf_joint_encode(encoder, in, 1, find_on_shelf, &shelf, out), KVF_ERR_INVALID);
    in[0].tokens = 3;
    cr_assert_eq(kvf_joint_encode(encoder, in, 1, find_on_shelf, &shelf, out), KVF_OK, "a tail");
    drop_block(&a);
    kvf_joint_encoder_destroy(encoder);
}

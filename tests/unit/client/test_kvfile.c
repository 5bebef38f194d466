#include "client/cli/kvfile.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- a small file in memory ---- */

enum { REQUESTS = 2, LAYERS = 3, TOKENS = 7, HEADS = 2, DIM = 4, BLOCK = 3, ROW = HEADS * DIM };

#define META_AXES  "\"axes\":\"request,layer,k_or_v,token,kv_head,head_dim\""
#define META_MODEL "\"model\":\"m\""
#define META_ROPE  "\"rope\":\"neox theta=10000 position=token\""
#define META       META_AXES "," META_MODEL "," META_ROPE
#define SHAPE      "[2,3,2,7,2,4]"
#define KV_VALUES  (REQUESTS * LAYERS * 2 * TOKENS * ROW)

typedef struct image {
    uint8_t *bytes;
    size_t num_bytes;
    kvf_kvfile_t *file;
    kvf_status_t status;
    kvf_error_t error;
} image_t;

/* Opens a file of these texts; tokens (`token_shape` "" for none) are `ids`, value i of kv is i in the first two bytes.
 */
static image_t open_image(const char *meta, const char *dtype, size_t value_bytes, const char *shape,
                          const char *token_shape, const int32_t *ids, size_t num_ids, uint32_t block_tokens) {
    char header[1024], tokens[256] = "";
    size_t id_bytes = num_ids * sizeof(*ids), kv_bytes = KV_VALUES * value_bytes;
    if (*token_shape)
        snprintf(tokens, sizeof(tokens), "\"tokens\":{\"dtype\":\"I32\",\"shape\":%s,\"data_offsets\":[0,%zu]},",
                 token_shape, id_bytes);
    int used = snprintf(header, sizeof(header),
                        "{\"__metadata__\":{%s},%s\"kv\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}}",
                        meta, tokens, dtype, shape, id_bytes, id_bytes + kv_bytes);
    cr_assert(used > 0 && (size_t)used < sizeof(header));
    uint64_t length = (uint64_t)used;
    image_t image = {.num_bytes = 8 + length + id_bytes + kv_bytes};
    image.bytes = calloc(1, image.num_bytes);
    memcpy(image.bytes, &length, 8);
    memcpy(image.bytes + 8, header, length);
    if (id_bytes) memcpy(image.bytes + 8 + length, ids, id_bytes);
    for (size_t i = 0; i < KV_VALUES; i++)
        memcpy(image.bytes + 8 + length + id_bytes + i * value_bytes, &(uint16_t){(uint16_t)i}, 2);
    image.status = kvf_kvfile_parse(image.bytes, image.num_bytes, "kv.st", block_tokens, &image.file, &image.error);
    if (image.status) image.file = NULL;
    return image;
}

static const int32_t some_ids[REQUESTS * 8] = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 99, 7, 8};

static image_t open_meta(const char *meta) {
    return open_image(meta, "BF16", 2, SHAPE, "[2,8]", some_ids, REQUESTS * 8, BLOCK);
}

static void close_image(image_t *image) {
    kvf_kvfile_close(image->file);
    free(image->bytes);
}

static void expect_refused(image_t image, kvf_status_t status, const char *says) {
    cr_expect_eq(image.status, status, "%s: %d %s", says, (int)image.status, image.status ? image.error.text : "");
    cr_expect(image.status && strstr(image.error.text, says), "'%s' does not say '%s'",
              image.status ? image.error.text : "", says);
    close_image(&image);
}

/* ---- shape ---- */

Test(kvfile, info_tells_the_layout_and_the_cut) {
    image_t image = open_meta(META);
    cr_assert_eq(image.status, KVF_OK, "%s", image.error.text);
    const kvf_kvfile_info_t *info = kvf_kvfile_info(image.file);
    cr_assert_eq(info->requests, REQUESTS);
    cr_assert_eq(info->tokens, TOKENS);
    cr_assert_eq(info->blocks, 2);
    cr_assert_eq(info->tail_tokens, 1);
    cr_assert_eq(info->layout.layers, LAYERS);
    cr_assert_eq(info->layout.planes, 2);
    cr_assert_eq(info->layout.kv_heads, HEADS);
    cr_assert_eq(info->layout.head_dim, DIM);
    cr_assert_eq(info->layout.block_tokens, BLOCK);
    cr_assert_eq(info->layout.dtype, KVF_BF16);
    cr_assert_str_eq(info->layout.model, "m");
    cr_assert_eq(info->block_bytes, LAYERS * 2 * BLOCK * ROW * 2);
    cr_assert_eq(info->num_pieces, LAYERS * 2);
    cr_assert(info->has_tokens);
    close_image(&image);
}

Test(kvfile, dtypes_of_kv_are_the_three) {
    image_t half = open_image(META, "F16", 2, SHAPE, "", NULL, 0, BLOCK);
    cr_assert_eq(kvf_kvfile_info(half.file)->layout.dtype, KVF_FP16);
    cr_assert_not(kvf_kvfile_info(half.file)->has_tokens);
    image_t single = open_image(META, "F32", 4, SHAPE, "", NULL, 0, BLOCK);
    cr_assert_eq(kvf_kvfile_info(single.file)->layout.dtype, KVF_FP32);
    cr_assert_eq(kvf_kvfile_info(single.file)->block_bytes, LAYERS * 2 * BLOCK * ROW * 4);
    close_image(&half);
    close_image(&single);
    expect_refused(open_image(META, "F64", 8, SHAPE, "", NULL, 0, BLOCK), KVF_ERR_UNSUPPORTED, "dtype F64");
    expect_refused(open_image(META, "I16", 2, SHAPE, "", NULL, 0, BLOCK), KVF_ERR_UNSUPPORTED, "dtype I16");
}

Test(kvfile, files_that_are_no_kv_files_are_refused) {
    expect_refused(open_meta(META_MODEL), KVF_ERR_INVALID, "'axes' is missing");
    expect_refused(open_meta("\"axes\":\"layer,request\"," META_MODEL), KVF_ERR_INVALID, "'axes' is 'layer,request'");
    expect_refused(open_meta(META_AXES), KVF_ERR_INVALID, "'model' is missing");
    expect_refused(open_meta(META_AXES ",\"model\":\"\""), KVF_ERR_INVALID, "'model' is missing");
    expect_refused(open_image(META, "BF16", 2, "[2,3,2,7,8]", "", NULL, 0, BLOCK), KVF_ERR_INVALID, "5 dimensions");
    expect_refused(open_image(META, "BF16", 2, "[2,2,3,7,2,4]", "", NULL, 0, BLOCK), KVF_ERR_INVALID, "(K and V) is 3");
    expect_refused(open_image(META, "BF16", 2, "[1,1,2,1,168,2]", "", NULL, 0, BLOCK), KVF_ERR_INVALID,
                   "(kv_heads) is 168");
    expect_refused(open_image(META, "BF16", 2, SHAPE, "", NULL, 0, 0), KVF_ERR_INVALID, "0 tokens a block");
    expect_refused(open_image(META, "BF16", 2, SHAPE, "", NULL, 0, 1025), KVF_ERR_INVALID, "1025 tokens a block");
    const char other[] =
        "\x40\0\0\0\0\0\0\0{\"q\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}               ";
    kvf_kvfile_t *file;
    kvf_error_t error;
    cr_expect_eq(kvf_kvfile_parse(other, 8 + 64, "q.st", BLOCK, &file, &error), KVF_ERR_INVALID);
    cr_expect(strstr(error.text, "no tensor 'kv'"), "%s", error.text);
}

Test(kvfile, empty_dimensions_are_refused) {
    const char *shapes[] = {"[0,3,2,7,2,4]", "[2,0,2,7,2,4]", "[2,3,2,0,2,4]", "[2,3,2,7,0,4]", "[2,3,2,7,2,0]"};
    for (size_t i = 0; i < 5; i++) {
        char text[512];
        int used = snprintf(text + 8, sizeof(text) - 8,
                            "{\"__metadata__\":{" META "},\"kv\":{\"dtype\":\"BF16\","
                            "\"shape\":%s,\"data_offsets\":[0,0]}}",
                            shapes[i]);
        memcpy(text, &(uint64_t){(uint64_t)used}, 8);
        kvf_kvfile_t *file;
        cr_expect_eq(kvf_kvfile_parse(text, 8 + (size_t)used, "kv.st", BLOCK, &file, NULL), KVF_ERR_INVALID, "%s",
                     shapes[i]);
    }
}

Test(kvfile, tokens_that_do_not_fit_are_refused) {
    expect_refused(open_image(META, "BF16", 2, SHAPE, "[2,6]", some_ids, 12, BLOCK), KVF_ERR_INVALID, "'tokens'");
    expect_refused(open_image(META, "BF16", 2, SHAPE, "[1,16]", some_ids, 16, BLOCK), KVF_ERR_INVALID, "'tokens'");
    expect_refused(open_image(META, "BF16", 2, SHAPE, "[16]", some_ids, 16, BLOCK), KVF_ERR_INVALID, "'tokens'");
}

/* ---- RoPE ---- */

Test(kvfile, rope_is_read_or_unknown) {
    image_t image = open_meta(META);
    const kvf_kvfile_info_t *info = kvf_kvfile_info(image.file);
    cr_assert(info->rope_known);
    cr_assert_eq(info->layout.rope_style, KVF_ROPE_NEOX);
    cr_assert_eq(info->layout.rope_dim, DIM);
    cr_assert_eq(info->layout.rope_tables, 1);
    cr_assert_float_eq(info->rope_theta, 10000, 0);
    cr_assert_float_eq(info->layout.rope_frequencies[0], 1, 0);
    cr_assert_float_eq(info->layout.rope_frequencies[1], 0.01f, 0);
    close_image(&image);
    image = open_meta(META_AXES "," META_MODEL);
    info = kvf_kvfile_info(image.file);
    cr_assert_not(info->rope_known);
    cr_assert_eq(info->layout.rope_style, KVF_ROPE_NONE);
    close_image(&image);
    image = open_meta(META_AXES "," META_MODEL ",\"rope\":\"none\"");
    cr_assert(kvf_kvfile_info(image.file)->rope_known);
    cr_assert_eq(kvf_kvfile_info(image.file)->layout.rope_tables, 0);
    close_image(&image);
    image = open_meta(META_AXES "," META_MODEL ",\"rope\":\"gptj dim=2\",\"rope_inv_freq\":\" 0.25 \"");
    cr_assert_eq(kvf_kvfile_info(image.file)->layout.rope_style, KVF_ROPE_GPTJ);
    cr_assert_eq(kvf_kvfile_info(image.file)->layout.rope_dim, 2);
    cr_assert_float_eq(kvf_kvfile_info(image.file)->layout.rope_frequencies[0], 0.25f, 0);
    close_image(&image);
}

Test(kvfile, rope_that_is_not_understood_is_refused) {
    const char *bad[] = {
        "\"rope\":\"\"",
        "\"rope\":\"yarn theta=1\"",
        "\"rope\":\"neox\"",
        "\"rope\":\"neox theta=\"",
        "\"rope\":\"neox theta=0\"",
        "\"rope\":\"neox theta=-1\"",
        "\"rope\":\"neox theta=inf\"",
        "\"rope\":\"neox theta=1e999\"",
        "\"rope\":\"neox theta=10x\"",
        "\"rope\":\"neox theta=10 dim=3\"",
        "\"rope\":\"neox theta=10 dim=6\"",
        "\"rope\":\"neox theta=10 dim=0\"",
        "\"rope\":\"neox theta=10 dim=1.5\"",
        "\"rope\":\"neox theta=10 scaling=yarn\"",
        "\"rope\":\"none theta=10\"",
        "\"rope\":\"neox 0123456789012345678901234567890123456789012345678901234567890123456789\"",
        "\"rope_inv_freq\":\"1 0.5\"",
        "\"rope\":\"neox\",\"rope_inv_freq\":\"1\"",
        "\"rope\":\"neox\",\"rope_inv_freq\":\"1 0.5 0.25\"",
        "\"rope\":\"neox\",\"rope_inv_freq\":\"1 nan\"",
        "\"rope\":\"neox\",\"rope_inv_freq\":\"1 1e300\"",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char meta[512];
        snprintf(meta, sizeof(meta), META_AXES "," META_MODEL ",%s", bad[i]);
        image_t image = open_meta(meta);
        cr_expect_eq(image.status, KVF_ERR_INVALID, "%s", bad[i]);
        cr_expect(image.status && strstr(image.error.text, "'rope"), "%s: %s", bad[i], image.error.text);
        close_image(&image);
    }
}

/* ---- blocks ---- */

/* Value number of kv[r, l, p, t, 0, 0]. */
static size_t value_at(size_t r, size_t l, size_t p, size_t t) {
    return (((r * LAYERS + l) * 2 + p) * TOKENS + t) * ROW;
}

Test(kvfile, pieces_are_the_block_in_the_stores_order) {
    image_t image = open_meta(META);
    for (size_t r = 0; r < REQUESTS; r++)
        for (size_t b = 0; b < 3; b++) {
            kvf_piece_t pieces[LAYERS * 2];
            cr_assert(kvf_kvfile_pieces(image.file, r, b, pieces));
            for (size_t i = 0; i < LAYERS * 2; i++) {
                size_t values = (b == 2 ? TOKENS % BLOCK : BLOCK) * ROW;
                cr_assert_eq(pieces[i].bytes, values * 2);
                for (size_t v = 0; v < values; v++) {
                    uint16_t value;
                    memcpy(&value, (uint8_t *)pieces[i].base + 2 * v, 2);
                    cr_assert_eq(value, value_at(r, i / 2, i % 2, b * BLOCK) + v);
                }
            }
        }
    close_image(&image);
}

Test(kvfile, blocks_that_are_not_there_are_refused) {
    image_t image = open_meta(META);
    kvf_piece_t pieces[LAYERS * 2];
    int32_t ids[TOKENS];
    uint8_t keys[2][KVF_KVFILE_KEY_BYTES];
    cr_assert_not(kvf_kvfile_pieces(image.file, 0, 3, pieces));
    cr_assert_not(kvf_kvfile_pieces(image.file, REQUESTS, 0, pieces));
    cr_assert_not(kvf_kvfile_pieces(image.file, 0, UINT64_MAX, pieces));
    cr_assert_not(kvf_kvfile_token_ids(image.file, REQUESTS, 0, 1, ids));
    cr_assert_not(kvf_kvfile_token_ids(image.file, 0, TOKENS, 1, ids));
    cr_assert_not(kvf_kvfile_token_ids(image.file, 0, UINT64_MAX, 2, ids));
    cr_assert_eq(kvf_kvfile_keys(image.file, REQUESTS, keys), KVF_ERR_INVALID);
    close_image(&image);
    image = open_image(META, "BF16", 2, SHAPE, "", NULL, 0, TOKENS);
    cr_assert(kvf_kvfile_pieces(image.file, 0, 0, pieces));
    cr_assert_not(kvf_kvfile_pieces(image.file, 0, 1, pieces), "no tail where the tokens fill the blocks");
    cr_assert_not(kvf_kvfile_token_ids(image.file, 0, 0, 1, ids), "a file without tokens");
    close_image(&image);
}

Test(kvfile, blocks_longer_than_a_request_leave_a_tail_alone) {
    image_t image = open_image(META, "BF16", 2, SHAPE, "", NULL, 0, TOKENS + 1);
    kvf_piece_t pieces[LAYERS * 2];
    cr_assert_eq(kvf_kvfile_info(image.file)->blocks, 0);
    cr_assert(kvf_kvfile_pieces(image.file, 1, 0, pieces));
    cr_assert_eq(pieces[0].bytes, TOKENS * ROW * 2);
    close_image(&image);
}

Test(kvfile, token_ids_are_those_of_the_file) {
    image_t image = open_meta(META);
    int32_t ids[3];
    cr_assert(kvf_kvfile_token_ids(image.file, 1, 4, 3, ids));
    cr_assert_eq(ids[0], 5);
    cr_assert_eq(ids[1], 99);
    cr_assert_eq(ids[2], 7);
    close_image(&image);
}

/* ---- keys ---- */

typedef uint8_t kvf_test_keys_t[TOKENS][KVF_KVFILE_KEY_BYTES];

static void take_keys(image_t image, uint64_t request, kvf_test_keys_t keys) {
    cr_assert_eq(image.status, KVF_OK, "%s", image.error.text);
    cr_assert_eq(kvf_kvfile_keys(image.file, request, keys), KVF_OK);
    close_image(&image);
}

static bool same(const uint8_t *a, const uint8_t *b) { return memcmp(a, b, KVF_KVFILE_KEY_BYTES) == 0; }

Test(kvfile, key_stands_for_the_whole_prefix) {
    kvf_test_keys_t first, second;
    take_keys(open_meta(META), 0, first);
    take_keys(open_meta(META), 1, second);
    cr_assert(same(first[0], second[0]), "tokens 1 2 3 in both");
    cr_assert_not(same(first[1], second[1]), "4 5 6 and 4 5 99");
    cr_assert_not(same(first[0], first[1]));
    const int32_t early[REQUESTS * 8] = {9, 2, 3, 4, 5, 6, 7, 8};
    take_keys(open_image(META, "BF16", 2, SHAPE, "[2,8]", early, 16, BLOCK), 0, second);
    cr_assert_not(same(first[1], second[1]), "the same block behind another one");
}

Test(kvfile, halves_of_a_key_differ) {
    kvf_test_keys_t keys;
    take_keys(open_meta(META), 0, keys);
    cr_assert_neq(memcmp(keys[0], keys[0] + 16, 16), 0);
}

Test(kvfile, keys_never_meet_across_models_and_layouts) {
    kvf_test_keys_t keys[6];
    take_keys(open_meta(META), 0, keys[0]);
    take_keys(open_meta(META_AXES "," META_ROPE ",\"model\":\"n\""), 0, keys[1]);
    take_keys(open_image(META, "F16", 2, SHAPE, "[2,8]", some_ids, 16, BLOCK), 0, keys[2]);
    take_keys(open_image(META, "BF16", 2, "[2,3,2,7,4,2]", "[2,8]", some_ids, 16, BLOCK), 0, keys[3]);
    take_keys(open_image(META, "BF16", 2, "[2,1,2,7,6,4]", "[2,8]", some_ids, 16, BLOCK), 0, keys[4]);
    take_keys(open_image(META, "BF16", 2, SHAPE, "[2,8]", some_ids, 16, BLOCK + 1), 0, keys[5]);
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < i; j++) cr_expect_not(same(keys[i][0], keys[j][0]), "%zu and %zu", i, j);
}

Test(kvfile, keys_of_a_file_without_tokens_follow_the_bytes) {
    kvf_test_keys_t keys, again, changed;
    image_t image = open_image(META, "BF16", 2, SHAPE, "", NULL, 0, BLOCK);
    cr_assert_eq(kvf_kvfile_keys(image.file, 1, keys), KVF_OK);
    cr_assert_eq(kvf_kvfile_keys(image.file, 1, again), KVF_OK);
    cr_assert(same(keys[1], again[1]));
    kvf_piece_t pieces[LAYERS * 2];
    cr_assert(kvf_kvfile_pieces(image.file, 1, 1, pieces));
    ((uint8_t *)pieces[5].base)[pieces[5].bytes - 1] ^= 1; /* the image is ours to change */
    cr_assert_eq(kvf_kvfile_keys(image.file, 1, changed), KVF_OK);
    cr_assert(same(keys[0], changed[0]));
    cr_assert_not(same(keys[1], changed[1]));
    cr_assert_eq(kvf_kvfile_keys(image.file, 0, again), KVF_OK);
    cr_assert_not(same(keys[0], again[0]));
    close_image(&image);
    take_keys(open_meta(META), 1, again);
    cr_assert_not(same(keys[0], again[0]), "keys of tokens and keys of bytes");
}

/* Keys outlive a release: they name blocks that daemons hold. */
Test(kvfile, keys_do_not_change_between_releases) {
    kvf_test_keys_t keys;
    take_keys(open_meta(META), 0, keys);
    char text[2 * KVF_KVFILE_KEY_BYTES + 1];
    for (size_t i = 0; i < KVF_KVFILE_KEY_BYTES; i++) snprintf(text + 2 * i, 3, "%02x", keys[1][i]);
    cr_assert_str_eq(text, "d5e5fd3ef5f904512a261124a4751d82ba25153bfd37c89b71b9b9854e4ccb9d");
}

/* ---- the sample ---- */

enum { SAMPLE_BLOCK = 16, SAMPLE_PIECES = 60, SAMPLE_SHARED = 2 };

static kvf_kvfile_t *open_sample(void) {
    kvf_kvfile_t *file;
    kvf_error_t error = {""};
    cr_assert_eq(kvf_kvfile_open(KVF_SAMPLE, SAMPLE_BLOCK, &file, &error), KVF_OK, "%s", error.text);
    return file;
}

Test(kvfile, sample_is_what_its_readme_says) {
    kvf_kvfile_t *file = open_sample();
    const kvf_kvfile_info_t *info = kvf_kvfile_info(file);
    cr_assert_eq(info->requests, 4);
    cr_assert_eq(info->tokens, 80);
    cr_assert_eq(info->blocks, 5);
    cr_assert_eq(info->tail_tokens, 0);
    cr_assert_eq(info->layout.layers, 30);
    cr_assert_eq(info->layout.kv_heads, 3);
    cr_assert_eq(info->layout.head_dim, 64);
    cr_assert_eq(info->layout.dtype, KVF_BF16);
    cr_assert_eq(info->block_bytes, 368640);
    cr_assert_str_eq(info->layout.model, "SmolLM2-135M-Instruct");
    cr_assert_eq(info->layout.rope_style, KVF_ROPE_NEOX);
    cr_assert_float_eq(info->rope_theta, 100000, 0);
    for (uint32_t i = 0; i < 32; i++)
        cr_expect_float_eq(info->layout.rope_frequencies[i], pow(1e5, -(double)i / 32),
                           1e-6 * pow(1e5, -(double)i / 32));
    kvf_kvfile_close(file);
}

Test(kvfile, sample_requests_0_and_1_share_their_first_blocks) {
    kvf_kvfile_t *file = open_sample();
    uint8_t keys[4][5][KVF_KVFILE_KEY_BYTES];
    for (uint64_t r = 0; r < 4; r++) cr_assert_eq(kvf_kvfile_keys(file, r, keys[r]), KVF_OK);
    for (uint64_t b = 0; b < 5; b++) {
        kvf_piece_t first[SAMPLE_PIECES], second[SAMPLE_PIECES];
        cr_assert(kvf_kvfile_pieces(file, 0, b, first) && kvf_kvfile_pieces(file, 1, b, second));
        bool equal = true;
        for (size_t i = 0; i < SAMPLE_PIECES; i++)
            equal = equal && memcmp(first[i].base, second[i].base, first[i].bytes) == 0;
        cr_expect_eq(same(keys[0][b], keys[1][b]), b < SAMPLE_SHARED, "key of block %d", (int)b);
        cr_expect_eq(equal, b < SAMPLE_SHARED, "bytes of block %d", (int)b);
    }
    for (int r = 2; r < 4; r++)
        for (int s = 0; s < r; s++) cr_expect_not(same(keys[r][0], keys[s][0]), "%d and %d", r, s);
    kvf_kvfile_close(file);
}

/* ---- output ---- */

/* The file `name` in a new folder that remove_output removes. */
static char folder[] = "/tmp/kvf-kvfile-XXXXXX";
static char path[64];

static void make_folder(void) {
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/out", folder);
}

static void remove_folder(void) {
    unlink(path);
    cr_assert_eq(rmdir(folder), 0, "something was left in %s", folder);
}

/* Copies blocks first, first + 1, … of each request, the tail included. */
static void copy_blocks(const kvf_kvfile_t *from, const kvf_kvfile_output_t *to, uint64_t first) {
    const kvf_kvfile_info_t *info = kvf_kvfile_info(from);
    kvf_piece_t source[SAMPLE_PIECES], target[SAMPLE_PIECES];
    for (uint64_t r = 0; r < info->requests; r++)
        for (uint64_t b = first; kvf_kvfile_pieces(from, r, b, source); b++) {
            cr_assert(kvf_kvfile_output_pieces(to, r, b, target));
            for (size_t i = 0; i < info->num_pieces; i++) {
                cr_assert_eq(source[i].bytes, target[i].bytes);
                memcpy(target[i].base, source[i].base, source[i].bytes);
            }
        }
}

static bool same_tensors(const kvf_kvfile_t *a, const kvf_kvfile_t *b) {
    size_t count, other;
    const kvf_tensor_t *x = kvf_safetensors_tensors(kvf_kvfile_tensors(a), &count);
    const kvf_tensor_t *y = kvf_safetensors_tensors(kvf_kvfile_tensors(b), &other);
    bool equal = count == other;
    for (size_t i = 0; equal && i < count; i++)
        equal = strcmp(x[i].name, y[i].name) == 0 && x[i].bytes == y[i].bytes &&
                memcmp(x[i].data, y[i].data, x[i].bytes) == 0;
    return equal;
}

Test(kvfile, sample_comes_back_bit_for_bit_block_by_block, .init = make_folder, .fini = remove_folder) {
    for (uint32_t tokens = 16; tokens <= 32; tokens += 16) { /* 32 leaves a tail */
        kvf_kvfile_t *sample, *copy;
        kvf_kvfile_output_t *output;
        cr_assert_eq(kvf_kvfile_open(KVF_SAMPLE, tokens, &sample, NULL), KVF_OK);
        cr_assert_eq(kvf_kvfile_output_create(sample, path, &output, NULL), KVF_OK);
        copy_blocks(sample, output, 0);
        cr_assert_eq(kvf_kvfile_output_commit(output, NULL), KVF_OK);
        cr_assert_eq(kvf_kvfile_open(path, tokens, &copy, NULL), KVF_OK);
        cr_assert(same_tensors(sample, copy));
        size_t count, copied;
        const kvf_metadata_t *a = kvf_safetensors_metadata(kvf_kvfile_tensors(sample), &count);
        const kvf_metadata_t *b = kvf_safetensors_metadata(kvf_kvfile_tensors(copy), &copied);
        cr_assert_eq(count, copied);
        for (size_t i = 0; i < count; i++)
            cr_assert(strcmp(a[i].key, b[i].key) == 0 && strcmp(a[i].value, b[i].value) == 0);
        kvf_kvfile_close(copy);
        kvf_kvfile_close(sample);
    }
}

Test(kvfile, blocks_that_nobody_filled_are_zeros, .init = make_folder, .fini = remove_folder) {
    kvf_kvfile_t *sample = open_sample(), *copy;
    kvf_kvfile_output_t *output;
    cr_assert_eq(kvf_kvfile_output_create(sample, path, &output, NULL), KVF_OK);
    copy_blocks(sample, output, 1);
    cr_assert_eq(kvf_kvfile_output_commit(output, NULL), KVF_OK);
    cr_assert_eq(kvf_kvfile_open(path, SAMPLE_BLOCK, &copy, NULL), KVF_OK);
    kvf_piece_t pieces[SAMPLE_PIECES];
    cr_assert(kvf_kvfile_pieces(copy, 3, 0, pieces));
    const uint8_t *bytes = pieces[59].base;
    for (size_t i = 0; i < pieces[59].bytes; i++) cr_assert_eq(bytes[i], 0);
    cr_assert_not(same_tensors(sample, copy));
    kvf_kvfile_close(copy);
    kvf_kvfile_close(sample);
}

Test(kvfile, aborted_output_leaves_nothing, .init = make_folder, .fini = remove_folder) {
    kvf_kvfile_t *sample = open_sample();
    kvf_kvfile_output_t *output;
    cr_assert_eq(kvf_kvfile_output_create(sample, path, &output, NULL), KVF_OK);
    kvf_kvfile_output_abort(output);
    kvf_kvfile_output_abort(NULL);
    cr_assert_neq(access(path, F_OK), 0);
    kvf_kvfile_close(sample);
}

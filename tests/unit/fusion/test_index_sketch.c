#include "fusion/index/sketch.h"

#include "fusion/index/sketch_internal.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 0x9e3779b97f4a7c15;
static uint64_t draw(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static float draw_normal(void) {
    float sum = 0; /* of twelve uniform ones, variance 1 */
    for (int i = 0; i < 12; i++) sum += (float)(draw() >> 40) * 0x1p-24f;
    return sum - 6;
}

static unsigned distance(const uint64_t *a, const uint64_t *b, unsigned words) {
    unsigned sum = 0;
    for (unsigned w = 0; w < words; w++) sum += (unsigned)__builtin_popcountll(a[w] ^ b[w]);
    return sum;
}

/* ---- sketches ---- */

enum { VALUES_MAX = 3072 };

/* b is at `cosine` to a. */
static void draw_pair(float *a, float *b, size_t count, double cosine) {
    double aa = 0, ab = 0, bb = 0;
    for (size_t i = 0; i < count; i++) {
        a[i] = draw_normal();
        b[i] = draw_normal();
        aa += a[i] * a[i];
        ab += a[i] * b[i];
    }
    for (size_t i = 0; i < count; i++) {
        b[i] -= (float)(ab / aa) * a[i];
        bb += b[i] * b[i];
    }
    double across = sqrt((1 - cosine * cosine) / bb), along = cosine / sqrt(aa);
    for (size_t i = 0; i < count; i++) b[i] = (float)(along * a[i] + across * b[i]);
}

static void check_distance(size_t count, unsigned bits, double cosine, bool has_outlier) {
    enum { PAIRS = 200 };
    static float a[VALUES_MAX], b[VALUES_MAX];
    double sum = 0, want = acos(cosine) / 3.14159265358979 * bits;
    for (int p = 0; p < PAIRS; p++) {
        uint64_t one[KVF_SKETCH_WORDS_MAX], other[KVF_SKETCH_WORDS_MAX];
        draw_pair(a, b, count, cosine);
        if (has_outlier) { /* all the energy in one place, of either: the angle is between these two */
            memset(a, 0, sizeof(a));
            memset(b, 0, sizeof(b));
            a[5] = 1000;
            b[5] = (float)cosine * 1000;
            b[77 % count] = (float)sqrt(1 - cosine * cosine) * 1000;
        }
        kvf_sketch_make(a, count, bits, one);
        kvf_sketch_make(b, count, bits, other);
        sum += distance(one, other, bits / 64);
        if (has_outlier) {
            sum *= PAIRS;
            break;
        }
    }
    double deviation = has_outlier ? 5 * sqrt(bits) / 2 : 5 * sqrt(want * (1 - want / bits) / PAIRS) + 0.02 * bits;
    cr_assert_lt(fabs(sum / PAIRS - want), deviation, "%zu values, %u bits, cosine %g: %g bits differ, not %g", count,
                 bits, cosine, sum / PAIRS, want);
}

Test(sketch, distance_is_the_angle) {
    static const size_t counts[] = {3072, 192, 64, 1000};
    static const double cosines[] = {0.999, 0.9, 0.5, 0, -0.7};
    for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
        for (unsigned bits = 64; bits <= KVF_SKETCH_BITS_MAX; bits *= 2)
            for (size_t i = 0; i < sizeof(cosines) / sizeof(cosines[0]); i++)
                check_distance(counts[c], bits, cosines[i], false);
}

Test(sketch, one_large_value_spreads_over_all_bits) {
    check_distance(192, 256, 0.5, true);
    check_distance(3072, 512, 0.9, true);
}

Test(sketch, scale_does_not_count_and_sign_turns_every_bit) {
    float a[192], b[192];
    uint64_t one[4], other[4];
    draw_pair(a, b, 192, 0.5);
    kvf_sketch_make(a, 192, 256, one);
    for (int i = 0; i < 192; i++) b[i] = a[i] * 1024;
    kvf_sketch_make(b, 192, 256, other);
    cr_assert_eq(distance(one, other, 4), 0);
    for (int i = 0; i < 192; i++) b[i] = -a[i];
    kvf_sketch_make(b, 192, 256, other);
    cr_assert_geq(distance(one, other, 4), 254); /* a sum of exactly zero has no sign */
}

Test(sketch, odd_values_and_no_values_do_no_harm) {
    float odd[100] = {NAN, INFINITY, -INFINITY, 3e38f, 3e38f};
    uint64_t sketch[KVF_SKETCH_WORDS_MAX];
    kvf_sketch_make(odd, 100, 512, sketch);
    kvf_sketch_make(odd, 1, 64, sketch);
    kvf_sketch_make(NULL, 0, 128, sketch);
    cr_assert(sketch[0] == 0 && sketch[1] == 0);
}

Test(sketch, cosine_falls_with_distance) {
    cr_assert_float_eq(kvf_sketch_cosine(0, 256), 1, 1e-6);
    cr_assert_float_eq(kvf_sketch_cosine(128, 256), 0, 1e-6);
    cr_assert_float_eq(kvf_sketch_cosine(64, 512), cos(3.14159265 / 8), 1e-6);
    cr_assert_float_eq(kvf_sketch_cosine(256, 256), -1, 1e-6);
}

/* ---- index ---- */

enum { UNITS = 30000, WORDS = 4 };

static uint64_t sketches_of[UNITS][WORDS];
static bool is_in[UNITS];

static kvf_sketches_t *make(uint32_t max_units, uint32_t probes) {
    kvf_sketches_config_t config = {.max_units = max_units, .probes = probes, .seed = 5};
    kvf_sketches_t *sketches;
    cr_assert_eq(kvf_sketches_create(&config, &sketches), KVF_OK);
    return sketches;
}

static void draw_sketch(uint64_t *sketch) {
    for (unsigned w = 0; w < WORDS; w++) sketch[w] = draw();
}

/* `flips` bits or fewer away. */
static void draw_near(uint64_t *sketch, const uint64_t *from, unsigned flips) {
    memcpy(sketch, from, WORDS * sizeof(*sketch));
    for (unsigned i = 0; i < flips; i++) {
        unsigned bit = (unsigned)(draw() % 256);
        sketch[bit / 64] ^= UINT64_C(1) << bit % 64;
    }
}

/* Every sketch is where its unit says, every list within its limits. */
static void check_lists(const kvf_sketches_t *s) {
    uint32_t units = 0;
    for (uint32_t l = 0; l < s->num_lists; l++) {
        const kvf__sketch_list_t *list = &s->lists[l];
        cr_assert_leq(list->count, list->capacity);
        cr_assert_leq(list->count, (uint32_t)KVF__SKETCH_LIST_MAX);
        cr_assert(s->num_lists == 1 || list->count >= KVF__SKETCH_LIST_MIN);
        for (uint32_t i = 0; i < list->count; i++) {
            const kvf__sketch_unit_t *unit = kvf__sketch_unit(s, list->units[i]);
            cr_assert(unit->list == l && unit->place == i);
            cr_assert_arr_eq(list->sketches + i * WORDS, sketches_of[unit->handle], sizeof(sketches_of[0]));
        }
        units += list->count;
    }
    cr_assert_eq(units, kvf_sketches_count(s));
}

static uint32_t brute_force(const uint64_t *sketch, uint32_t units, uint32_t limit, kvf_sketch_found_t *found) {
    uint32_t count = 0;
    for (uint32_t unit = 0; unit < units; unit++) {
        if (!is_in[unit]) continue;
        kvf_sketch_found_t one = {unit, distance(sketch, sketches_of[unit], WORDS)};
        uint32_t place = count;
        while (place > 0 && found[place - 1].distance > one.distance) place--;
        if (place == limit) continue;
        if (count < limit) count++;
        memmove(&found[place + 1], &found[place], (count - 1 - place) * sizeof(one));
        found[place] = one;
    }
    return count;
}

Test(sketches, few_units_are_found_exactly_while_they_come_and_go) {
    enum { FEW = 6000, STEPS = 40000 };
    kvf_sketches_t *s = make(FEW, KVF_SKETCH_PROBES_MAX);
    for (uint32_t step = 0; step < STEPS; step++) {
        uint32_t unit = (uint32_t)(draw() % FEW);
        bool goes = step > STEPS / 2 ? draw() % 4 != 0 : draw() % 4 == 0;
        if (goes) {
            cr_assert_eq(kvf_sketches_remove(s, unit), is_in[unit]);
            is_in[unit] = false;
        } else {
            if (!is_in[unit] && unit % 3)
                draw_sketch(sketches_of[unit]);
            else if (!is_in[unit])
                draw_near(sketches_of[unit], sketches_of[draw() % FEW], 20);
            cr_assert_eq(kvf_sketches_add(s, unit, sketches_of[unit]), is_in[unit] ? KVF_EXISTS : KVF_OK);
            is_in[unit] = true;
        }
        if (step % 199) continue;
        kvf_sketch_found_t found[8], want[8];
        uint64_t asked[WORDS];
        draw_near(asked, sketches_of[draw() % FEW], 30);
        uint32_t count = brute_force(asked, FEW, 8, want);
        cr_assert_eq(kvf_sketches_find(s, asked, 8, found), count);
        for (uint32_t i = 0; i < count; i++)
            cr_assert(found[i].unit == want[i].unit && found[i].distance == want[i].distance);
        check_lists(s);
    }
    for (uint32_t unit = 0; unit < FEW; unit++) kvf_sketches_remove(s, unit);
    cr_assert_eq(kvf_sketches_count(s), 0);
    check_lists(s);
    cr_assert_eq(s->num_lists, 1);
    kvf_sketches_destroy(s);
}

Test(sketches, near_ones_among_many_are_found_in_part_of_the_lists) {
    enum { ASKED = 500 };
    kvf_sketches_t *s = make(UNITS, 32);
    for (uint32_t unit = 0; unit < UNITS; unit++) {
        draw_sketch(sketches_of[unit]);
        cr_assert_eq(kvf_sketches_add(s, unit, sketches_of[unit]), KVF_OK);
    }
    check_lists(s);
    cr_assert_gt(s->num_lists, 100);
    uint32_t hits = 0;
    for (uint32_t i = 0; i < ASKED; i++) {
        uint32_t unit = (uint32_t)(draw() % UNITS);
        uint64_t asked[WORDS];
        kvf_sketch_found_t found;
        draw_near(asked, sketches_of[unit], 20);
        cr_assert_eq(kvf_sketches_find(s, asked, 1, &found), 1);
        hits += found.unit == unit;
    }
    /* the worst case: these sketches have nothing in common */
    cr_assert_gt(hits, ASKED * 8 / 10, "%u of %u", hits, ASKED);
    kvf_sketches_destroy(s);
}

Test(sketches, equal_ones_spread_over_lists_and_all_go_again) {
    enum { EQUAL = 20000 };
    kvf_sketches_t *s = make(EQUAL, 4);
    for (uint32_t unit = 0; unit < EQUAL; unit++) cr_assert_eq(kvf_sketches_add(s, unit, sketches_of[0]), KVF_OK);
    check_lists(s);
    cr_assert_lt(s->num_lists, 4 * EQUAL / KVF__SKETCH_LIST_MAX);
    kvf_sketch_found_t found[KVF_SKETCH_FOUND_MAX];
    cr_assert_eq(kvf_sketches_find(s, sketches_of[0], 1000, found), (uint32_t)KVF_SKETCH_FOUND_MAX);
    cr_assert_eq(found[KVF_SKETCH_FOUND_MAX - 1].distance, 0);
    for (uint32_t unit = 0; unit < EQUAL; unit++) cr_assert(kvf_sketches_remove(s, unit));
    cr_assert_eq(kvf_sketches_count(s), 0);
    kvf_sketches_destroy(s);
}

Test(sketches, limits_and_doubles_are_refused_and_change_nothing) {
    kvf_sketches_t *s = make(2, 1);
    kvf_sketch_found_t found[2];
    uint64_t sketch[WORDS] = {0};
    cr_assert_eq(kvf_sketches_find(s, sketch, 2, found), 0);
    cr_assert_eq(kvf_sketches_add(s, KVF_UNIT_NONE, sketch), KVF_ERR_INVALID);
    cr_assert_eq(kvf_sketches_add(s, 9, sketch), KVF_OK);
    cr_assert_eq(kvf_sketches_add(s, 9, sketch), KVF_EXISTS);
    cr_assert_eq(kvf_sketches_add(s, 8, sketch), KVF_OK);
    cr_assert_eq(kvf_sketches_add(s, 7, sketch), KVF_ERR_NO_SPACE);
    cr_assert_eq(kvf_sketches_find(s, sketch, 0, found), 0);
    cr_assert_eq(kvf_sketches_find(s, sketch, 2, found), 2);
    cr_assert(found[0].unit == 8 && found[1].unit == 9);
    cr_assert_not(kvf_sketches_remove(s, 7));
    kvf_sketches_destroy(s);
    kvf_sketches_destroy(NULL);

    static const kvf_sketches_config_t wrong[] = {{.max_units = 0},
                                                  {.max_units = 1, .bits = 192},
                                                  {.max_units = 1, .probes = KVF_SKETCH_PROBES_MAX + 1},
                                                  {.max_units = KVF_SKETCH_UNITS_MAX + 1}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        cr_assert_eq(kvf_sketches_create(&wrong[i], &s), KVF_ERR_INVALID);
}

Test(sketches, every_width_finds_its_own) {
    for (uint32_t bits = 64; bits <= KVF_SKETCH_BITS_MAX; bits *= 2) {
        kvf_sketches_config_t config = {.max_units = 3000, .bits = bits};
        kvf_sketches_t *s;
        cr_assert_eq(kvf_sketches_create(&config, &s), KVF_OK);
        static uint64_t sketches[3000][KVF_SKETCH_WORDS_MAX];
        for (uint32_t unit = 0; unit < 3000; unit++) {
            for (uint32_t w = 0; w < bits / 64; w++) sketches[unit][w] = draw();
            cr_assert_eq(kvf_sketches_add(s, unit, sketches[unit]), KVF_OK);
        }
        for (uint32_t unit = 0; unit < 3000; unit += 7) {
            kvf_sketch_found_t found;
            cr_assert_eq(kvf_sketches_find(s, sketches[unit], 1, &found), 1);
            cr_assert(found.unit == unit && found.distance == 0);
        }
        kvf_sketches_destroy(s);
    }
}

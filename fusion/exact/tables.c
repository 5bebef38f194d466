/* tables.c - shares of slots, and what follows from them. */
#include "fusion/exact/tables.h"

#include <pthread.h>
#include <string.h>

enum { SYMBOLS = KVF__EXACT_SYMBOLS, ESCAPE = KVF__EXACT_ESCAPE, SLOTS = KVF_RANS_TABLE_SLOTS, RARE = 4 };

static uint16_t costs_of[SLOTS + 1]; /* of a share, in 1/256 bit */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* 256 × log2(SLOTS / freq), rounded up, by repeated squaring. */
static void fill_costs(void) {
    for (unsigned freq = 1; freq <= SLOTS; freq++) {
        uint64_t x = (uint64_t)freq << 21; /* in [1, 2) × 2^31 below */
        int whole = 0, fraction = 0;
        for (; x >= UINT64_C(1) << 32; x >>= 1) whole++;
        for (; x < UINT64_C(1) << 31; x <<= 1) whole--;
        for (int i = 0; i < 8; i++) {
            x = x * x >> 31;
            fraction *= 2;
            if (x >= UINT64_C(1) << 32) {
                x >>= 1;
                fraction++;
            }
        }
        costs_of[freq] = (uint16_t)(-whole * KVF__EXACT_COST_ONE_BIT - fraction);
    }
}

/* ---- shares ---- */

/* Every counted symbol has one slot; the rest goes by what a count is above the worth of one slot. Rounded sums, not shares, so
 * that they add up. */
static void share_rest(const uint64_t *counts, uint64_t total, unsigned given, uint16_t *freq) {
    uint64_t weights[SYMBOLS], sum = 0, before = 0;
    for (int s = 0; s < SYMBOLS; s++) {
        uint64_t scaled = counts[s] * SLOTS;
        weights[s] = scaled > total ? scaled - total : 0;
        sum += weights[s];
    }
    unsigned left = SLOTS - given, done = 0;
    for (int s = 0; s < SYMBOLS; s++) {
        if (!freq[s]) continue;
        before += sum ? weights[s] : 1;
        uint64_t whole = sum ? sum : given;
        unsigned upto = (unsigned)(((double)before * left + (double)whole / 2) / (double)whole);
        if (upto > left || before == whole) upto = left;
        freq[s] = (uint16_t)(freq[s] + upto - done);
        done = upto;
    }
}

void kvf__exact_share(const uint64_t counts[SYMBOLS], bool may_escape, kvf__exact_freq_t freq) {
    uint64_t kept[SYMBOLS], total = 0;
    unsigned given = 0;
    for (int s = 0; s < SYMBOLS; s++) total += counts[s];
    memcpy(kept, counts, sizeof(kept));
    for (int s = 0; may_escape && s < SYMBOLS; s++)
        if (s != ESCAPE && kept[s] * SLOTS * RARE < total) {
            kept[ESCAPE] += kept[s];
            kept[s] = 0;
        }
    if (may_escape && !kept[ESCAPE]) {
        kept[ESCAPE] = 1;
        total++;
    }
    for (int s = 0; s < SYMBOLS; s++) {
        freq[s] = kept[s] != 0;
        given += freq[s];
    }
    if (given)
        share_rest(kept, total, given, freq);
    else
        freq[0] = SLOTS;
}

bool kvf__exact_is_whole(const kvf__exact_freq_t freq) {
    uint32_t sum = 0;
    for (int s = 0; s < SYMBOLS; s++) sum += freq[s];
    return sum == SLOTS;
}

/* ---- tables ---- */

void kvf__exact_fill_slots(const kvf__exact_freq_t freq, kvf_rans_slot_t *slots) {
    for (uint32_t s = 0; s < SYMBOLS; s++)
        for (uint32_t i = 0; i < freq[s]; i++) *slots++ = s << 24 | (uint32_t)freq[s] << 12 | i;
}

void kvf__exact_fill_codes(const kvf__exact_freq_t freq, kvf_rans_code_t *codes, kvf__exact_cost_t *costs) {
    uint32_t start = 0;
    const kvf__exact_cost_t byte = 8 * KVF__EXACT_COST_ONE_BIT, one = UINT64_C(1) << KVF__EXACT_COST_BITS;
    pthread_once(&once, fill_costs);
    kvf__exact_cost_t escape = freq[ESCAPE] ? costs_of[freq[ESCAPE]] + byte + one : UINT32_MAX / 2;
    for (int s = 0; s < SYMBOLS; s++) {
        codes[s] = (uint32_t)freq[s] << 16 | start;
        costs[s] = freq[s] && s != ESCAPE ? costs_of[freq[s]] : escape;
        start += freq[s];
    }
}

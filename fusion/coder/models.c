/* models.c - makes the tables. Deterministic: see models.h; nothing here may call libm but sqrt, which IEEE rounds. */
#include "fusion/coder/models.h"
#include "kernels/kernels.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

enum { SYMBOLS = KVF_RANS_SYMBOLS, ESCAPE = SYMBOLS - 1, CELL_SAMPLES = 32 };

typedef struct family {
    kvf_model_t model;
    kvf_rans_slot_t slots[KVF_CLASS_TABLES][KVF_RANS_TABLE_SLOTS];
} family_t;

static family_t families[KVF_SHAPES], choices;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* 2^(quarters/4). */
static double exp2_quarters(int quarters) {
    static const double fraction[4] = {1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429};
    double value = fraction[quarters & 3];
    int whole = (quarters - (quarters & 3)) / 4;
    for (; whole > 0; whole--) value *= 2;
    for (; whole < 0; whole++) value /= 2;
    return value;
}

/* e^−t for t ≥ 0: halves t until a Taylor series of 16 terms is exact enough, then squares back. */
static double exp_minus(double t) {
    if (t > 700) return 0;
    int halvings = 0;
    for (; t > 0.5; t /= 2) halvings++;
    double sum = 1, term = 1;
    for (int k = 1; k <= 16; k++) {
        term = term * -t / k;
        sum = sum + term;
    }
    for (; halvings; halvings--) sum = sum * sum;
    return sum;
}

/* Density (not normalised) of x ≥ 0 at unit variance: α = √(Γ(1/β) / Γ(3/β)). */
static double density(kvf_shape_t shape, double x) {
    switch (shape) {
    case KVF_SHAPE_LAPLACE: return exp_minus(x * 1.4142135623730951);
    case KVF_SHAPE_MIDDLE: return exp_minus(x / 1.1636668 * sqrt(x / 1.1636668));
    default: return exp_minus(x * x / 2);
    }
}

/* Mass of [low, high) by the midpoint rule; `scale` is scale/step. */
static double cell_mass(kvf_shape_t shape, double scale, double low, double high) {
    double width = (high - low) / CELL_SAMPLES, sum = 0;
    for (int i = 0; i < CELL_SAMPLES; i++) sum = sum + density(shape, (low + (i + 0.5) * width) / scale);
    return sum * width;
}

/* log2 of whole/1024 in 1/256 bit, rounded up: 256 × (10 − log2 freq), by repeated squaring. */
static uint16_t cost_of(unsigned freq) {
    double x = freq;
    int whole = 0;
    for (; x >= 2; x /= 2) whole++;
    int fraction = 0;
    for (int i = 0; i < 8; i++) {
        x = x * x;
        fraction *= 2;
        if (x >= 2) {
            x /= 2;
            fraction++;
        }
    }
    return (uint16_t)((KVF_RANS_PROB_BITS - whole) * KVF_COST_ONE_BIT - fraction);
}

/* Whole frequencies that add up to the slots, at least 1 for every symbol that stands in the table. */
static void share_slots(const double *mass, double total, int reach, uint16_t *freq) {
    unsigned used = 0;
    for (int s = -reach; s <= reach; s++) {
        double exact = mass[s < 0 ? -s : s] / total * (KVF_RANS_TABLE_SLOTS - 1);
        unsigned whole = (unsigned)(exact + 0.5);
        freq[s + KVF_SYMBOL_MAX] = (uint16_t)(whole ? whole : 1);
        used += freq[s + KVF_SYMBOL_MAX];
    }
    freq[ESCAPE] = 1;
    int over = (int)used + 1 - KVF_RANS_TABLE_SLOTS;
    for (int turn = 0; over; turn++) { /* evens out around the middle, where a slot more or less costs least */
        int s = turn % (reach + 1);
        int at = (turn / (reach + 1) % 2 ? -s : s) + KVF_SYMBOL_MAX;
        if (over > 0 && freq[at] > 2) {
            freq[at]--;
            over--;
        } else if (over < 0) {
            freq[at]++;
            over++;
        }
    }
}

static void fill_slots(const kvf_rans_symbol_t *symbol, int value, kvf_rans_slot_t *slots) {
    for (unsigned i = 0; i < symbol->freq; i++)
        slots[symbol->start + i] = (uint32_t)(uint8_t)(int8_t)value << 24 | (uint32_t)symbol->freq << 12 | i;
}

static void make_table(family_t *family, kvf_shape_t shape, int class) {
    double scale = exp2_quarters(class - KVF_CLASS_UNITY), mass[KVF_SYMBOL_MAX + 1], total;
    total = mass[0] = 2 * cell_mass(shape, scale, 0, 0.5);
    for (int s = 1; s <= KVF_SYMBOL_MAX; s++) {
        mass[s] = cell_mass(shape, scale, s - 0.5, s + 0.5);
        total = total + 2 * mass[s];
    }
    int reach = 1;
    while (reach < KVF_SYMBOL_MAX && mass[reach + 1] / total * KVF_RANS_TABLE_SLOTS >= 0.4) reach++;
    uint16_t freq[SYMBOLS] = {0};
    share_slots(mass, total, reach, freq);
    kvf_rans_symbol_t *symbols = family->model.symbols[class];
    unsigned start = 0;
    for (int at = 0; at < SYMBOLS; at++) {
        symbols[at] = (kvf_rans_symbol_t){.start = (uint16_t)start, .freq = freq[at]};
        start += freq[at];
        if (freq[at]) symbols[at].cost = cost_of(freq[at]);
        fill_slots(&symbols[at], at == ESCAPE ? KVF_RANS_ESCAPE : at - KVF_SYMBOL_MAX, family->slots[class]);
    }
    symbols[ESCAPE].cost = (uint16_t)(symbols[ESCAPE].cost + 16 * KVF_COST_ONE_BIT);
    for (int at = 0; at < ESCAPE; at++)
        if (!freq[at]) symbols[at].cost = symbols[ESCAPE].cost;
}

static void make_choices(void) {
    static const uint16_t share[KVF_CHOICE_TABLES] = {1,   2,   4,   8,   16,  32,  56,  88,
                                                      128, 176, 232, 288, 344, 400, 448, 496};
    for (int table = 0; table < KVF_CHOICE_TABLES; table++) {
        unsigned start = 0;
        for (int s = 0; s < KVF_CHOICES; s++) {
            kvf_rans_symbol_t *symbol = &choices.model.symbols[table][s + KVF_SYMBOL_MAX];
            unsigned rest = KVF_RANS_TABLE_SLOTS - share[table] - (KVF_CHOICES - 2);
            symbol->start = (uint16_t)start;
            symbol->freq = (uint16_t)(s == 0 ? rest : s == 1 ? share[table] : 1);
            symbol->cost = cost_of(symbol->freq);
            start += symbol->freq;
            fill_slots(symbol, s, choices.slots[table]);
        }
    }
    choices.model.rans = (kvf_rans_model_t){.slots = choices.slots[0],
                                            .num_tables = KVF_CHOICE_TABLES,
                                            .symbols = choices.model.symbols[0],
                                            .octave = 1,
                                            .max_class = KVF_CHOICE_TABLES - 1};
}

static void make_families(void) {
    make_choices();
    for (int shape = 0; shape < KVF_SHAPES; shape++) {
        family_t *family = &families[shape];
        for (int class = 0; class < KVF_CLASS_TABLES; class ++) make_table(family, (kvf_shape_t)shape, class);
        family->model.rans = (kvf_rans_model_t){.slots = family->slots[0],
                                                .num_tables = KVF_CLASS_TABLES,
                                                .octave = KVF_CLASS_OCTAVE,
                                                .max_class = KVF_CLASS_MAX,
                                                .symbols = family->model.symbols[0]};
    }
}

const kvf_model_t *kvf_model(kvf_shape_t shape) {
    pthread_once(&once, make_families);
    return (unsigned)shape < KVF_SHAPES ? &families[shape].model : NULL;
}

const kvf_model_t *kvf_choice_model(void) {
    pthread_once(&once, make_families);
    return &choices.model;
}

int kvf_choice_table(const size_t *count) {
    const kvf_model_t *model = kvf_choice_model();
    uint64_t best_cost = UINT64_MAX;
    int best = 0;
    for (int table = 0; table < KVF_CHOICE_TABLES; table++) {
        uint64_t cost = 0;
        for (int s = 0; s < KVF_CHOICES; s++) cost += count[s] * model->symbols[table][s + KVF_SYMBOL_MAX].cost;
        if (cost < best_cost) {
            best_cost = cost;
            best = table;
        }
    }
    return best;
}

/* ---- coding ---- */

uint64_t kvf_model_put_rows(const kvf_model_t *model, kvf_rans_encoder_t *encoder, const int32_t *classes,
                            const int32_t *shifts, uint32_t lanes, unsigned dim, const float *q) {
    uint64_t cost = 0;
    kvf_rans_op_t *end = kvf_kernels()->rans_note_rows(encoder->ops + encoder->num_ops, &model->rans, classes, shifts,
                                                       lanes, dim, q, &cost);
    encoder->num_ops = (size_t)(end - encoder->ops);
    return cost;
}

#include "daemon/evict.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { IDS = 300 };

/* The naive list: ids by last use, the oldest first. */
typedef struct model {
    uint32_t ids[IDS];
    size_t count;
} model_t;

static void model_drop(model_t *model, uint32_t id) {
    for (size_t i = 0; i < model->count; i++) {
        if (model->ids[i] != id) continue;
        memmove(&model->ids[i], &model->ids[i + 1], (--model->count - i) * sizeof(*model->ids));
        return;
    }
}

static bool model_holds(const model_t *model, uint32_t id) {
    for (size_t i = 0; i < model->count; i++) {
        if (model->ids[i] == id) return true;
    }
    return false;
}

static void model_use(model_t *model, uint32_t id) {
    model_drop(model, id);
    model->ids[model->count++] = id;
}

static bool is_odd(void *arg, uint32_t id) { return *(const bool *)arg ? id % 2 == 1 : true; }

static uint32_t model_victim(model_t *model, bool only_odd) {
    for (size_t left = model->count; left; left--) {
        uint32_t id = model->ids[0];
        if (is_odd(&only_odd, id)) {
            model_drop(model, id);
            return id;
        }
        model_use(model, id);
    }
    return KVF_EVICT_NONE;
}

static void insert_one(kvf_evict_t *evict, uint32_t id) {
    cr_assert_eq(kvf_evict_insert(evict, &(kvf_evict_record_t){.key_hash = id, .id = id}, 1), KVF_OK);
}

Test(evict_lru, victims_are_those_of_a_naive_list) {
    for (unsigned seed = 0; seed < 20; seed++) {
        kvf_evict_t *evict;
        cr_assert_eq(kvf_evict_create(KVF_EVICT_LRU, &evict), KVF_OK);
        model_t model = {.count = 0};
        unsigned random = seed;
        for (unsigned i = 0; i < 5000; i++) {
            uint32_t id = (uint32_t)rand_r(&random) % IDS;
            bool only_odd = rand_r(&random) % 4 == 0;
            switch (rand_r(&random) % 8) {
            case 0:
            case 1:
                insert_one(evict, id);
                model_use(&model, id);
                break;
            case 2:
                kvf_evict_remove(evict, id);
                model_drop(&model, id);
                break;
            case 3:
                cr_assert_eq(kvf_evict_victim(evict, is_odd, &only_odd), model_victim(&model, only_odd),
                             "seed %u, call %u", seed, i);
                break;
            default:
                kvf_evict_touch(evict, id);
                if (model_holds(&model, id)) model_use(&model, id);
            }
        }
        for (size_t left = model.count + 1; left; left--) {
            cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), model_victim(&model, false), "seed %u", seed);
        }
        kvf_evict_destroy(evict);
    }
}

Test(evict_lru, chain_touched_from_its_end_leaves_from_its_end) {
    kvf_evict_t *evict;
    cr_assert_eq(kvf_evict_create(KVF_EVICT_LRU, &evict), KVF_OK);
    for (uint32_t id = 0; id < 10; id++) insert_one(evict, id);
    for (uint32_t id = 10; id-- > 0;) kvf_evict_touch(evict, id);
    for (uint32_t id = 10; id-- > 0;) cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), id);
    kvf_evict_destroy(evict);
}

Test(evict_lru, remembers_nothing_of_those_gone) {
    kvf_evict_t *evict;
    kvf_evict_stats_t stats;
    cr_assert_eq(kvf_evict_create(KVF_EVICT_LRU, &evict), KVF_OK);
    insert_one(evict, 4);
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), 4);
    kvf_evict_stats(evict, &stats);
    cr_assert_eq(stats.remembered, 0);
    cr_assert_eq(stats.probation, 0);
    cr_assert_gt(stats.memory_bytes, 1024 * 32);
    kvf_evict_destroy(evict);
}

Test(evict_lru, a_search_settles_so_many_touches_and_then_takes_what_it_meets) {
    enum { SIZE = 5 * KVF_EVICT_SETTLED_MAX };
    kvf_evict_t *evict = NULL;
    cr_assert_eq(kvf_evict_create(KVF_EVICT_LRU, &evict), KVF_OK);
    for (uint32_t id = 0; id < SIZE; id++) insert_one(evict, id);
    for (uint32_t id = SIZE; id-- > 0;) kvf_evict_touch(evict, id);
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), KVF_EVICT_SETTLED_MAX, "the oldest insertion behind those");
    for (unsigned i = 1; i < 4; i++) kvf_evict_victim(evict, NULL, NULL);
    cr_assert_eq(kvf_evict_victim(evict, NULL, NULL), SIZE - 1, "later searches settle the others");
    kvf_evict_destroy(evict);
}

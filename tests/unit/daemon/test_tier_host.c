#include "daemon/tier_host.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { KIB = 1 << 10, MIB = 1 << 20, SEGMENTS = 4, WAIT_MS = 10000 };

static kvf_tier_host_t *tier;
static char why[256];

static kvf_status_t create(uint64_t bytes, uint64_t segment_bytes, bool prepare) {
    kvf_tier_host_options_t options = {.bytes = bytes, .segment_bytes = segment_bytes, .prepare = prepare};
    return kvf_tier_host_create(&options, &tier, why, sizeof(why));
}

static void make(bool prepare) { cr_assert_eq(create(SEGMENTS * 64 * KIB, 64 * KIB, prepare), KVF_OK, "%s", why); }

static kvf_tier_host_stats_t stats(void) {
    kvf_tier_host_stats_t s;
    kvf_tier_host_get_stats(tier, &s);
    return s;
}

static void sleep_ms(long ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void wait_for_returned(void) {
    for (int i = 0; i < WAIT_MS && kvf_tier_host_returning(tier); i++) sleep_ms(1);
    cr_assert_eq(kvf_tier_host_returning(tier), 0);
}

static unsigned count_entries(const char *path) {
    unsigned count = 0;
    DIR *folder = opendir(path);
    while (readdir(folder)) count++;
    closedir(folder);
    return count;
}

static unsigned count_mappings(void) {
    unsigned count = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof(line), maps)) count += strstr(line, "kvfuse-blocks") != NULL;
    fclose(maps);
    return count;
}

Test(tier_host, a_segment_is_a_128th_of_the_budget_within_limits) {
    cr_assert_eq(kvf_tier_host_segment_bytes(UINT64_C(8) << 30), 64 * MIB);
    cr_assert_eq(kvf_tier_host_segment_bytes((UINT64_C(8) << 30) - 1), 32 * MIB);
    cr_assert_eq(kvf_tier_host_segment_bytes(64 * MIB), 4 * MIB);
    cr_assert_eq(kvf_tier_host_segment_bytes(UINT64_C(1) << 40), 1 << 30);
    cr_assert_eq(kvf_tier_host_segment_bytes(UINT64_MAX), 1 << 30);
    cr_assert_eq(kvf_tier_host_segment_bytes(6 * MIB), 3 * MIB, "at least two");
    cr_assert_eq(kvf_tier_host_segment_bytes(5000), 0);
}

Test(tier_host, sizes_that_make_no_sense_are_refused_by_name) {
    static const struct {
        uint64_t bytes, segment_bytes;
    } cases[] = {{0, 0},           {5000, 0},      {MIB, 1},           {MIB, 4095},
                 {MIB, 4096 + 64}, {MIB, 2 * MIB}, {UINT64_MAX, 4096}, {UINT64_MAX, UINT64_MAX - 4095}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        why[0] = 0;
        cr_assert_eq(create(cases[i].bytes, cases[i].segment_bytes, true), KVF_ERR_INVALID, "case %zu", i);
        cr_assert_not_null(strstr(why, "segment-bytes"), "case %zu: %s", i, why);
    }
}

Test(tier_host, the_budget_is_hard) {
    make(true);
    kvf_host_segment_t *taken[SEGMENTS];
    for (int i = 0; i < SEGMENTS; i++) {
        taken[i] = kvf_tier_host_take(tier, 7);
        cr_assert_not_null(taken[i]);
        cr_assert_eq(taken[i]->owner, 7);
        cr_assert_eq(taken[i]->memory.bytes, 64 * KIB);
        memset(taken[i]->memory.base, 1, taken[i]->memory.bytes);
    }
    cr_assert_eq(kvf_tier_host_available(tier), 0);
    cr_assert_null(kvf_tier_host_take(tier, 7));
    cr_assert_eq(stats().held_bytes, SEGMENTS * 64 * KIB);
    cr_assert_eq(stats().taken_bytes, stats().budget_bytes);
    kvf_tier_host_give_back(tier, taken[1]);
    wait_for_returned();
    taken[1] = kvf_tier_host_take(tier, 7);
    cr_assert_not_null(taken[1]);
    cr_assert_null(kvf_tier_host_take(tier, 7));
    kvf_tier_host_destroy(tier);
}

Test(tier_host, pages_are_made_ahead_of_need_unless_told_not_to) {
    make(true);
    for (int i = 0; i < WAIT_MS && stats().ready_bytes < SEGMENTS * 64 * KIB; i++) sleep_ms(1);
    cr_assert_eq(stats().ready_bytes, SEGMENTS * 64 * KIB);
    kvf_host_segment_t *segment = kvf_tier_host_take(tier, 0);
    cr_assert_eq(segment->populated, 64 * KIB);
    cr_assert_eq(stats().unprepared_takes, 0);
    kvf_tier_host_destroy(tier);

    make(false);
    cr_assert_eq(kvf_tier_host_available(tier), SEGMENTS);
    sleep_ms(20);
    cr_assert_eq(stats().held_bytes, 0);
    segment = kvf_tier_host_take(tier, 0);
    cr_assert_not_null(segment);
    cr_assert_eq(segment->populated, 0);
    cr_assert_eq(stats().unprepared_takes, 1);
    kvf_tier_host_destroy(tier);
}

/* A segment of many slices is taken while its pages are being made: it is lent as far as it is. */
Test(tier_host, a_take_does_not_wait_for_pages) {
    cr_assert_eq(create(UINT64_C(512) << 20, 256 * MIB, true), KVF_OK);
    kvf_host_segment_t *first = kvf_tier_host_take(tier, 0), *second = kvf_tier_host_take(tier, 0);
    cr_assert_not_null(first);
    cr_assert_not_null(second);
    cr_assert_null(kvf_tier_host_take(tier, 0));
    cr_assert_eq(stats().unprepared_takes, 2);
    cr_assert_lt(first->populated, 256 * MIB);
    kvf_tier_host_give_back(tier, first);
    kvf_tier_host_give_back(tier, second);
    kvf_tier_host_destroy(tier);
}

Test(tier_host, numbers_are_never_used_again) {
    make(true);
    uint32_t last = 0;
    for (int i = 0; i < 200; i++) {
        kvf_host_segment_t *segment = kvf_tier_host_take(tier, 0);
        cr_assert_not_null(segment);
        cr_assert_gt(segment->number, last);
        last = segment->number;
        kvf_tier_host_give_back(tier, segment);
        wait_for_returned();
    }
    cr_assert_null(kvf_tier_host_find(tier, last));
    cr_assert_null(kvf_tier_host_find(tier, 0));
    kvf_tier_host_destroy(tier);
}

Test(tier_host, what_is_given_back_turns_blank_for_old_readers) {
    make(true);
    kvf_host_segment_t *segment = kvf_tier_host_take(tier, 0);
    memset(segment->memory.base, 0xab, segment->memory.bytes);
    kvf_host_segment_t *found = kvf_tier_host_find(tier, segment->number);
    cr_assert_eq(found, segment);
    int fd = kvf_segment_open_read_only(&found->memory);
    cr_assert_geq(fd, 0);
    kvf_tier_host_unref(found);
    const uint8_t *view = mmap(NULL, 64 * KIB, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert_neq(view, MAP_FAILED);
    cr_assert_eq(mmap(NULL, 64 * KIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED,
                 "it is for reading alone");
    close(fd);
    cr_assert_eq(view[4096], 0xab);
    kvf_tier_host_give_back(tier, segment);
    wait_for_returned();
    for (int i = 0; i < 2 * SEGMENTS; i++) { /* whoever has the memory now */
        kvf_host_segment_t *next = kvf_tier_host_take(tier, 1);
        if (!next) break;
        memset(next->memory.base, 0xcd, next->memory.bytes);
    }
    for (size_t i = 0; i < 64 * KIB; i++) cr_assert_eq(view[i], 0, "byte %zu", i);
    munmap((void *)(uintptr_t)view, 64 * KIB);
    kvf_tier_host_destroy(tier);
}

Test(tier_host, a_lowered_budget_makes_no_more_segments) {
    make(false);
    kvf_host_segment_t *first = kvf_tier_host_take(tier, 0), *second = kvf_tier_host_take(tier, 0);
    cr_assert(first && second);
    kvf_tier_host_lower_budget(tier);
    cr_assert_eq(stats().usable_bytes, 2 * 64 * KIB);
    cr_assert_eq(kvf_tier_host_available(tier), 0);
    cr_assert_null(kvf_tier_host_take(tier, 0));
    kvf_tier_host_give_back(tier, second);
    wait_for_returned();
    cr_assert_not_null(kvf_tier_host_take(tier, 0), "what exists may still go round");
    kvf_tier_host_destroy(tier);
}

Test(tier_host, nothing_is_left_behind) {
    unsigned descriptors = count_entries("/proc/self/fd"), mappings = count_mappings();
    make(true);
    kvf_host_segment_t *segment = kvf_tier_host_take(tier, 0);
    kvf_tier_host_take(tier, 1);
    kvf_tier_host_give_back(tier, segment);
    kvf_tier_host_destroy(tier);
    cr_assert_eq(count_entries("/proc/self/fd"), descriptors);
    cr_assert_eq(count_mappings(), mappings);
    kvf_tier_host_destroy(NULL);
}

/* ---- registration ---- */

static atomic_uint added, removed;
static atomic_bool refuses;

static kvf_status_t add(void *arg, uint8_t *base, size_t bytes, void **handle) {
    unsigned char present[64 * KIB / KVF_HOST_PAGE_BYTES];
    cr_assert(arg == &added && bytes == 64 * KIB && mincore(base, bytes, present) == 0);
    for (size_t i = 0; i < sizeof(present); i++) cr_assert(present[i] & 1, "page %zu is not there", i);
    if (atomic_load(&refuses)) return KVF_ERR_TRANSPORT;
    atomic_fetch_add(&added, 1);
    *handle = base;
    return KVF_OK;
}

static void remove_it(void *arg, void *handle) {
    cr_assert(arg == &added && handle);
    atomic_fetch_add(&removed, 1);
}

static void make_registered(void) {
    kvf_tier_host_options_t options = {.bytes = SEGMENTS * 64 * KIB,
                                       .segment_bytes = 64 * KIB,
                                       .prepare = true,
                                       .registrar = {.add = add, .remove = remove_it, .arg = &added}};
    cr_assert_eq(kvf_tier_host_create(&options, &tier, why, sizeof(why)), KVF_OK);
}

static void wait_for_all_ready(void) {
    for (int i = 0; i < WAIT_MS && stats().ready_bytes < SEGMENTS * 64 * KIB; i++) sleep_ms(1);
    cr_assert_eq(stats().ready_bytes, SEGMENTS * 64 * KIB);
}

Test(tier_host, a_segment_is_registered_when_it_is_whole_and_until_it_goes) {
    make_registered();
    wait_for_all_ready();
    cr_assert(atomic_load(&added) == SEGMENTS && atomic_load(&removed) == 0);
    kvf_host_segment_t *segment = kvf_tier_host_take(tier, 1);
    cr_assert_not_null(segment);
    kvf_tier_host_give_back(tier, segment);
    wait_for_all_ready();
    cr_assert(atomic_load(&added) == SEGMENTS + 1 && atomic_load(&removed) == 1);
    cr_assert_not_null(kvf_tier_host_take(tier, 1));
    kvf_tier_host_destroy(tier);
    cr_assert_eq(atomic_load(&removed), SEGMENTS + 1);
}

Test(tier_host, a_segment_that_cannot_be_registered_serves_all_the_same) {
    atomic_store(&refuses, true);
    make_registered();
    wait_for_all_ready();
    cr_assert_not_null(kvf_tier_host_take(tier, 1));
    kvf_tier_host_destroy(tier);
    cr_assert_eq(atomic_load(&removed), 0);
}

/* The encoders' turns: whoever finds that a space has work for later is believed, whatever a thread says that looked before. */
#include "daemon/encoders.h"
#include "daemon/store_internal.h"

#include <criterion/criterion.h>
#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int num_turns, num_ended, may_end; /* [lock] turns so far; turn n ends once may_end reaches its rank */
static const int *rank;                   /* [n] of the turn n, from 1, in the order of the ends */
static const uint64_t *said;              /* [n] what it returns; later turns: KVF_WORK_NONE */
static int num_scripted;

static uint64_t work(struct kvf_space *of) {
    (void)of;
    pthread_mutex_lock(&lock);
    int turn = num_turns++;
    pthread_cond_broadcast(&changed);
    while (turn < num_scripted && may_end < rank[turn]) pthread_cond_wait(&changed, &lock);
    num_ended++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return turn < num_scripted ? said[turn] : KVF_WORK_NONE;
}

static kvf_encoders_t *start(unsigned threads, int count, const int *ranks, const uint64_t *answers) {
    kvf_encoders_t *encoders;
    num_turns = num_ended = may_end = 0;
    num_scripted = count;
    rank = ranks;
    said = answers;
    cr_assert_eq(kvf_encoders_create(threads, work, &encoders), KVF_OK);
    return encoders;
}

/* Waits until that many turns have begun, for at most 5 s. */
static bool await_turns(int count) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    pthread_mutex_lock(&lock);
    while (num_turns < count && !pthread_cond_timedwait(&changed, &lock, &until)) {
    }
    bool did = num_turns >= count;
    pthread_mutex_unlock(&lock);
    return did;
}

static void let_end(int most) {
    pthread_mutex_lock(&lock);
    may_end = most;
    pthread_cond_broadcast(&changed);
    while (num_ended < most) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* the thread is back in the encoders */
}

static kvf_space_t space = {.refs = 1000}; /* no real one: the last reference never goes */

Test(encoders, work_for_later_is_not_forgotten_for_a_look_that_began_before) {
    const int ranks[] = {1, 2};
    const uint64_t answers[] = {kvf__now_ns() + 300000000, KVF_WORK_NONE};
    kvf_encoders_t *encoders = start(2, 2, ranks, answers);
    kvf_encoders_kick(encoders, &space);
    cr_assert(await_turns(1));
    kvf_encoders_kick(encoders, &space);
    cr_assert(await_turns(2), "both are at it");
    let_end(1); /* found no room, say: later */
    let_end(2); /* had found nothing to do before that */
    cr_assert(await_turns(3), "nobody comes back");
    kvf_encoders_destroy(encoders);
}

Test(encoders, a_space_without_work_is_left_alone_until_it_is_kicked) {
    const int ranks[] = {1};
    const uint64_t answers[] = {KVF_WORK_NONE};
    kvf_encoders_t *encoders = start(1, 1, ranks, answers);
    kvf_encoders_kick(encoders, &space);
    cr_assert(await_turns(1));
    let_end(1);
    cr_assert_eq(num_turns, 1);
    cr_assert_eq(atomic_load(&space.refs), 1000, "it is let go of");
    kvf_encoders_kick(encoders, &space);
    cr_assert(await_turns(2));
    kvf_encoders_destroy(encoders);
}

Test(encoders, a_kick_during_a_turn_brings_another_turn) {
    const int ranks[] = {1, 1};
    const uint64_t answers[] = {KVF_WORK_NONE, KVF_WORK_NONE};
    kvf_encoders_t *encoders = start(1, 2, ranks, answers);
    kvf_encoders_kick(encoders, &space);
    cr_assert(await_turns(1));
    kvf_encoders_kick(encoders, &space);
    let_end(1);
    cr_assert(await_turns(2));
    kvf_encoders_destroy(encoders);
}

Test(encoders, one_kick_for_much_work_brings_every_thread) {
    const int ranks[] = {1, 2, 2};
    const uint64_t answers[] = {KVF_WORK_NOW, KVF_WORK_NONE, KVF_WORK_NONE};
    kvf_encoders_t *encoders = start(2, 3, ranks, answers);
    kvf_encoders_kick(encoders, &space);
    cr_assert(await_turns(1));
    let_end(1);
    cr_assert(await_turns(3), "one thread does all");
    let_end(2);
    kvf_encoders_destroy(encoders);
}

#include "client/cli/ceiling_internal.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

TestSuite(ceiling, .timeout = 60);

static const kvf_ceiling_task_t small = {.op = KVF_CEILING_GET,
                                         .block_bytes = 32 << 10,
                                         .batch_blocks = 16,
                                         .depth = 2,
                                         .seconds = 0.1,
                                         .set_bytes = 16 << 20};

static void sleep_ms(long ms) {
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&pause, &pause) != 0)
        ;
}

/* Runs a ceiling that must work, and holds its figures against each other. */
static kvf_ceiling_result_t measure(const char *name, kvf_ceiling_task_t task) {
    kvf_ceiling_result_t result;
    kvf_status_t status = kvf_ceiling_run(name, &task, &result);
    cr_assert_eq(status, KVF_OK, "%s: %s", name, result.note);
    cr_expect(result.gbps > 0.001 && result.gbps < 2000, "%s: %g GB/s", name, result.gbps);
    cr_expect_gt(result.batches, 0);
    cr_expect(result.p50_us > 0 && result.p50_us <= result.p99_us && result.p99_us <= result.p999_us);
    cr_expect_gt(result.checked_blocks, 0);
    cr_expect_leq(result.checked_blocks, task.set_bytes / task.block_bytes);
    cr_expect(result.note[0] != '\0');
    return result;
}

/* ---- tasks ---- */

static void expect_refused(kvf_ceiling_task_t task, const char *why) {
    kvf_ceiling_result_t result;
    cr_expect_eq(kvf_ceiling_run("memcpy", &task, &result), KVF_ERR_INVALID, "%s", why);
    cr_expect(result.note[0] != '\0', "%s", why);
    cr_expect_eq(result.batches, 0);
}

Test(ceiling, tasks_out_of_range_are_refused) {
    kvf_ceiling_task_t task = small;
    task.op = (kvf_ceiling_op_t)7, expect_refused(task, "op");
    task = small, task.block_bytes = 0, expect_refused(task, "no block");
    task = small, task.block_bytes = 1001, expect_refused(task, "odd block");
    task = small, task.block_bytes = SIZE_MAX & ~(size_t)7, expect_refused(task, "huge block");
    task = small, task.batch_blocks = 0, expect_refused(task, "no batch");
    task = small, task.batch_blocks = KVF_CEILING_MAX_BATCH + 1, expect_refused(task, "large batch");
    task = small, task.depth = 0, expect_refused(task, "no depth");
    task = small, task.depth = KVF_CEILING_MAX_DEPTH + 1, expect_refused(task, "large depth");
    task = small, task.seconds = 0, expect_refused(task, "no time");
    task = small, task.seconds = strtod("nan", NULL), expect_refused(task, "no number");
    task = small, task.seconds = 1e300, expect_refused(task, "for ever");
    task = small, task.deadline_seconds = -1, expect_refused(task, "deadline in the past");
    task = small, task.set_bytes = (size_t)task.block_bytes * task.batch_blocks, expect_refused(task, "set too small");
    task = small, task.set_bytes = SIZE_MAX, expect_refused(task, "set too large");
}

Test(ceiling, unknown_names_are_refused) {
    kvf_ceiling_result_t result;
    cr_expect_eq(kvf_ceiling_run("ucx_am_rdma", &small, &result), KVF_ERR_INVALID);
    cr_expect_eq(kvf_ceiling_run("", &small, &result), KVF_ERR_INVALID);
    cr_expect(kvf_ceiling_name(0) != NULL && kvf_ceiling_name(1000) == NULL);
}

/* ---- sets and meter ---- */

Test(ceiling, the_order_reaches_every_block_once) {
    for (uint64_t blocks = 1; blocks < 300; blocks++) {
        uint8_t seen[300] = {0};
        kvf__set_t set = kvf__set_describe(NULL, blocks * 64, 64);
        for (uint64_t n = 0; n < blocks; n++) seen[kvf__set_index(&set, n)]++;
        for (uint64_t i = 0; i < blocks; i++) cr_assert_eq(seen[i], 1, "%d of %d", (int)i, (int)blocks);
    }
}

Test(ceiling, one_wrong_byte_or_swapped_block_is_found) {
    kvf__set_t set = kvf__set_describe(NULL, 64 << 10, 4096);
    uint64_t checked;
    cr_assert_eq(kvf__set_allocate(&set), KVF_OK);
    cr_expect_eq(kvf__set_check(&set, 16, &checked), 0); /* poison is not contents */
    kvf__set_fill(&set);
    cr_expect_eq(kvf__set_check(&set, 1000, &checked), 16);
    cr_expect_eq(checked, 16);
    kvf__set_block(&set, 3)[4095] ^= 1;
    cr_expect_eq(kvf__set_check(&set, 16, &checked), 15);
    memcpy(kvf__set_block(&set, 3), kvf__set_block(&set, 4), 4096);
    cr_expect_eq(kvf__set_check(&set, 16, &checked), 15);
    kvf__set_free(&set);
}

Test(ceiling, the_meter_counts_between_its_first_and_last_batch) {
    kvf__meter_t meter;
    kvf_ceiling_result_t result = {0};
    cr_assert_eq(kvf__meter_create(&meter), KVF_OK);
    kvf__meter_start(&meter, 0.001, 0.001);
    uint64_t at = meter.warm_end_ns;
    cr_expect_not(kvf__meter_add(&meter, at - 10, at - 5)); /* warming up */
    for (uint64_t i = 0; i < 1000; i++)                     /* one ends each us, the k-th took k us */
        cr_assert_not(kvf__meter_add(&meter, at, at + 1000 * i));
    cr_expect(kvf__meter_add(&meter, at, at + 1000000));
    cr_expect_eq(meter.batches, 1000);
    kvf__meter_result(&meter, 4000, &result);
    cr_expect_float_eq(result.gbps, 4.0, 1e-6);
    cr_expect_float_eq(result.p50_us, 500, 1.5);
    cr_expect_float_eq(result.p99_us, 990, 1.5);
    cr_expect_float_eq(result.p999_us, 999, 1.5);
    kvf__meter_destroy(&meter);
}

Test(ceiling, batches_that_end_together_after_a_standstill_are_no_measurement) {
    kvf__meter_t meter;
    cr_assert_eq(kvf__meter_create(&meter), KVF_OK);
    kvf__meter_start(&meter, 0.001, 0.01);
    uint64_t late = meter.warm_end_ns + 1000000000;
    cr_expect_not(kvf__meter_add(&meter, late, late));
    cr_expect_not(kvf__meter_add(&meter, late, late + 100));
    cr_expect(kvf__meter_add(&meter, late, late + 20000000));
    cr_expect_float_eq(kvf__meter_gbps(&meter, 1000000), 0.1, 1e-9);
    kvf__meter_destroy(&meter);
}

/* ---- memcpy, UCX ---- */

Test(ceiling, memcpy_moves_the_whole_set) {
    kvf_ceiling_result_t result = measure("memcpy", small);
    cr_expect_eq(result.checked_blocks, small.set_bytes / small.block_bytes);
}

Test(ceiling, ucx_am_tcp_gets_and_puts) {
    kvf_ceiling_task_t task = small;
    measure("ucx_am_tcp", task);
    task.op = KVF_CEILING_PUT;
    measure("ucx_am_tcp", task);
}

Test(ceiling, ucx_am_cuts_batches_that_do_not_divide) {
    kvf_ceiling_task_t task = small;
    task.batch_blocks = 7;
    task.depth = 3;
    task.set_bytes = 10000000; /* no whole number of blocks */
    for (int op = 0; op < 2; op++) {
        task.op = (kvf_ceiling_op_t)op;
        task.message_bytes = 3 * task.block_bytes + 5;
        cr_expect_str_eq(measure("ucx_am_tcp", task).note, "3 blocks a message");
        task.message_bytes = 10000; /* 32 KiB is three of these and a rest */
        cr_expect(strstr(measure("ucx_am_tcp", task).note, "parts") != NULL);
        task.message_bytes = 1; /* as small as it allows */
        measure("ucx_am_tcp", task);
    }
}

Test(ceiling, ucx_rma_reads_and_writes_the_servers_memory) {
    kvf_ceiling_task_t task = small;
    measure("ucx_rma_tcp", task);
    task.op = KVF_CEILING_PUT;
    measure("ucx_rma_tcp", task);
}

Test(ceiling, ucx_works_through_shared_memory) {
    kvf_ceiling_task_t task = small;
    for (int op = 0; op < 2; op++) {
        task.op = (kvf_ceiling_op_t)op;
        measure("ucx_am_shm", task);
        measure("ucx_rma_shm", task);
    }
}

Test(ceiling, tcp_is_never_measured_in_place_of_shared_memory) {
    kvf_ceiling_result_t result;
    /* UCX then keeps shared memory from endpoints that report a dead peer. */
    cr_assert_eq(setenv("UCX_POSIX_ERROR_HANDLING", "n", 1), 0);
    cr_assert_eq(setenv("UCX_MM_ERROR_HANDLING", "n", 1), 0);
    kvf_status_t status = kvf_ceiling_run("ucx_am_shm", &small, &result);
    cr_expect_lt(status, 0, "%s", result.note); /* unsupported, or the connection fails: never a figure */
    cr_expect_eq(result.gbps, 0);
}

Test(ceiling, callers_environment_is_left_alone) {
    cr_assert_eq(setenv("UCX_TLS", "tcp", 1), 0);
    cr_assert_eq(unsetenv("UCX_RNDV_THRESH"), 0);
    measure("ucx_am_shm", small);
    cr_expect_str_eq(getenv("UCX_TLS"), "tcp");
    cr_expect_null(getenv("UCX_RNDV_THRESH"));
}

/* ---- what goes wrong ---- */

/* A ceiling in a process of its own, whose children can be found. */
typedef struct runner {
    pid_t pid;
    pid_t children[2];            /* server, client */
    kvf_ceiling_result_t *result; /* shared */
} runner_t;

static unsigned find_children(runner_t *runner) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)runner->pid, (int)runner->pid);
    FILE *file = fopen(path, "r");
    cr_assert(file != NULL, "%s: %s", path, strerror(errno));
    unsigned found = 0;
    while (found < 2 && fscanf(file, "%d", &runner->children[found]) == 1) found++;
    fclose(file);
    return found;
}

static runner_t run_apart(const char *name, kvf_ceiling_task_t task) {
    runner_t runner = {
        .result = mmap(NULL, sizeof(*runner.result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)};
    cr_assert(runner.result != MAP_FAILED);
    runner.pid = fork();
    cr_assert(runner.pid >= 0);
    if (runner.pid == 0) _exit(-kvf_ceiling_run(name, &task, runner.result));
    for (int i = 0; find_children(&runner) < 2; i++) {
        cr_assert(i < 500, "no children");
        sleep_ms(10);
    }
    sleep_ms(400); /* into the measured part */
    return runner;
}

/* Waits for the runner; fails the test when it or its children live on after limit_ms. */
static kvf_status_t outcome(runner_t *runner, int limit_ms) {
    int how = 0;
    for (int waited = 0; waitpid(runner->pid, &how, WNOHANG) == 0; waited += 10) {
        if (waited > limit_ms) {
            kill(runner->pid, SIGKILL);
            cr_assert_fail("it hangs");
        }
        sleep_ms(10);
    }
    cr_assert(WIFEXITED(how), "it crashed");
    for (int i = 0; i < 2; i++) cr_expect(kill(runner->children[i], 0) != 0 && errno == ESRCH, "a child is left");
    return (kvf_status_t)-WEXITSTATUS(how);
}

static kvf_ceiling_task_t long_task(void) {
    kvf_ceiling_task_t task = small;
    task.seconds = 30;
    return task;
}

Test(ceiling, death_of_the_server_ends_the_run) {
    runner_t runner = run_apart("ucx_am_tcp", long_task());
    kill(runner.children[0], SIGKILL);
    cr_expect_eq(outcome(&runner, 10000), KVF_ERR_DISCONNECTED, "%s", runner.result->note);
    cr_expect(runner.result->note[0] != '\0' && runner.result->gbps == 0);
}

Test(ceiling, death_of_the_client_ends_the_run) {
    runner_t runner = run_apart("ucx_rma_tcp", long_task());
    kill(runner.children[1], SIGKILL);
    cr_expect_eq(outcome(&runner, 10000), KVF_ERR_DISCONNECTED, "%s", runner.result->note);
}

Test(ceiling, a_process_that_stands_still_ends_the_run_at_the_deadline) {
    kvf_ceiling_task_t task = long_task();
    task.deadline_seconds = 1.5;
    for (int role = 0; role < 2; role++) {
        runner_t runner = run_apart("ucx_am_tcp", task);
        kill(runner.children[role], SIGSTOP);
        cr_expect_eq(outcome(&runner, 10000), KVF_ERR_TIMEOUT, "%s", runner.result->note);
    }
}

Test(ceiling, children_die_with_the_caller) {
    runner_t runner = run_apart("ucx_am_tcp", long_task());
    kill(runner.pid, SIGKILL);
    cr_assert_eq(waitpid(runner.pid, NULL, 0), runner.pid);
    for (int i = 0; i < 2; i++) {
        int waited = 0;
        /* Whoever adopted it may not have waited for it yet: a zombie has no memory. */
        char path[64], line[8] = "";
        snprintf(path, sizeof(path), "/proc/%d/statm", (int)runner.children[i]);
        do {
            FILE *file = fopen(path, "r");
            if (file == NULL || fgets(line, sizeof(line), file) == NULL) line[0] = '0';
            if (file != NULL) fclose(file);
            sleep_ms(10);
        } while (line[0] != '0' && (waited += 10) < 5000);
        cr_expect(line[0] == '0', "child %d is left", i);
    }
}

Test(ceiling, without_memory_it_says_so) {
    kvf_ceiling_task_t task = small;
    kvf_ceiling_result_t result;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    cr_skip("the sanitizers' shadow has no limit of its own");
#endif
    struct rlimit limit = {.rlim_cur = 1u << 30, .rlim_max = 1u << 30};
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    task.set_bytes = (size_t)1 << 31;
    cr_expect_eq(kvf_ceiling_run("memcpy", &task, &result), KVF_ERR_NO_MEMORY);
    cr_expect_eq(kvf_ceiling_run("ucx_am_tcp", &task, &result), KVF_ERR_NO_MEMORY, "%s", result.note);
}

/* ---- Redis ---- */

static kvf_ceiling_redis_t start_redis(void) {
    kvf_ceiling_redis_t redis;
    kvf_status_t status = kvf_ceiling_redis_start(KVF_REDIS_SCRIPT, &redis);
    cr_assert_eq(status, KVF_OK, "redis-server did not start (%s): is the package redis-server installed?",
                 kvf_status_text(status));
    return redis;
}

static kvf_ceiling_task_t redis_task(kvf_ceiling_op_t op, const char *address) {
    kvf_ceiling_task_t task = small;
    task.op = op;
    task.address = address;
    return task;
}

static bool is_listening(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    bool ok = connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0;
    close(fd);
    return ok;
}

/* Asks Redis by redis-cli; the answer's first line. */
static void ask_redis(const kvf_ceiling_redis_t *redis, const char *command, char line[64]) {
    char shell[256];
    snprintf(shell, sizeof(shell), "redis-cli -s %s %s", redis->unix_path, command);
    FILE *pipe = popen(shell, "r");
    cr_assert(pipe != NULL && fgets(line, 64, pipe) != NULL);
    line[strcspn(line, "\n")] = '\0';
    pclose(pipe);
}

Test(ceiling, redis_gets_and_puts_by_both_sockets) {
    kvf_ceiling_redis_t redis = start_redis();
    char line[64];
    for (int op = 0; op < 2; op++) {
        measure("redis_unix", redis_task((kvf_ceiling_op_t)op, redis.unix_path));
        measure("redis_tcp", redis_task((kvf_ceiling_op_t)op, redis.tcp_address));
    }
    ask_redis(&redis, "dbsize", line);
    cr_expect_str_eq(line, "0"); /* it took its keys away */
    kvf_ceiling_redis_stop(&redis);
}

Test(ceiling, stopped_redis_leaves_nothing) {
    kvf_ceiling_redis_t redis = start_redis();
    cr_expect(is_listening(redis.unix_path));
    kvf_ceiling_redis_stop(&redis);
    cr_expect_not(is_listening(redis.unix_path));
    *strrchr(redis.unix_path, '/') = '\0';
    cr_expect(access(redis.unix_path, F_OK) != 0 && errno == ENOENT);
}

Test(ceiling, redis_dies_with_its_script) {
    kvf_ceiling_redis_t redis = start_redis();
    kill(redis.pid, SIGKILL);
    for (int i = 0; i < 500 && is_listening(redis.unix_path); i++) sleep_ms(10);
    cr_expect_not(is_listening(redis.unix_path));
    kvf_ceiling_redis_stop(&redis);
    /* What a killed script cannot remove. */
    char path[128], *dir = redis.unix_path;
    unlink(redis.unix_path);
    *strrchr(dir, '/') = '\0';
    snprintf(path, sizeof(path), "%s/redis.log", dir);
    unlink(path);
    cr_expect_eq(rmdir(dir), 0, "%s: %s", dir, strerror(errno));
}

Test(ceiling, death_of_redis_ends_the_run) {
    kvf_ceiling_redis_t redis = start_redis();
    kvf_ceiling_task_t task = redis_task(KVF_CEILING_GET, redis.unix_path);
    kvf_ceiling_result_t result;
    task.seconds = 20;
    pid_t killer = fork();
    if (killer == 0) {
        sleep_ms(700);
        kill(redis.pid, SIGTERM);
        _exit(0);
    }
    cr_expect_eq(kvf_ceiling_run("redis_unix", &task, &result), KVF_ERR_DISCONNECTED, "%s", result.note);
    waitpid(killer, NULL, 0);
    kvf_ceiling_redis_stop(&redis);
}

Test(ceiling, full_redis_is_reported) {
    kvf_ceiling_redis_t redis = start_redis();
    kvf_ceiling_task_t task = redis_task(KVF_CEILING_PUT, redis.unix_path);
    kvf_ceiling_result_t result;
    char line[64];
    ask_redis(&redis, "config set maxmemory 4mb", line);
    cr_assert_str_eq(line, "OK");
    cr_expect_eq(kvf_ceiling_run("redis_unix", &task, &result), KVF_ERR_PROTOCOL);
    cr_expect(strstr(result.note, "OOM") != NULL, "%s", result.note);
    kvf_ceiling_redis_stop(&redis);
}

Test(ceiling, absent_redis_is_unreachable) {
    kvf_ceiling_redis_t redis;
    kvf_ceiling_result_t result;
    kvf_ceiling_task_t task = redis_task(KVF_CEILING_GET, "/nonexistent/redis.sock");
    cr_expect_eq(kvf_ceiling_run("redis_unix", &task, &result), KVF_ERR_UNREACHABLE);
    task.address = "127.0.0.1:1";
    cr_expect_eq(kvf_ceiling_run("redis_tcp", &task, &result), KVF_ERR_UNREACHABLE);
    task.address = "127.0.0.1";
    cr_expect_eq(kvf_ceiling_run("redis_tcp", &task, &result), KVF_ERR_INVALID);
    task.address = NULL;
    cr_expect_eq(kvf_ceiling_run("redis_unix", &task, &result), KVF_ERR_INVALID);
    cr_expect_eq(kvf_ceiling_redis_start("/nonexistent/redis.sh", &redis), KVF_ERR_UNREACHABLE);
    cr_expect_eq(kvf_ceiling_redis_start("/bin/true", &redis), KVF_ERR_UNREACHABLE);
}

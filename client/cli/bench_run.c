/* bench_run.c - starts the client processes of one measurement together and adds up what they report. */
#include "client/cli/bench.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLIENTS_MAX = 64, REDRAW_MS = 500 };

typedef struct process {
    pid_t pid;
    int ready, go, report; /* our ends */
} process_t;

static bool write_all(int fd, const void *bytes, size_t count) {
    for (const char *next = bytes; count;) {
        ssize_t wrote = write(fd, next, count);
        if (wrote <= 0) return false;
        next += wrote;
        count -= (size_t)wrote;
    }
    return true;
}

static bool read_all(int fd, void *bytes, size_t count) {
    for (char *next = bytes; count;) {
        ssize_t got = read(fd, next, count);
        if (got <= 0) return false;
        next += got;
        count -= (size_t)got;
    }
    return true;
}

static _Noreturn void be_client(const kvf_bench_task_t *task, unsigned number, int ready, int go, int report_fd) {
    static float samples[KVF_BENCH_SAMPLES_MAX];
    kvf_bench_report_t report;
    kvf_bench_client(task, number, ready, go, &report, samples);
    bool wrote = write_all(report_fd, &report, sizeof(report)) &&
                 write_all(report_fd, samples, report.num_samples * sizeof(samples[0]));
    _exit(wrote && report.status == KVF_OK ? EXIT_SUCCESS : EXIT_FAILURE);
}

static kvf_status_t start_process(const kvf_bench_task_t *task, unsigned number, process_t *process) {
    int ready[2], go[2], report[2];
    if (pipe(ready)) return kvf_status_from_errno(errno);
    if (pipe(go)) goto err_ready;
    if (pipe(report)) goto err_go;
    pid_t pid = fork();
    if (pid < 0) goto err_report;
    if (pid == 0) {
        close(ready[0]);
        close(go[1]);
        close(report[0]);
        be_client(task, number, ready[1], go[0], report[1]);
    }
    close(ready[1]);
    close(go[0]);
    close(report[1]);
    *process = (process_t){.pid = pid, .ready = ready[0], .go = go[1], .report = report[0]};
    return KVF_OK;

err_report:
    close(report[0]);
    close(report[1]);
err_go:
    close(go[0]);
    close(go[1]);
err_ready:
    close(ready[0]);
    close(ready[1]);
    return kvf_status_from_errno(errno);
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static double quantile(const float *sorted, size_t count, double q) {
    if (!count) return 0;
    size_t at = (size_t)(q * (double)count);
    return (double)sorted[at < count ? at : count - 1];
}

/* Waits until `fd` has something, or has ended. */
static void await(int fd, kvf_bar_t *bar) {
    struct pollfd input = {.fd = fd, .events = POLLIN};
    while (poll(&input, 1, REDRAW_MS) == 0) kvf_bar_draw(bar);
}

/* Adds what `process` reports; its samples go to `samples` + *num_samples. */
static kvf_status_t add_report(const process_t *process, kvf_bench_result_t *result, float *samples,
                               size_t *num_samples) {
    kvf_bench_report_t report;
    if (!read_all(process->report, &report, sizeof(report)) || report.num_samples > KVF_BENCH_SAMPLES_MAX ||
        !read_all(process->report, samples + *num_samples, report.num_samples * sizeof(float)))
        return KVF_ERR_DISCONNECTED;
    if (report.status != KVF_OK) return report.status;
    *num_samples += report.num_samples;
    result->requests += report.requests;
    result->bytes += report.bytes;
    result->client_cpu_s += report.cpu_s;
    result->shared_memory = report.shared_memory;
    result->gbps += (double)report.bytes / report.seconds / 1e9;
    result->keys_a_second += (double)report.keys / report.seconds;
    if (report.seconds > result->seconds) result->seconds = report.seconds;
    return KVF_OK;
}

kvf_status_t kvf_bench_run(const kvf_bench_task_t *task, kvf_bar_t *bar, kvf_bench_result_t *result) {
    process_t processes[CLIENTS_MAX];
    if (task->clients < 1 || task->clients > CLIENTS_MAX) return KVF_ERR_INVALID;
    *result = (kvf_bench_result_t){0};
    float *samples = malloc(task->clients * KVF_BENCH_SAMPLES_MAX * sizeof(float));
    if (!samples) return KVF_ERR_NO_MEMORY;
    signal(SIGPIPE, SIG_IGN);
    fflush(stdout);
    kvf_status_t status = KVF_OK;
    unsigned started = 0;
    while (started < task->clients && status == KVF_OK) {
        status = start_process(task, started, &processes[started]);
        if (status == KVF_OK) started++;
    }
    char byte = 0;
    for (unsigned i = 0; i < started; i++) {
        await(processes[i].ready, bar);
        if (!read_all(processes[i].ready, &byte, 1)) status = KVF_ERR_DISCONNECTED;
    }
    size_t num_samples = 0;
    for (unsigned i = 0; i < started; i++)
        if (status == KVF_OK && !write_all(processes[i].go, &byte, 1)) status = KVF_ERR_DISCONNECTED;
    for (unsigned i = 0; i < started; i++) {
        close(processes[i].go); /* who was told nothing ends by this */
        await(processes[i].report, bar);
        kvf_status_t one = add_report(&processes[i], result, samples, &num_samples);
        if (status == KVF_OK) status = one;
        close(processes[i].ready);
        close(processes[i].report);
        waitpid(processes[i].pid, NULL, 0);
    }
    qsort(samples, num_samples, sizeof(float), compare);
    result->p50_us = quantile(samples, num_samples, 0.5);
    result->p99_us = quantile(samples, num_samples, 0.99);
    result->p999_us = quantile(samples, num_samples, 0.999);
    free(samples);
    kvf_bar_clear(bar);
    if (status != KVF_OK) fprintf(stderr, "kvfuse: a bench client failed: %s\n", kvf_status_text(status));
    return status;
}

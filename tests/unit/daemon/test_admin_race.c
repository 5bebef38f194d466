/* The log, the metrics and the stats socket used by many threads at once. A plain program: Criterion does not run under
 * ThreadSanitizer. */
#define KVF_LOG_MODULE "race"
#include "daemon/admin.h"
#include "daemon/metrics.h"
#include "transport/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { SERVICES = 2, CLIENTS = 3, ROUNDS = 3000, QUESTIONS = 20, RESTARTS = 3, ANSWER_BYTES = 64 * 1024, WAIT_S = 20 };

static kvf_metrics_t *metrics[SERVICES];
static char path[64];
static unsigned lines; /* written by the sink alone, which the log calls one at a time */
static atomic_uint failures;

static void count_line(void *arg, kvf_log_level_t level, const char *line, size_t bytes) {
    (void)level;
    if (line[bytes - 1] != '\n') atomic_fetch_add(&failures, 1);
    ++*(unsigned *)arg;
}

static void say_stats(void *arg, kvf_text_t *out) {
    json_t *stats = kvf_metrics_collect((const kvf_metrics_t *const *)metrics, SERVICES);
    (void)arg;
    if (stats) kvf_metrics_render(stats, KVF_METRICS_TEXT, out);
    json_decref(stats);
    kvf_log_limited(KVF_LOG_DEBUG, "asked");
}

static const kvf_admin_command_t commands[] = {{"stats", "Numbers", say_stats}};

/* A service thread: counts in its own instance, lowers a gauge that the other raised, and logs. */
static void *serve(void *arg) {
    const size_t number = *(const size_t *)arg;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        kvf_metrics_add(metrics[number], KVF_METRIC_SESSIONS, 1);
        kvf_metrics_finish(metrics[number], KVF_OPERATION_PUT, KVF_OK, i);
        kvf_metrics_sub(metrics[(number + 1) % SERVICES], KVF_METRIC_SESSIONS, 1);
        kvf_log_limited(KVF_LOG_WARN, "round %u", (unsigned)i);
        if (i % 100 == 0) kvf_log_info("round %u", (unsigned)i);
    }
    return NULL;
}

static bool question(int fd, char *answer) {
    size_t size = 0;
    if (send(fd, "stats\n", 6, MSG_NOSIGNAL) != 6) return false;
    while (size < ANSWER_BYTES - 1) {
        const ssize_t n = recv(fd, answer + size, ANSWER_BYTES - 1 - size, 0);
        if (n <= 0) return false;
        size += (size_t)n;
        if (size >= 4 && memcmp(answer + size - 4, "END\n", 4) == 0) return true;
    }
    return false;
}

static void *ask(void *arg) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval wait = {WAIT_S, 0};
    char *answer = malloc(ANSWER_BYTES);
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    (void)arg;
    memcpy(address.sun_path, path, sizeof(path));
    bool good = answer && fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) &&
                !connect(fd, (struct sockaddr *)&address, sizeof(address));
    for (int i = 0; good && i < QUESTIONS; i++) good = question(fd, answer);
    if (!good) atomic_fetch_add(&failures, 1);
    if (fd >= 0) (void)close(fd);
    free(answer);
    return NULL;
}

/* The server comes up, is asked while the services count, and goes down in the middle of an answer. */
static bool run(void) {
    pthread_t services[SERVICES], clients[CLIENTS];
    size_t numbers[SERVICES];
    kvf_admin_t *admin;
    if (kvf_admin_start(path, 0600, commands, 1, NULL, &admin) != KVF_OK) return false;
    for (size_t i = 0; i < SERVICES; i++) {
        numbers[i] = i;
        if (pthread_create(&services[i], NULL, serve, &numbers[i]) != 0) abort();
    }
    for (size_t i = 0; i < CLIENTS; i++)
        if (pthread_create(&clients[i], NULL, ask, NULL) != 0) abort();
    kvf_log_set_level(KVF_LOG_DEBUG);
    kvf_log_set_sink(count_line, &lines);
    for (size_t i = 0; i < CLIENTS; i++) pthread_join(clients[i], NULL);
    for (size_t i = 0; i < SERVICES; i++) pthread_join(services[i], NULL);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, sizeof(path));
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    const bool asked = fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof(address)) &&
                       send(fd, "stats\nstats\n", 12, MSG_NOSIGNAL) == 12;
    kvf_admin_stop(admin);
    if (fd >= 0) (void)close(fd);
    return asked && access(path, F_OK) != 0;
}

int main(void) {
    char folder[] = "/tmp/kvf-race-XXXXXX";
    bool good = mkdtemp(folder) != NULL;
    (void)snprintf(path, sizeof(path), "%s/stats", folder);
    for (size_t i = 0; i < SERVICES; i++) good = good && (metrics[i] = kvf_metrics_create()) != NULL;
    kvf_log_set_sink(count_line, &lines);
    kvf_log_set_level(KVF_LOG_INFO);
    for (int i = 0; good && i < RESTARTS; i++) good = run();
    kvf_log_set_sink(NULL, NULL);
    if (good) {
        json_t *stats = kvf_metrics_collect((const kvf_metrics_t *const *)metrics, SERVICES);
        const json_t *put = json_object_get(json_object_get(stats, "operations"), "put");
        good = json_integer_value(json_object_get(stats, "sessions")) == 0 &&
               json_integer_value(json_object_get(put, "requests")) == RESTARTS * SERVICES * ROUNDS &&
               lines >= RESTARTS * SERVICES * (ROUNDS / 100) && lines < RESTARTS * SERVICES * ROUNDS;
        json_decref(stats);
    }
    for (size_t i = 0; i < SERVICES; i++) kvf_metrics_destroy(metrics[i]);
    (void)rmdir(folder);
    if (good && atomic_load(&failures) == 0) return EXIT_SUCCESS;
    (void)fprintf(stderr, "test_admin_race: %u failures, %u lines\n", atomic_load(&failures), lines);
    return EXIT_FAILURE;
}

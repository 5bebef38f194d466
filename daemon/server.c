#define KVF_LOG_MODULE "server"
#include "daemon/server.h"

#include "daemon/admin.h"
#include "daemon/door.h"
#include "daemon/report.h"
#include "daemon/service.h"
#include "transport/address.h"
#include "transport/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { FDS_PER_SESSION = 4, FDS_SPARE = 256, SERVICES_MAX = KVF_THREADS_MAX };

struct kvf_server {
    const kvf_options_t *options;
    kvf_ucx_t ucx;
    kvf_service_shared_t shared;
    _Atomic uint64_t lent_bytes;
    kvf_metrics_t *metrics[SERVICES_MAX];
    kvf_service_t *services[SERVICES_MAX];
    unsigned num_services, next_service; /* next_service: of service 0's thread */
    kvf_door_t *door;
    kvf_admin_t *admin;
    bool has_said_why; /* what failed in on_listening was logged there */
    uint64_t started_ns;
    char address[KVF_OPTION_STRING_BYTES + 8]; /* with the port that it really has */
};

/* ---- stats ---- */

static double cpu_seconds(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage)) return 0;
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static json_t *collect(kvf_server_t *server) {
    json_t *stats = kvf_metrics_collect((const kvf_metrics_t *const *)server->metrics, server->num_services);
    if (!stats) return NULL;
    json_object_set_new(stats, "version", json_string(KVF_VERSION));
    json_object_set_new(stats, "ucx", json_string(kvf_ucx_version()));
    json_object_set_new(stats, "uptime_s",
                        json_integer((json_int_t)((uv_hrtime() - server->started_ns) / 1000000000u)));
    json_object_set_new(stats, "address", json_string(server->address));
    json_object_set_new(stats, "cpu_s", json_real(cpu_seconds()));
    kvf_report_store(stats, server->shared.store);
    return stats;
}

static void render_stats(kvf_server_t *server, kvf_metrics_format_t format, kvf_text_t *out) {
    json_t *stats = collect(server);
    if (!stats) {
        out->status = KVF_ERR_NO_MEMORY;
        return;
    }
    kvf_metrics_render(stats, format, out);
    json_decref(stats);
}

static void say_stats(void *arg, kvf_text_t *out) { render_stats(arg, KVF_METRICS_TEXT, out); }
static void say_stats_json(void *arg, kvf_text_t *out) { render_stats(arg, KVF_METRICS_JSON, out); }
static void say_spaces(void *arg, kvf_text_t *out) {
    kvf_store_t *store = ((kvf_server_t *)arg)->shared.store;
    for (uint32_t place = 0; place < kvf_store_max_spaces(store); place++) {
        kvf_space_t *space = kvf_store_space(store, place);
        if (!space) continue;
        kvf_report_space(space, out);
        kvf_space_unref(space);
    }
}
static void say_clients(void *arg, kvf_text_t *out) {
    kvf_directory_print(((kvf_server_t *)arg)->shared.directory, out);
}
static void say_config(void *arg, kvf_text_t *out) { kvf_options_print_values(((kvf_server_t *)arg)->options, out); }
static void say_metrics(void *arg, kvf_text_t *out) {
    (void)arg;
    kvf_metrics_describe(out);
}

static const kvf_admin_command_t commands[] = {
    {"stats", "All counters, gauges and latencies, a line each", say_stats},
    {"stats json", "The same as one line of JSON", say_stats_json},
    {"spaces", "Spaces: layout, blocks, bytes, a line each", say_spaces},
    {"clients", "Sessions: who, since when, how much, a line each", say_clients},
    {"config", "The options that the daemon runs with", say_config},
    {"metrics", "What each number of stats means", say_metrics},
};

/* ---- start ---- */

/* Segments and sessions take descriptors: as many as the system lets us have. */
static void raise_descriptor_limit(const kvf_options_t *options, size_t segments) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    rlim_t need = options->max_sessions * FDS_PER_SESSION + segments + FDS_SPARE;
    if (limit.rlim_cur >= need) return;
    limit.rlim_cur = need < limit.rlim_max ? need : limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur < need)
        kvf_log_warn("%" PRIu64 " open files are allowed, %" PRIu64 " may be needed: raise 'ulimit -n'",
                     (uint64_t)limit.rlim_cur, (uint64_t)need);
}

static void read_boot_id(char *host, size_t bytes) {
    host[0] = 0;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!file) return;
    if (!fgets(host, (int)bytes, file)) host[0] = 0;
    host[strcspn(host, "\n")] = 0;
    fclose(file);
}

static kvf_status_t open_socket_failed(kvf_server_t *server, kvf_status_t status, const char *what, const char *path) {
    server->has_said_why = true;
    kvf_log_error("cannot open the %s socket '%s': %s", what, path,
                  status == KVF_ERR_ADDRESS_IN_USE ? "another daemon answers on it" : kvf_status_text(status));
    return status;
}

/* On service 0's thread, before the first client: the sockets' names need the port. */
static kvf_status_t on_listening(void *arg, uint16_t port) {
    kvf_server_t *server = arg;
    const kvf_options_t *options = server->options;
    char path[KVF_OPTION_STRING_BYTES];
    int host_bytes = (int)(strrchr(options->address, ':') - options->address);
    snprintf(server->address, sizeof(server->address), "%.*s:%u", host_bytes, options->address, port);
    kvf_status_t status = kvf_options_make_runtime_dir(options);
    if (status != KVF_OK) {
        if (kvf_options_runtime_dir(options, path, sizeof(path)) == KVF_OK)
            kvf_log_error("cannot use '%s' as the folder of the sockets: %s", path,
                          status == KVF_ERR_ADDRESS ? "it is no folder, or others may write to it" : strerror(errno));
        server->has_said_why = true;
        return status;
    }
    status = kvf_options_socket_path(options, KVF_OPTIONS_MEMORY_SOCKET, port, path, sizeof(path));
    if (status == KVF_OK && path[0]) {
        status = kvf_door_create(path, options->socket_mode, server->shared.directory, server->services, &server->door);
        if (status != KVF_OK) return open_socket_failed(server, status, "memory", path);
        memcpy(server->shared.memory_socket, path, sizeof(path));
    }
    if (status == KVF_OK) status = kvf_options_socket_path(options, KVF_OPTIONS_STATS_SOCKET, port, path, sizeof(path));
    if (status == KVF_OK && path[0]) {
        status = kvf_admin_start(path, options->socket_mode, commands, sizeof(commands) / sizeof(commands[0]), server,
                                 &server->admin);
        if (status != KVF_OK) return open_socket_failed(server, status, "stats", path);
    }
    if (status != KVF_OK) {
        kvf_log_error("a socket's path is too long: set runtime-dir");
        server->has_said_why = true;
        return status;
    }
    kvf_log_info("stats socket %s, memory socket %s", path[0] ? path : "none",
                 server->shared.memory_socket[0] ? server->shared.memory_socket : "none");
    if (options->host_bytes > kvf_tier_host_free_bytes())
        kvf_log_warn("host-bytes is more than the machine has free (%" PRIu64
                     " MiB): it may be killed for want of memory",
                     kvf_tier_host_free_bytes() >> 20);
    kvf_log_info("%" PRIu64 " MiB of host memory, made ahead in the background, eviction %s", options->host_bytes >> 20,
                 kvf_evict_kind_name((kvf_evict_kind_t)options->eviction));
    kvf_log_info("listening on %s", server->address);
    return KVF_OK;
}

static void on_knock(void *arg, ucp_conn_request_h request) {
    kvf_server_t *server = arg;
    if (!kvf_directory_enter(server->shared.directory)) {
        kvf_log_limited(KVF_LOG_WARN, "a client is turned away: max-sessions and %d more are connected",
                        KVF_DIRECTORY_GUESTS_MAX);
        kvf_service_reject_knock(server->services[0], request); /* the one that listens, and whose thread this is */
        return;
    }
    kvf_service_hand_knock(server->services[server->next_service++ % server->num_services], request);
}

static kvf_status_t start_services(kvf_server_t *server) {
    for (uint64_t i = 0; i < server->options->threads; i++) {
        server->metrics[i] = kvf_metrics_create();
        if (!server->metrics[i]) return KVF_ERR_NO_MEMORY;
        kvf_status_t status =
            kvf_service_create(&server->shared, (unsigned)i, server->metrics[i], &server->services[i]);
        if (status != KVF_OK) return status;
        server->num_services++;
    }
    return KVF_OK;
}

static kvf_status_t listen_on(kvf_server_t *server) {
    struct sockaddr_storage address;
    socklen_t address_bytes;
    char why[256];
    kvf_status_t status = kvf_address_resolve(server->options->address, &address, &address_bytes, why, sizeof(why));
    if (status != KVF_OK) {
        kvf_log_error("%s", why);
        return status;
    }
    status = kvf_service_listen(server->services[0], (struct sockaddr *)&address, address_bytes, on_listening, on_knock,
                                server);
    if (server->has_said_why) return status;
    if (status == KVF_ERR_ADDRESS_IN_USE)
        kvf_log_error("cannot listen on %s: the address is in use, is another kvfused running?",
                      server->options->address);
    else if (status != KVF_OK)
        kvf_log_error("cannot listen on %s: %s", server->options->address, kvf_status_text(status));
    return status;
}

static kvf_status_t register_segment(void *arg, uint8_t *base, size_t bytes, void **handle) {
    ucp_mem_h memory;
    kvf_status_t status = kvf_ucx_map(arg, base, bytes, &memory);
    if (status == KVF_OK) *handle = memory;
    return status;
}

static void unregister_segment(void *arg, void *handle) { kvf_ucx_unmap(arg, handle); }

static kvf_status_t start_store(kvf_server_t *server) {
    const kvf_options_t *options = server->options;
    char why[256];
    kvf_store_options_t store = {
        .host_bytes = options->host_bytes,
        .segment_bytes = options->segment_bytes,
        .staging_bytes = options->staging_bytes,
        .max_spaces = (uint32_t)options->max_spaces,
        .max_keys = options->max_keys,
        .max_block_bytes = options->max_message_bytes,
        .eviction = (kvf_evict_kind_t)options->eviction,
        .prepare = true,
        .encoders = (unsigned)(options->encoders ? options->encoders : (uv_available_parallelism() + 1) / 2),
        .code_exact = options->code_exact,
        .decoded_bytes = options->decoded_bytes,
        .registrar = {.add = register_segment, .remove = unregister_segment, .arg = &server->ucx},
    };
    kvf_status_t status = kvf_store_create(&store, &server->shared.store, why, sizeof(why));
    if (status != KVF_OK) kvf_log_error("cannot take host memory: %s", why);
    return status;
}

kvf_status_t kvf_server_create(const kvf_options_t *options, kvf_server_t **out) {
    kvf_server_t *server = calloc(1, sizeof(*server));
    if (!server) return KVF_ERR_NO_MEMORY;
    server->options = options;
    server->started_ns = uv_hrtime();
    server->shared.options = options;
    server->shared.ucx = &server->ucx;
    server->shared.lent_bytes = &server->lent_bytes;
    read_boot_id(server->shared.host, sizeof(server->shared.host));
    kvf_ucx_options_t ucx = {.tls = options->ucx_tls,
                             .port_range = options->port_range,
                             .reuse_address = true,
                             .many_workers = options->threads > 1};
    kvf_log_info("kvfused %s, UCX %s (%s)", KVF_VERSION, kvf_ucx_version(), options->ucx_tls);
    kvf_status_t status = kvf_ucx_create(&ucx, &server->ucx);
    if (status != KVF_OK) goto err_free;
    status = KVF_ERR_NO_MEMORY;
    server->shared.directory = kvf_directory_create((unsigned)options->max_sessions);
    if (!server->shared.directory) goto err_destroy;
    status = start_store(server);
    if (status != KVF_OK) goto err_destroy;
    raise_descriptor_limit(options, kvf_store_max_segments(server->shared.store));
    status = start_services(server);
    if (status != KVF_OK) goto err_destroy;
    status = listen_on(server);
    if (status != KVF_OK) goto err_destroy;
    *out = server;
    return KVF_OK;

err_destroy:
    kvf_server_destroy(server);
    return status;
err_free:
    free(server);
    return status;
}

void kvf_server_destroy(kvf_server_t *server) {
    kvf_door_destroy(server->door);
    kvf_admin_stop(server->admin);
    for (unsigned i = 0; i < server->num_services; i++)
        kvf_service_drain(server->services[i], server->options->drain_timeout_ms);
    for (unsigned i = 0; i < server->num_services; i++) kvf_service_join(server->services[i]);
    if (server->shared.store) kvf_store_stop_encoders(server->shared.store);
    for (unsigned i = 0; i < server->num_services; i++) kvf_service_destroy(server->services[i]);
    for (unsigned i = 0; i < SERVICES_MAX; i++) kvf_metrics_destroy(server->metrics[i]);
    kvf_store_destroy(server->shared.store);
    kvf_directory_destroy(server->shared.directory);
    kvf_ucx_destroy(&server->ucx);
    free(server);
}

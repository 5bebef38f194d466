#define KVF_LOG_MODULE "ucx"
#include "transport/ucx.h"

#include "transport/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

kvf_status_t kvf_status_from_ucs(ucs_status_t status) {
    switch (status) {
    case UCS_OK: return KVF_OK;
    case UCS_INPROGRESS: return KVF_IN_PROGRESS;
    case UCS_ERR_NO_MEMORY: return KVF_ERR_NO_MEMORY;
    case UCS_ERR_INVALID_PARAM: return KVF_ERR_INVALID;
    case UCS_ERR_UNREACHABLE: return KVF_ERR_UNREACHABLE;
    case UCS_ERR_INVALID_ADDR: return KVF_ERR_ADDRESS;
    case UCS_ERR_BUSY: return KVF_ERR_ADDRESS_IN_USE;
    case UCS_ERR_REJECTED: return KVF_ERR_VERSION;
    case UCS_ERR_TIMED_OUT: return KVF_ERR_TIMEOUT;
    case UCS_ERR_CANCELED: return KVF_ERR_CANCELED;
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_ENDPOINT_TIMEOUT: /* also when the peer closed in order */
    case UCS_ERR_CONNECTION_RESET: return KVF_ERR_DISCONNECTED;
    default: return KVF_ERR_TRANSPORT;
    }
}

const char *kvf_ucx_version(void) { return ucp_get_version_string(); }

/* Sets one key of `config` unless the user did so by UCX_<key>. */
static void modify(ucp_config_t *config, const char *key, const char *value) {
    char variable[64];
    snprintf(variable, sizeof(variable), "UCX_%s", key);
    if (getenv(variable)) return;
    /* UCX 1.13 knows a transport's keys here by their short names; an unknown key is no error, but a warning later */
    unsigned major, minor, release;
    ucp_get_version(&major, &minor, &release);
    bool short_names = major == 1 && minor <= 13;
    if (short_names && strncmp(key, "TCP_", 4) == 0) key += 4;
    ucs_status_t status = ucp_config_modify(config, key, value);
    if (status != UCS_OK) kvf_log_warn("cannot set %s=%s: %s", variable, value, ucs_status_string(status));
}

/* Whether the transports in use are TCP alone: it is faster with large eager segments than by rendezvous (README.md). */
static bool is_tcp_only(const char *tls) {
    const char *set = getenv("UCX_TLS");
    if (!set) set = tls;
    return set && (!strcmp(set, "tcp") || !strcmp(set, "tcp,self") || !strcmp(set, "self,tcp"));
}

static void apply_options(ucp_config_t *config, const kvf_ucx_options_t *options) {
    if (options->tls) modify(config, "TLS", options->tls);
    if (options->port_range && options->port_range[0]) modify(config, "TCP_PORT_RANGE", options->port_range);
    if (!is_tcp_only(options->tls)) return;
    modify(config, "RNDV_THRESH", "inf");
    modify(config, "TCP_TX_SEG_SIZE", "256K");
    modify(config, "TCP_RX_SEG_SIZE", "256K");
    modify(config, "TCP_KEEPIDLE", "2s");
    modify(config, "TCP_KEEPINTVL", "1s");
    modify(config, "TCP_KEEPCNT", "3");
}

kvf_status_t kvf_ucx_create(const kvf_ucx_options_t *options, kvf_ucx_t *ucx) {
    /* ucp_config_modify does not reach the connection manager's copy of this one. */
    if (options->reuse_address) setenv("UCX_TCP_CM_REUSEADDR", "y", 0);

    ucp_config_t *config;
    ucs_status_t status = ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK) {
        kvf_log_error("cannot read the configuration: %s", ucs_status_string(status));
        return kvf_status_from_ucs(status);
    }
    apply_options(config, options);
    ucx->registers = !is_tcp_only(options->tls);
    ucp_params_t params = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED | UCP_PARAM_FIELD_NAME,
        .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
        .mt_workers_shared = options->many_workers || ucx->registers, /* kvf_ucx_map is for any thread */
        .name = "kvfuse",
    };
    status = ucp_init(&params, config, &ucx->context);
    ucp_config_release(config);
    if (status == UCS_OK) return KVF_OK;
    kvf_log_error("cannot start: %s (transports: %s)", ucs_status_string(status), options->tls ? options->tls : "any");
    return kvf_status_from_ucs(status);
}

kvf_status_t kvf_ucx_map(const kvf_ucx_t *ucx, void *base, size_t bytes, ucp_mem_h *memory) {
    *memory = NULL;
    if (!ucx->registers) return KVF_OK;
    ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
        .address = base,
        .length = bytes,
    };
    return kvf_status_from_ucs(ucp_mem_map(ucx->context, &params, memory));
}

void kvf_ucx_unmap(const kvf_ucx_t *ucx, ucp_mem_h memory) {
    if (!memory) return;
    ucs_status_t status = ucp_mem_unmap(ucx->context, memory);
    if (status != UCS_OK) kvf_log_warn("cannot unregister memory: %s", ucs_status_string(status));
}

void kvf_ucx_destroy(kvf_ucx_t *ucx) {
    if (ucx->context) ucp_cleanup(ucx->context);
    ucx->context = NULL;
}

#include "transport/worker_internal.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>

struct kvf_listener {
    ucp_listener_h ucp;
    kvf_knock_fn on_knock;
    void *arg;
    uint16_t port;
};

static void on_conn_request(ucp_conn_request_h request, void *arg) {
    kvf_listener_t *listener = arg;
    listener->on_knock(listener->arg, request);
}

static uint16_t port_of(ucp_listener_h ucp) {
    ucp_listener_attr_t attr = {.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR};
    if (ucp_listener_query(ucp, &attr) != UCS_OK) return 0;
    /* sin_port and sin6_port lie at the same place */
    return ntohs(((const struct sockaddr_in *)&attr.sockaddr)->sin_port);
}

kvf_status_t kvf_listener_create(kvf_worker_t *worker, const struct sockaddr *address, socklen_t address_bytes,
                                 kvf_knock_fn on_knock, void *arg, kvf_listener_t **out) {
    kvf_listener_t *listener = calloc(1, sizeof(*listener));
    if (!listener) return KVF_ERR_NO_MEMORY;
    listener->on_knock = on_knock;
    listener->arg = arg;
    ucp_listener_params_t params = {
        .field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
        .sockaddr = {.addr = address, .addrlen = address_bytes},
        .conn_handler = {.cb = on_conn_request, .arg = listener},
    };
    ucs_status_t status = ucp_listener_create(worker->ucp, &params, &listener->ucp);
    if (status != UCS_OK) {
        free(listener);
        return kvf_status_from_ucs(status);
    }
    listener->port = port_of(listener->ucp);
    *out = listener;
    return KVF_OK;
}

void kvf_listener_destroy(kvf_listener_t *listener) {
    if (!listener) return;
    ucp_listener_destroy(listener->ucp);
    free(listener);
}

uint16_t kvf_listener_port(const kvf_listener_t *listener) { return listener->port; }

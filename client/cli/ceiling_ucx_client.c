#include "client/cli/ceiling_ucx.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef enum slot_state {
    SLOT_FREE,
    SLOT_ASKING,  /* RMA get: may I read? */
    SLOT_ALLOWED, /* the answer is here */
    SLOT_MOVING,  /* RMA: reads or writes are under way */
    SLOT_WAITING, /* for the last bytes (get) or the acknowledgement (put) */
} slot_state_t;

typedef struct slot {
    kvf__ucx_pending_t pending;
    slot_state_t state;
    uint64_t started_ns;
    uint64_t first;               /* number in the order of moving, of the batch's first block */
    uint64_t left_bytes;          /* get */
    kvf__ucx_request_t *requests; /* [batch_blocks * KVF__UCX_MAX_PARTS] (put), [1] else */
    ucp_dt_iov_t *iov;            /* [batch_blocks] */
} slot_t;

typedef struct client {
    kvf__ucx_side_t *side;
    const kvf_ceiling_task_t *task;
    kvf__ucx_plan_t plan;
    kvf__meter_t meter;
    ucp_rkey_h rkey;
    bool over;     /* this run begins no more batches */
    uint64_t next; /* number of the next block to move */
    slot_t slots[KVF_CEILING_MAX_DEPTH];
} client_t;

static uint64_t batch_bytes(const kvf_ceiling_task_t *task) { return (uint64_t)task->block_bytes * task->batch_blocks; }

static uint32_t block_index(const client_t *client, const slot_t *slot, uint32_t block) {
    return (uint32_t)kvf__set_index(&client->side->set, slot->first + block);
}
static uint8_t *block_at(const client_t *client, const slot_t *slot, uint32_t block) {
    return kvf__set_block(&client->side->set, block_index(client, slot, block));
}

static void complete(client_t *client, slot_t *slot) {
    slot->state = SLOT_FREE;
    if (!client->over) client->over = kvf__meter_add(&client->meter, slot->started_ns, kvf__now_ns());
}

/* ---- answers ---- */

/* Copies a piece to its place. */
static bool take_data(client_t *client, slot_t *slot, const kvf__ucx_header_t *head, const uint8_t *payload,
                      size_t length) {
    kvf__ucx_piece_t piece = head->piece;
    if (slot->state != SLOT_WAITING || !kvf__ucx_piece_is_valid(client->task, piece) ||
        length != (size_t)piece.count * piece.bytes || length > slot->left_bytes)
        return false;
    for (uint32_t i = 0; i < piece.count; i++)
        memcpy(block_at(client, slot, piece.first + i) + piece.offset, payload + (size_t)i * piece.bytes, piece.bytes);
    slot->left_bytes -= length;
    if (slot->left_bytes == 0) complete(client, slot);
    return true;
}

static bool take_done(client_t *client, slot_t *slot) {
    if (slot->state == SLOT_ASKING) {
        slot->state = SLOT_ALLOWED;
        return true;
    }
    if (slot->state != SLOT_WAITING) return false;
    complete(client, slot);
    return true;
}

static bool take(client_t *client, const void *header, size_t header_bytes, const void *payload, size_t length) {
    kvf__ucx_header_t head;
    if (header_bytes != sizeof(head)) return false;
    memcpy(&head, header, sizeof(head));
    if (head.slot >= client->task->depth) return false;
    slot_t *slot = &client->slots[head.slot];
    if (head.kind == KVF__UCX_DATA) return take_data(client, slot, &head, payload, length);
    return head.kind == KVF__UCX_DONE && take_done(client, slot);
}

static ucs_status_t on_message(void *arg, const void *header, size_t header_bytes, void *data, size_t length,
                               const ucp_am_recv_param_t *param) {
    client_t *client = arg;
    if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)
        (void)kvf__ucx_fail(client->side, KVF_ERR_TRANSPORT, "rendezvous in spite of UCX_RNDV_THRESH=inf");
    else if (!take(client, header, header_bytes, data, length))
        (void)kvf__ucx_fail(client->side, KVF_ERR_PROTOCOL, "an answer");
    return UCS_OK;
}

/* ---- requests ---- */

static void send_head(client_t *client, slot_t *slot, kvf__ucx_kind_t kind) {
    slot->requests[0].head = (kvf__ucx_header_t){
        .kind = kind, .slot = (uint32_t)(slot - client->slots), .plan = client->plan, .moved = client->next};
    size_t indexes = kind == KVF__UCX_GET ? client->task->batch_blocks : 0;
    for (uint32_t i = 0; i < indexes; i++) slot->requests[0].index[i] = block_index(client, slot, i);
    kvf__ucx_send(&slot->pending, KVF__UCX_TO_SERVER, &slot->requests[0],
                  sizeof(slot->requests[0].head) + indexes * sizeof(slot->requests[0].index[0]), NULL, 0, 0);
}

static void send_payload(client_t *client, slot_t *slot) {
    uint32_t messages = kvf__ucx_messages(client->task, client->plan);
    for (uint32_t m = 0; m < messages; m++) {
        kvf__ucx_piece_t piece = kvf__ucx_piece(client->task, client->plan, m);
        kvf__ucx_request_t *request = &slot->requests[m];
        request->head =
            (kvf__ucx_header_t){.kind = KVF__UCX_PUT, .slot = (uint32_t)(slot - client->slots), .piece = piece};
        for (uint32_t i = 0; i < piece.count; i++) {
            request->index[i] = block_index(client, slot, piece.first + i);
            slot->iov[piece.first + i] =
                (ucp_dt_iov_t){.buffer = block_at(client, slot, piece.first + i), .length = piece.bytes};
        }
        bool whole = piece.count > 1;
        kvf__ucx_send(&slot->pending, KVF__UCX_TO_SERVER, request,
                      sizeof(request->head) + piece.count * sizeof(request->index[0]),
                      whole ? (void *)&slot->iov[piece.first] : block_at(client, slot, piece.first) + piece.offset,
                      piece.bytes, whole ? piece.count : 0);
    }
}

/* Reads or writes the blocks in the server's memory; writes are flushed. */
static void move_remote(client_t *client, slot_t *slot) {
    ucp_ep_h ep = client->side->ep;
    size_t bytes = client->task->block_bytes;
    ucp_request_param_t param = kvf__ucx_param(&slot->pending);
    slot->state = SLOT_MOVING;
    for (uint32_t i = 0; i < client->task->batch_blocks; i++) {
        uint8_t *local = block_at(client, slot, i);
        uint64_t remote = client->side->shared->remote_address + (uint64_t)block_index(client, slot, i) * bytes;
        if (client->task->op == KVF_CEILING_GET)
            kvf__ucx_track(&slot->pending, ucp_get_nbx(ep, local, bytes, remote, client->rkey, &param), "reading");
        else
            kvf__ucx_track(&slot->pending, ucp_put_nbx(ep, local, bytes, remote, client->rkey, &param), "writing");
    }
    if (client->task->op == KVF_CEILING_PUT) kvf__ucx_track(&slot->pending, ucp_ep_flush_nbx(ep, &param), "flushing");
}

static void begin(client_t *client, slot_t *slot) {
    slot->started_ns = kvf__now_ns();
    slot->first = client->next;
    slot->left_bytes = batch_bytes(client->task);
    client->next += client->task->batch_blocks;
    if (client->side->rma) {
        if (client->task->op == KVF_CEILING_PUT) {
            move_remote(client, slot);
            return;
        }
        slot->state = SLOT_ASKING;
        send_head(client, slot, KVF__UCX_ASK);
        return;
    }
    slot->state = SLOT_WAITING;
    if (client->task->op == KVF_CEILING_GET)
        send_head(client, slot, KVF__UCX_GET);
    else
        send_payload(client, slot);
}

/* Takes the slot on as far as it can go. A slot rests until UCX has done with its headers. */
static void advance(client_t *client, slot_t *slot) {
    if (slot->pending.count > 0) return;
    if (slot->state == SLOT_ALLOWED) move_remote(client, slot);
    if (slot->state == SLOT_MOVING && slot->pending.count == 0) {
        if (client->task->op == KVF_CEILING_GET) {
            complete(client, slot);
        } else {
            slot->state = SLOT_WAITING;
            send_head(client, slot, KVF__UCX_ASK);
        }
    }
    if (slot->state == SLOT_FREE && !client->over) begin(client, slot);
}

static kvf_status_t run(client_t *client, double warm_seconds, double seconds) {
    kvf_status_t status = KVF_OK;
    unsigned busy;
    client->over = false;
    kvf__meter_start(&client->meter, warm_seconds, seconds);
    do {
        busy = 0;
        for (unsigned i = 0; i < client->task->depth; i++) {
            slot_t *slot = &client->slots[i];
            advance(client, slot);
            busy += slot->state != SLOT_FREE || slot->pending.count > 0;
        }
        status = kvf__ucx_step(client->side);
    } while (status == KVF_OK && (busy > 0 || !client->over));
    return status;
}

/* ---- the whole ---- */

/* Tries several sizes of message and keeps the fastest. */
static kvf_status_t choose_plan(client_t *client) {
    static const size_t sizes[] = {32u << 10, 128u << 10, 256u << 10, 512u << 10, 2u << 20, 4u << 20};
    const kvf_ceiling_task_t *task = client->task;
    client->plan = kvf__ucx_plan(task, task->message_bytes > 0 ? task->message_bytes : task->block_bytes);
    if (client->side->rma || task->message_bytes > 0) return KVF_OK;
    double seconds = task->seconds / 8, best_gbps = -1;
    kvf__ucx_plan_t best = client->plan;
    for (size_t i = 0; i < 1 + sizeof(sizes) / sizeof(sizes[0]); i++) {
        kvf__ucx_plan_t plan = i == 0 ? client->plan : kvf__ucx_plan(task, sizes[i - 1]);
        if (i > 0 && memcmp(&plan, &client->plan, sizeof(plan)) == 0) continue; /* larger than the batch, say */
        client->plan = plan;
        kvf_status_t status = run(client, seconds / 4, seconds);
        if (status != KVF_OK) return status;
        double gbps = kvf__meter_gbps(&client->meter, batch_bytes(task));
        if (gbps > best_gbps) {
            best_gbps = gbps;
            best = plan;
        }
    }
    client->plan = best;
    return KVF_OK;
}

/* Says something that moves nothing, on slot 0, and waits for the answer. */
static kvf_status_t say(client_t *client, kvf__ucx_kind_t kind) {
    slot_t *slot = &client->slots[0];
    kvf_status_t status = KVF_OK;
    client->over = true; /* this is no batch */
    slot->state = SLOT_WAITING;
    send_head(client, slot, kind);
    while (status == KVF_OK && (slot->state != SLOT_FREE || slot->pending.count > 0))
        status = kvf__ucx_step(client->side);
    return status;
}

/* Returns once the server knows how many blocks were moved. */
static kvf_status_t say_bye(client_t *client) {
    kvf_status_t status = say(client, KVF__UCX_BYE);
    client->side->closing = true;
    atomic_store(&client->side->shared->client_left, 1);
    return status;
}

/* Fails when UCX has no shared memory to the server, and would measure TCP instead. No call of 1.13 tells it but the
 * one that prints it. */
static kvf_status_t check_transport(kvf__ucx_side_t *side) {
    char *text = NULL;
    size_t bytes;
    if (side->tcp) return KVF_OK;
    FILE *stream = open_memstream(&text, &bytes);
    if (stream == NULL) return kvf__ucx_fail(side, KVF_ERR_NO_MEMORY, "asking for the transport");
    ucp_ep_print_info(side->ep, stream);
    bool written = fclose(stream) == 0;
    bool shared = written && strstr(text, "posix/") != NULL;
    free(text);
    return shared ? KVF_OK : kvf__ucx_fail(side, KVF_ERR_UNSUPPORTED, "UCX finds no shared memory here");
}

/* When to do this is a matter of version. 1.13: before the connection stands, else writes go by TCP (shared memory, 32
 * KiB blocks: 180 us a batch, not 35). 1.22: after, else its first use crashes. */
#define UNPACKS_EARLY (UCP_API_VERSION < UCP_VERSION(1, 14))
static kvf_status_t unpack_key(client_t *client) {
    kvf__ucx_side_t *side = client->side;
    ucs_status_t ucs = ucp_ep_rkey_unpack(side->ep, side->shared->rkey, &client->rkey);
    return ucs == UCS_OK ? KVF_OK : kvf__ucx_fail_ucs(side, ucs, "unpacking the remote key");
}

static kvf_status_t connect_to_server(client_t *client) {
    kvf__ucx_side_t *side = client->side;
    const struct timespec pause = {.tv_nsec = 200000};
    unsigned port;
    while ((port = atomic_load(&side->shared->port)) == 0) {
        if (kvf__now_ns() > side->deadline_ns) return kvf__ucx_fail(side, KVF_ERR_TIMEOUT, "waiting for the server");
        nanosleep(&pause, NULL);
    }
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                                            UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
                              .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
                              .sockaddr = {.addr = (const struct sockaddr *)&address, .addrlen = sizeof(address)},
                              .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                              .err_handler = {.cb = kvf__ucx_lost, .arg = side}};
    ucs_status_t ucs = ucp_ep_create(side->worker, &params, &side->ep);
    if (ucs != UCS_OK) return kvf__ucx_fail_ucs(side, ucs, "connecting");
    kvf_status_t status = KVF_OK;
    if (side->rma && UNPACKS_EARLY) status = unpack_key(client);
    if (status == KVF_OK) status = say(client, KVF__UCX_ASK);
    if (status == KVF_OK) status = check_transport(side);
    if (status == KVF_OK && side->rma && !UNPACKS_EARLY) status = unpack_key(client);
    return status;
}

static kvf_status_t prepare(client_t *client) {
    kvf__ucx_side_t *side = client->side;
    const kvf_ceiling_task_t *task = client->task;
    size_t requests = 1;
    if (task->op == KVF_CEILING_PUT && !side->rma) requests = (size_t)task->batch_blocks * KVF__UCX_MAX_PARTS;
    for (unsigned i = 0; i < task->depth; i++) {
        slot_t *slot = &client->slots[i];
        slot->pending.side = side;
        slot->requests = calloc(requests, sizeof(*slot->requests));
        slot->iov = calloc(task->batch_blocks, sizeof(*slot->iov));
        if (slot->requests == NULL || slot->iov == NULL) return kvf__ucx_fail(side, KVF_ERR_NO_MEMORY, "slots");
    }
    if (kvf__meter_create(&client->meter) != KVF_OK) return kvf__ucx_fail(side, KVF_ERR_NO_MEMORY, "samples");
    if (kvf__set_allocate(&side->set) != KVF_OK) return kvf__ucx_fail(side, KVF_ERR_NO_MEMORY, "the client's set");
    if (task->op == KVF_CEILING_PUT) kvf__set_fill(&side->set);
    kvf_status_t status = kvf__ucx_open(side);
    if (status == KVF_OK) status = kvf__ucx_handle(side, KVF__UCX_TO_CLIENT, on_message, client);
    return status == KVF_OK ? connect_to_server(client) : status;
}

static kvf_status_t drive(client_t *client) {
    kvf__ucx_shared_t *shared = client->side->shared;
    const kvf_ceiling_task_t *task = client->task;
    kvf_status_t status = choose_plan(client);
    if (status == KVF_OK) status = run(client, kvf__warm_seconds(task->seconds), task->seconds);
    if (status == KVF_OK) status = say_bye(client);
    if (status != KVF_OK) return status;
    kvf__meter_result(&client->meter, batch_bytes(task), &shared->result);
    shared->plan = client->plan;
    if (task->op == KVF_CEILING_GET)
        shared->right_blocks = kvf__set_check(&client->side->set, client->next, &shared->checked_blocks);
    return KVF_OK;
}

kvf_status_t kvf__ucx_drive(kvf__ucx_side_t *side) {
    client_t *client = calloc(1, sizeof(*client));
    if (client == NULL) return kvf__ucx_fail(side, KVF_ERR_NO_MEMORY, "the client");
    client->side = side;
    client->task = side->task;
    kvf_status_t status = prepare(client);
    if (status == KVF_OK) status = drive(client);
    if (client->rkey != NULL) ucp_rkey_destroy(client->rkey);
    kvf__ucx_close(side);
    kvf__meter_destroy(&client->meter);
    kvf__set_free(&side->set);
    for (unsigned i = 0; i < side->task->depth; i++) {
        free(client->slots[i].requests);
        free(client->slots[i].iov);
    }
    free(client);
    return status;
}

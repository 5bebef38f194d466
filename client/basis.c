/* basis.c - bases and models of fused spaces: asked for once, read beside the loop, a few kept; their coders. */
#define KVF_LOG_MODULE "client"
#include "client/coding.h"

#include "client/job.h"
#include "transport/log.h"

#include <stdlib.h>
#include <string.h>

/* ---- coders [any] ---- */

static void destroy_coder(kvf__coder_t *coder) {
    kvf_block_encoder_destroy(coder->encoder);
    kvf_block_decoder_destroy(coder->bounded);
    kvf_exact_decoder_destroy(coder->exact);
    kvf_joint_decoder_destroy(coder->joint);
    free((void *)coder->planes);
    free(coder->scratch);
    free(coder);
}

static kvf__coder_t *create_coder(const kvf__basis_t *basis) {
    const kvf_layout_t *layout = basis->space->layout;
    kvf__coder_t *coder = calloc(1, sizeof(*coder));
    if (!coder) return NULL;
    coder->planes = calloc((size_t)layout->layers * layout->planes, sizeof(*coder->planes));
    if (coder->planes) return coder;
    free(coder);
    return NULL;
}

kvf__coder_t *kvf__coder_take(kvf__basis_t *basis) {
    pthread_mutex_lock(&basis->lock);
    kvf__coder_t *coder = basis->coders;
    if (coder) basis->coders = coder->next;
    pthread_mutex_unlock(&basis->lock);
    return coder ? coder : create_coder(basis);
}

void kvf__coder_give_back(kvf__basis_t *basis, kvf__coder_t *coder) {
    pthread_mutex_lock(&basis->lock);
    coder->next = basis->coders;
    basis->coders = coder;
    pthread_mutex_unlock(&basis->lock);
}

/* ---- life ---- */

void kvf__basis_unref(kvf__basis_t *basis) {
    if (!basis || --basis->refs) return;
    while (basis->coders) {
        kvf__coder_t *next = basis->coders->next;
        destroy_coder(basis->coders);
        basis->coders = next;
    }
    kvf_codec_destroy(basis->codec);
    kvf_exact_model_unref(basis->model);
    pthread_mutex_destroy(&basis->lock);
    free(basis);
}

/* What it is has become known. */
static void tell(kvf_client_t *client, const kvf__basis_t *basis) {
    kvf__codeds_basis_came(client, basis);
    kvf__codings_basis_came(client, basis);
}

static void let_go(kvf__basis_t *basis) {
    if (!basis->is_kept) return;
    basis->is_kept = false;
    if (!basis->is_asked) basis->space->client->num_to_ask--;
    DL_DELETE(basis->space->bases, basis);
    kvf__basis_unref(basis);
}

void kvf__bases_drop(kvf_space_t *space) {
    while (space->bases) {
        kvf__basis_t *basis = space->bases;
        bool was_asked = basis->is_asked;
        basis->refs++;
        let_go(basis);
        if (!was_asked) {
            basis->status = KVF_ERR_NOT_FOUND;
            tell(space->client, basis);
        }
        kvf__basis_unref(basis);
    }
}

static void make_room(kvf_space_t *space) {
    unsigned count = 0;
    kvf__basis_t *basis, *next;
    DL_FOREACH(space->bases, basis) count += basis->status == KVF_OK;
    DL_FOREACH_SAFE(space->bases, basis, next)
    if (basis->status == KVF_OK && count > KVF__BASES_KEPT) {
        let_go(basis);
        count--;
    }
}

/* ---- ask ---- */

static void fail(kvf__basis_t *basis, kvf_status_t status) {
    kvf_log_limited(KVF_LOG_WARN, "space '%s': no basis %u: %s", basis->space->name, basis->version,
                    kvf_status_text(status));
    basis->status = status;
    let_go(basis);
}

/* Asks as soon as the daemon takes one more. */
static void ask(kvf__basis_t *basis) {
    kvf_client_t *client = basis->space->client;
    if (!kvf__may_ask(client)) return;
    basis->is_asked = true;
    client->num_to_ask--;
    kvf__part_t *part = kvf__part_create(client, KVF_FRAME_GET_BASIS, NULL, 0, 0);
    if (!part) {
        fail(basis, KVF_ERR_NO_MEMORY);
        return;
    }
    part->basis = basis;
    basis->refs++;
    Kvf__GetBasis body = KVF__GET_BASIS__INIT;
    body.space = basis->space->id;
    body.version = basis->version;
    kvf__connection_say(client, KVF_FRAME_GET_BASIS, part->number, &body.base);
}

kvf__basis_t *kvf__basis_get(kvf_space_t *space, uint32_t version) {
    kvf__basis_t *basis = space->bases;
    while (basis && basis->version != version) basis = basis->next;
    if (basis) {
        DL_DELETE(space->bases, basis);
        DL_APPEND(space->bases, basis);
        basis->refs++;
        return basis;
    }
    basis = calloc(1, sizeof(*basis));
    if (!basis || pthread_mutex_init(&basis->lock, NULL)) {
        free(basis);
        return NULL;
    }
    basis->space = space;
    basis->version = version;
    basis->status = KVF_IN_PROGRESS;
    basis->is_kept = true;
    basis->refs = 2; /* the space's and the caller's */
    DL_APPEND(space->bases, basis);
    space->client->num_to_ask++;
    ask(basis);
    return basis;
}

void kvf__bases_pump(kvf_space_t *space) {
    kvf__basis_t *basis, *next;
    DL_FOREACH_SAFE(space->bases, basis, next) {
        if (basis->is_asked) continue;
        basis->refs++;
        ask(basis);
        if (basis->status != KVF_IN_PROGRESS) tell(space->client, basis);
        kvf__basis_unref(basis);
    }
}

/* ---- read ---- */

typedef struct reading {
    kvf__job_t job;
    kvf__basis_t *basis; /* a reference */
    kvf_status_t status;
    kvf_form_t form;
    kvf_codec_t *codec;
    kvf_exact_model_t *model;
    float *bounds; /* [layers, planes] */
    size_t num_bytes;
    uint8_t bytes[];
} reading_t;

static kvf_status_t read_bounded(reading_t *reading) {
    const kvf_layout_t *layout = reading->basis->space->layout;
    char why[128];
    kvf_basis_t *parsed;
    kvf_status_t status = kvf_basis_parse(reading->bytes, reading->num_bytes, layout, &parsed, why, sizeof(why));
    if (status) return status;
    status = kvf_basis_version(parsed) == reading->basis->version
                 ? kvf_codec_create(layout, parsed, reading->bounds, &reading->codec)
                 : KVF_ERR_CORRUPT;
    kvf_basis_unref(parsed);
    return status;
}

static kvf_status_t read_exact(reading_t *reading) {
    if (!reading->num_bytes) return KVF_OK; /* there is no model */
    kvf_status_t status =
        kvf_exact_model_parse(reading->bytes, reading->num_bytes, reading->basis->space->layout, &reading->model);
    if (status) return status;
    return kvf_exact_model_version(reading->model) == reading->basis->version ? KVF_OK : KVF_ERR_CORRUPT;
}

/* There is nothing to learn. */
static kvf_status_t read_fused(const reading_t *reading) { return reading->num_bytes ? KVF_ERR_CORRUPT : KVF_OK; }

static void run(kvf__job_t *job) {
    reading_t *reading = (reading_t *)job;
    reading->status = reading->form == KVF_FORM_BOUNDED ? read_bounded(reading)
                      : reading->form == KVF_FORM_EXACT ? read_exact(reading)
                                                        : read_fused(reading);
}

static void done(kvf__job_t *job) {
    reading_t *reading = (reading_t *)job;
    kvf__basis_t *basis = reading->basis;
    kvf_client_t *client = job->client;
    basis->form = reading->form;
    basis->codec = reading->codec;
    basis->model = reading->model;
    if (reading->status)
        fail(basis, reading->status);
    else
        basis->status = KVF_OK;
    make_room(basis->space);
    free(reading->bounds);
    free(reading);
    tell(client, basis);
    kvf__basis_unref(basis);
}

/* What new blocks are coded under. Under a policy of rows within an error that is the policy's own. */
static bool take_bounds(reading_t *reading, const Kvf__BasisReply *reply) {
    const kvf_space_t *space = reading->basis->space;
    const kvf_policy_t *policy = &space->policy;
    if (!reply->n_bounds) return true;
    reading->bounds = malloc(reply->n_bounds * sizeof(*reading->bounds));
    for (size_t i = 0; reading->bounds && i < reply->n_bounds; i++) {
        reading->bounds[i] = reply->bounds[i];
        if (policy->kind == KVF_POLICY_ERROR)
            reading->bounds[i] = i % space->layout->planes ? policy->error_v : policy->error_k;
    }
    return reading->bounds != NULL;
}

static void start_reading(kvf__basis_t *basis, const Kvf__BasisReply *reply, const uint8_t *payload, size_t bytes) {
    reading_t *reading = calloc(1, sizeof(*reading) + bytes);
    if (reading) {
        reading->basis = basis;
        reading->job.run = run;
        reading->job.done = done;
        reading->job.bytes = bytes;
        reading->status = KVF_ERR_CANCELED;
        reading->form = (kvf_form_t)reply->form;
        reading->num_bytes = bytes;
        memcpy(reading->bytes, payload, bytes);
    }
    if (reading && take_bounds(reading, reply)) {
        kvf__job_start(basis->space->client, &reading->job);
        return;
    }
    free(reading);
    kvf__basis_refused(basis, KVF_ERR_NO_MEMORY);
}

/* ---- answers ---- */

/* Rows within an error that is finer than their values are kept to the bit, too: that takes fewer bytes. */
static bool is_form_of(const kvf_policy_t *policy, uint32_t form) {
    if (policy->kind == KVF_POLICY_FUSE) return form == KVF_FORM_FUSED;
    if (form == KVF_FORM_EXACT) return policy->kind == KVF_POLICY_EXACT || policy->kind == KVF_POLICY_ERROR;
    return form == KVF_FORM_BOUNDED && policy->kind != KVF_POLICY_EXACT;
}

static bool are_bounds(const kvf_space_t *space, const Kvf__BasisReply *reply) {
    size_t planes = (size_t)space->layout->layers * space->layout->planes;
    if (reply->n_bounds != (reply->form == KVF_FORM_BOUNDED ? planes : 0)) return false;
    for (size_t i = 0; i < reply->n_bounds; i++)
        if (!(reply->bounds[i] > 0 && reply->bounds[i] <= 1)) return false;
    return true;
}

void kvf__basis_refused(kvf__basis_t *basis, kvf_status_t status) {
    kvf_client_t *client = basis->space->client;
    fail(basis, status);
    tell(client, basis);
    kvf__basis_unref(basis);
}

void kvf__basis_lost(kvf__basis_t *basis) {
    basis->status = KVF_ERR_DISCONNECTED;
    let_go(basis);
    kvf__basis_unref(basis);
}

void kvf__basis_failed(kvf__part_t *part, kvf_status_t status) {
    kvf__basis_t *basis = part->basis;
    part->basis = NULL; /* its reference is ours */
    kvf__part_end(part, status);
    kvf__basis_refused(basis, status);
}

void kvf__basis_answered(kvf__part_t *part, const Kvf__BasisReply *reply, const uint8_t *payload,
                         uint64_t payload_bytes) {
    kvf__basis_t *basis = part->basis;
    const kvf_space_t *space = basis->space;
    bool is_failure = reply->status < 0 && kvf_status_is_known(reply->status);
    if (!is_failure && (reply->status != KVF_OK || reply->version != basis->version ||
                        !is_form_of(&space->policy, reply->form) || !are_bounds(space, reply))) {
        kvf__part_refuse(part, "a basis that is none of its space");
        return;
    }
    if (is_failure) {
        kvf__basis_failed(part, (kvf_status_t)reply->status);
        return;
    }
    part->basis = NULL;
    kvf__part_end(part, KVF_OK);
    start_reading(basis, reply, payload, payload_bytes);
}

#include "daemon/directory.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <utlist.h>
#include <uv.h>

struct kvf_directory {
    pthread_mutex_t lock;
    kvf_card_t *cards;
    unsigned entered;    /* connections */
    unsigned count, max; /* those that are sessions */
    uint64_t last_session;
};

kvf_directory_t *kvf_directory_create(unsigned max_sessions) {
    kvf_directory_t *directory = calloc(1, sizeof(*directory));
    if (!directory) return NULL;
    pthread_mutex_init(&directory->lock, NULL);
    directory->max = max_sessions;
    return directory;
}

void kvf_directory_destroy(kvf_directory_t *directory) {
    if (!directory) return;
    pthread_mutex_destroy(&directory->lock);
    free(directory);
}

bool kvf_directory_enter(kvf_directory_t *directory) {
    pthread_mutex_lock(&directory->lock);
    bool has_place = directory->entered < directory->max + KVF_DIRECTORY_GUESTS_MAX;
    directory->entered += has_place;
    pthread_mutex_unlock(&directory->lock);
    return has_place;
}

void kvf_directory_leave(kvf_directory_t *directory) {
    pthread_mutex_lock(&directory->lock);
    directory->entered--;
    pthread_mutex_unlock(&directory->lock);
}

kvf_status_t kvf_directory_add(kvf_directory_t *directory, kvf_card_t *card, unsigned service) {
    memset(card, 0, sizeof(*card));
    if (getrandom(card->token, sizeof(card->token), 0) != (ssize_t)sizeof(card->token)) return KVF_ERR_INTERNAL;
    card->service = service;
    card->since_ns = uv_hrtime();
    kvf_status_t status = KVF_ERR_BUSY;
    pthread_mutex_lock(&directory->lock);
    if (directory->count < directory->max) {
        status = KVF_OK;
        directory->count++;
        card->session = ++directory->last_session;
        DL_APPEND(directory->cards, card);
    }
    pthread_mutex_unlock(&directory->lock);
    return status;
}

void kvf_directory_introduce(kvf_directory_t *directory, kvf_card_t *card, const char *name, uint32_t pid) {
    pthread_mutex_lock(&directory->lock);
    strncpy(card->name, name, sizeof(card->name) - 1);
    card->pid = pid;
    pthread_mutex_unlock(&directory->lock);
}

void kvf_directory_remove(kvf_directory_t *directory, kvf_card_t *card) {
    pthread_mutex_lock(&directory->lock);
    DL_DELETE(directory->cards, card);
    directory->count--;
    pthread_mutex_unlock(&directory->lock);
}

bool kvf_directory_check(kvf_directory_t *directory, uint64_t session, const uint8_t token[KVF_TOKEN_BYTES],
                         unsigned *service) {
    bool found = false;
    pthread_mutex_lock(&directory->lock);
    kvf_card_t *card;
    DL_SEARCH_SCALAR(directory->cards, card, session, session);
    if (card) {
        unsigned differ = 0;
        for (size_t i = 0; i < KVF_TOKEN_BYTES; i++) differ |= (unsigned)(card->token[i] ^ token[i]);
        found = differ == 0;
        *service = card->service;
    }
    pthread_mutex_unlock(&directory->lock);
    return found;
}

static uint64_t read_count(_Atomic uint64_t *count) { return atomic_load_explicit(count, memory_order_relaxed); }

void kvf_directory_print(kvf_directory_t *directory, kvf_text_t *text) {
    uint64_t now = uv_hrtime();
    pthread_mutex_lock(&directory->lock);
    for (kvf_card_t *card = directory->cards; card; card = card->next) {
        kvf_text_printf(text, "session=%" PRIu64 " name=", card->session);
        kvf_text_append_escaped(text, card->name, strlen(card->name));
        kvf_text_printf(text,
                        " pid=%" PRIu32 " age_s=%" PRIu64 " thread=%u transport=%s requests=%" PRIu64
                        " in_flight=%" PRIu64 " bytes_in=%" PRIu64 " bytes_out=%" PRIu64 "\n",
                        card->pid, (now - card->since_ns) / 1000000000u, card->service,
                        atomic_load(&card->is_shared) ? "shared" : "network", read_count(&card->requests),
                        read_count(&card->in_flight), read_count(&card->bytes_in), read_count(&card->bytes_out));
    }
    pthread_mutex_unlock(&directory->lock);
}

/* roundtrip.c - puts one block, matches it, gets it back.   cc roundtrip.c $(pkg-config --cflags --libs kvfuse) */
#include <kvfuse.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(kvf_status_t status, const char *what, const kvf_error_t *error) {
    if (status == KVF_OK || status == KVF_EXISTS) return;
    fprintf(stderr, "%s: %s%s%s\n", what, kvf_status_text(status), error ? ": " : "", error ? error->text : "");
    exit(1);
}

int main(int argc, char **argv) {
    kvf_client_options_t options;
    kvf_client_options_init(&options);
    if (argc > 1) options.address = argv[1];

    kvf_error_t error;
    kvf_client_t *client;
    check(kvf_connect(&options, &client, &error), "connect", &error);

    kvf_layout_t layout = {.layers = 30, .planes = 2, .kv_heads = 3, .head_dim = 64, .block_tokens = 16};
    layout.dtype = KVF_BF16;
    layout.rope_style = KVF_ROPE_NONE; /* a model with RoPE says so here, and gives its frequencies */
    layout.model = "example-135M";
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT};
    kvf_space_t *space;
    check(kvf_space_open(client, "example", &layout, &policy, &space, &error), "open", &error);

    size_t bytes = kvf_layout_block_bytes(&layout);
    void *memory; /* the block, and room to read it back */
    check(kvf_memory_alloc(client, 2 * bytes, &memory), "alloc", NULL);
    unsigned char *sent = memory, *received = sent + bytes;
    for (size_t i = 0; i < bytes; i++) sent[i] = (unsigned char)(i * 7);

    kvf_piece_t piece = {.base = sent, .bytes = bytes};
    kvf_block_t block = {.key = {"prefix-0", 8}, .pieces = &piece, .num_pieces = 1};
    kvf_request_t request;
    size_t matched;
    check(kvf_put(space, &block, 1, NULL, NULL, &request), "put", NULL);
    check(kvf_wait_request(client, request, NULL), "put", NULL);
    check(kvf_match(space, &block.key, 1, NULL, &request), "match", NULL);
    check(kvf_wait_request(client, request, &matched), "match", NULL);
    piece.base = received;
    check(kvf_get(space, &block, 1, NULL, NULL, &request), "get", NULL);
    check(kvf_wait_request(client, request, NULL), "get", NULL);

    bool same = memcmp(sent, received, bytes) == 0;
    printf("%zu of 1 matched, %zu bytes came back %s\n", matched, bytes, same ? "as they were" : "CHANGED");
    kvf_close(client);
    return same && matched == 1 ? 0 : 1;
}

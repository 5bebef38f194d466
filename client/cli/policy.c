/* policy.c - the options of commands that use a space: its policy, who codes what is put, and what rows are held to then. */
#include "client/cli/cli.h"

#include <math.h>
#include <string.h>

static error_t parse_policy(int key, char *argument, struct argp_state *state) {
    kvf_error_t error;
    if (key != 'p') return ARGP_ERR_UNKNOWN;
    if (kvf_policy_parse(argument, state->input, &error) != KVF_OK) argp_error(state, "--policy: %s", error.text);
    return 0;
}

static error_t parse_put_mode(int key, char *argument, struct argp_state *state) {
    kvf_cli_connection_t *connection = state->input;
    if (key != 'M') return ARGP_ERR_UNKNOWN;
    if (!strcmp(argument, "raw"))
        connection->put_mode = KVF_PUT_RAW;
    else if (!strcmp(argument, "fused"))
        connection->put_mode = KVF_PUT_FUSED;
    else
        argp_error(state, "--put-mode is raw or fused, not '%s'", argument);
    return 0;
}

static const struct argp_option policy_options[] = {
    {"policy", 'p', "POLICY", 0, "Of the space: exact, 'error E', 'error K=E,V=E', 'ratio R' or 'fuse T' (exact)", 0},
    {0}};
const struct argp kvf_cli_policy_argp = {.options = policy_options, .parser = parse_policy};

static const struct argp_option put_mode_options[] = {
    {"put-mode", 'M', "raw|fused", 0, "Blocks are coded by the daemon, or here and then sent (raw)", 0}, {0}};
const struct argp kvf_cli_put_mode_argp = {.options = put_mode_options, .parser = parse_put_mode};

double kvf_cli_bound(const kvf_policy_t *policy, const float told[2], unsigned plane) {
    if (policy->kind == KVF_POLICY_EXACT) return 0;
    if (policy->kind == KVF_POLICY_ERROR) return (double)(plane == 0 ? policy->error_k : policy->error_v);
    if (policy->kind == KVF_POLICY_FUSE && told[plane] > 0) return INFINITY;
    return (double)told[plane];
}

void kvf_cli_fill(uint8_t *to, size_t bytes, uint64_t seed) {
    uint64_t value = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        value = value * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        uint64_t mixed = value ^ (value >> 29);
        uint64_t values = (mixed & UINT64_C(0x807f807f807f807f)) | UINT64_C(0x3f803f803f803f80);
        memcpy(to + i, &values, 8);
    }
}

/* fuse_policy.c - policies as they are written. */
#include "client/cli/fuse.h"
#include "fusion/policy.h"

#include <math.h>
#include <string.h>

/* A finite number that is all of `text`. */
static bool read_number(const char *text, double *value) {
    char *end;
    if (!strchr("0123456789.", *text) || !*text) return false; /* strtod knows signs, spaces, "inf" and "nan" */
    *value = strtod(text, &end);
    return !*end && isfinite(*value);
}

typedef struct policy_form {
    const char *name;
    kvf_fuse_kind_t kind;
    bool (*read)(const char *text, kvf_fuse_policy_t *policy); /* what follows the name; NULL: nothing does */
    const char *wants;
} policy_form_t;

static bool read_threshold(const char *text, kvf_fuse_policy_t *policy) {
    return read_number(text, &policy->threshold) && policy->threshold > 0 && policy->threshold <= 1;
}

#define THRESHOLD "a cosine above 0 and at most 1"

static const policy_form_t forms[] = {
    {"int8", KVF_FUSE_INT8, NULL, NULL},
    {"int4", KVF_FUSE_INT4, NULL, NULL},
    {"ff", KVF_FUSE_FF, read_threshold, THRESHOLD},
    {"bff", KVF_FUSE_BFF, read_threshold, THRESHOLD},
    {"cff", KVF_FUSE_CFF, read_threshold, THRESHOLD},
    {"guarded", KVF_FUSE_GUARDED, read_threshold, THRESHOLD},
};
enum { NUM_FORMS = sizeof(forms) / sizeof(forms[0]) };

/* Those that a space may have as well, read as there. */
static const char *const space_kinds[] = {"exact", "error", "ratio"};
enum { NUM_SPACE_KINDS = sizeof(space_kinds) / sizeof(space_kinds[0]) };

static bool read_of_space(const char *text, kvf_fuse_policy_t *policy, char *why, size_t why_bytes) {
    kvf_policy_t read;
    kvf_error_t error;
    if (kvf_policy_parse(text, &read, &error) != KVF_OK) {
        snprintf(why, why_bytes, "%s", error.text);
        return false;
    }
    policy->kind = read.kind == KVF_POLICY_EXACT   ? KVF_FUSE_EXACT
                   : read.kind == KVF_POLICY_ERROR ? KVF_FUSE_ERROR
                                                   : KVF_FUSE_RATIO;
    policy->bounds[0] = (double)read.error_k;
    policy->bounds[1] = (double)read.error_v;
    policy->ratio = (double)read.ratio;
    kvf_policy_print(&read, policy->text, sizeof(policy->text));
    return true;
}

bool kvf_fuse_policy_parse(const char *text, kvf_fuse_policy_t *policy, char *why, size_t why_bytes) {
    size_t length = strcspn(text, " ");
    const char *rest = text + length + strspn(text + length, " ");
    memset(policy, 0, sizeof(*policy));
    for (size_t i = 0; i < NUM_SPACE_KINDS; i++)
        if (strlen(space_kinds[i]) == length && strncmp(space_kinds[i], text, length) == 0)
            return read_of_space(text, policy, why, why_bytes);
    for (size_t i = 0; i < NUM_FORMS; i++) {
        const policy_form_t *form = &forms[i];
        if (strlen(form->name) != length || strncmp(form->name, text, length) != 0) continue;
        policy->kind = form->kind;
        bool fits = snprintf(policy->text, sizeof(policy->text), "%s%s%s", form->name, *rest ? " " : "", rest) <
                    (int)sizeof(policy->text);
        if (form->read ? fits && form->read(rest, policy) : !*rest) return true;
        if (form->read)
            snprintf(why, why_bytes, "policy '%s' needs %s, not '%s'", form->name, form->wants, rest);
        else
            snprintf(why, why_bytes, "policy '%s' takes nothing behind it, but has '%s'", form->name, rest);
        return false;
    }
    int used = snprintf(why, why_bytes, "there is no policy '%.*s', but exact, error, ratio", (int)length, text);
    for (size_t i = 0; i < NUM_FORMS && used > 0 && (size_t)used < why_bytes; i++)
        used += snprintf(why + used, why_bytes - (size_t)used, ", %s", forms[i].name);
    return false;
}

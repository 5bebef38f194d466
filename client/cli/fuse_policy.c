/* fuse_policy.c - policies as they are written. */
#include "client/cli/fuse.h"

#include <math.h>
#include <string.h>

/* A finite number that is all of `text`. */
static bool read_number(const char *text, double *value) {
    char *end;
    if (!strchr("0123456789.", *text) || !*text) return false; /* strtod knows signs, spaces, "inf" and "nan" */
    *value = strtod(text, &end);
    return !*end && isfinite(*value);
}

static bool read_bound(const char *text, double *bound) {
    return read_number(text, bound) && *bound > 0 && *bound <= 1;
}

/* "E", or "K=E,V=E" in either order. */
static bool read_bounds(const char *text, double bounds[KVF_FUSE_PLANES]) {
    if (read_bound(text, &bounds[0])) {
        bounds[1] = bounds[0];
        return true;
    }
    char copy[KVF_FUSE_TEXT_BYTES];
    if (strlen(text) >= sizeof(copy)) return false;
    strcpy(copy, text);
    char *comma = strchr(copy, ',');
    if (!comma) return false;
    *comma = 0;
    const char *parts[KVF_FUSE_PLANES] = {copy, comma + 1};
    bool found[KVF_FUSE_PLANES] = {false};
    for (int i = 0; i < KVF_FUSE_PLANES; i++) {
        int plane = parts[i][0] == 'K' ? 0 : 1;
        if ((parts[i][0] != 'K' && parts[i][0] != 'V') || parts[i][1] != '=' || found[plane] ||
            !read_bound(parts[i] + 2, &bounds[plane]))
            return false;
        found[plane] = true;
    }
    return true;
}

typedef struct policy_form {
    const char *name;
    kvf_fuse_kind_t kind;
    bool (*read)(const char *text, kvf_fuse_policy_t *policy); /* what follows the name; NULL: nothing does */
    const char *wants;
} policy_form_t;

static bool read_error(const char *text, kvf_fuse_policy_t *policy) { return read_bounds(text, policy->bounds); }

static bool read_threshold(const char *text, kvf_fuse_policy_t *policy) {
    return read_number(text, &policy->threshold) && policy->threshold > 0 && policy->threshold <= 1;
}

static bool read_ratio(const char *text, kvf_fuse_policy_t *policy) {
    return read_number(text, &policy->ratio) && policy->ratio > 1 && policy->ratio <= 1000;
}

#define THRESHOLD "a cosine above 0 and at most 1"

static const policy_form_t forms[] = {
    {"exact", KVF_FUSE_EXACT, NULL, NULL},
    {"error", KVF_FUSE_ERROR, read_error, "E or K=E,V=E, each above 0 and at most 1 ('exact' keeps every bit)"},
    {"ratio", KVF_FUSE_RATIO, read_ratio, "a number above 1 and at most 1000"},
    {"int8", KVF_FUSE_INT8, NULL, NULL},
    {"int4", KVF_FUSE_INT4, NULL, NULL},
    {"ff", KVF_FUSE_FF, read_threshold, THRESHOLD},
    {"bff", KVF_FUSE_BFF, read_threshold, THRESHOLD},
    {"cff", KVF_FUSE_CFF, read_threshold, THRESHOLD},
    {"guarded", KVF_FUSE_GUARDED, read_threshold, THRESHOLD},
};
enum { NUM_FORMS = sizeof(forms) / sizeof(forms[0]) };

bool kvf_fuse_policy_parse(const char *text, kvf_fuse_policy_t *policy, char *why, size_t why_bytes) {
    size_t length = strcspn(text, " ");
    const char *rest = text + length + strspn(text + length, " ");
    memset(policy, 0, sizeof(*policy));
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
    int used = snprintf(why, why_bytes, "there is no policy '%.*s', but", (int)length, text);
    for (size_t i = 0; i < NUM_FORMS && used > 0 && (size_t)used < why_bytes; i++)
        used += snprintf(why + used, why_bytes - (size_t)used, "%s %s", i ? "," : "", forms[i].name);
    return false;
}

#include "fusion/policy.h"

#include "fusion/why.h"

#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *kvf_policy_kind_name(kvf_policy_kind_t kind) {
    switch (kind) {
    case KVF_POLICY_EXACT: return "exact";
    case KVF_POLICY_ERROR: return "error";
    case KVF_POLICY_RATIO: return "ratio";
    case KVF_POLICY_FUSE: return "fuse";
    }
    return "?";
}

/* ---- numbers ---- */

/* Whether `text` is digits with at most one point and an exponent: strtof also takes signs, blanks, "0x1", "inf" and "nan". */
static bool is_number(const char *text) {
    size_t whole = strspn(text, "0123456789"), part = 0;
    text += whole;
    if (*text == '.') {
        part = strspn(++text, "0123456789");
        text += part;
    }
    if (whole + part == 0) return false;
    if (*text == 'e' || *text == 'E') {
        text++;
        if (*text == '+' || *text == '-') text++;
        size_t digits = strspn(text, "0123456789");
        if (!digits) return false;
        text += digits;
    }
    return !*text;
}

static bool read_number(const char *text, float *value) {
    if (!is_number(text)) return false;
    locale_t plain = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0); /* a point, where the program's locale has a comma */
    if (!plain) return false;
    *value = strtof_l(text, NULL, plain);
    freelocale(plain);
    return true;
}

enum { NUMBER_BYTES = 24 };

/* The fewest digits that read as the same number. Into `text` [NUMBER_BYTES], which is returned. */
static const char *print_number(float value, char *text) {
    float back;
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, NUMBER_BYTES, "%.*g", digits, (double)value);
        char *comma = strchr(text, ','); /* of the program's locale */
        if (comma) *comma = '.';
        if (read_number(text, &back) && back == value) break;
    }
    return text;
}

/* ---- check ---- */

static bool is_bound(float bound) { return bound > 0 && bound <= 1; }
static bool is_ratio(float ratio) { return ratio >= 1.5f && ratio <= 64; }
static bool is_cosine(float tau) { return tau >= 0.5f && tau < 1; }

/* One number of a policy. NaN is in no range, and is not 0. */
typedef struct field {
    const char *name, *range;
    kvf_policy_kind_t kind; /* that has it */
    size_t offset;
    bool (*is_in_range)(float value);
} field_t;

static const field_t fields[] = {
    {"error_k", "above 0 and at most 1", KVF_POLICY_ERROR, offsetof(kvf_policy_t, error_k), is_bound},
    {"error_v", "above 0 and at most 1", KVF_POLICY_ERROR, offsetof(kvf_policy_t, error_v), is_bound},
    {"ratio", "1.5 to 64", KVF_POLICY_RATIO, offsetof(kvf_policy_t, ratio), is_ratio},
    {"tau", "0.5 or more and below 1", KVF_POLICY_FUSE, offsetof(kvf_policy_t, tau), is_cosine},
};
enum { NUM_FIELDS = sizeof(fields) / sizeof(fields[0]) };

static float value_of(const kvf_policy_t *policy, const field_t *field) {
    float value;
    memcpy(&value, (const char *)policy + field->offset, sizeof(value));
    return value;
}

kvf_status_t kvf_policy_check(const kvf_policy_t *policy, char *why, size_t why_bytes) {
    if (kvf_policy_kind_name(policy->kind)[0] == '?')
        return kvf__fail_why(KVF_ERR_POLICY, why, why_bytes, "policy is %d, not one of exact, error, ratio, fuse",
                             (int)policy->kind);
    for (size_t i = 0; i < NUM_FIELDS; i++) {
        const field_t *field = &fields[i];
        float value = value_of(policy, field);
        bool is_own = field->kind == policy->kind;
        if (is_own ? field->is_in_range(value) : value == 0) continue;
        char text[NUMBER_BYTES];
        return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "%s is %s, must be %s with policy %s", field->name,
                             print_number(value, text), is_own ? field->range : "0",
                             kvf_policy_kind_name(policy->kind));
    }
    return KVF_OK;
}

/* ---- compare ---- */

kvf_status_t kvf_policy_compare(const kvf_policy_t *made, const kvf_policy_t *asked, char *why, size_t why_bytes) {
    if (made->kind != asked->kind)
        return kvf__fail_why(KVF_ERR_POLICY, why, why_bytes, "policy: the space has %s, asked for %s",
                             kvf_policy_kind_name(made->kind), kvf_policy_kind_name(asked->kind));
    for (size_t i = 0; i < NUM_FIELDS; i++) {
        float mine = value_of(made, &fields[i]), theirs = value_of(asked, &fields[i]);
        if (mine == theirs) continue;
        char one[NUMBER_BYTES], two[NUMBER_BYTES];
        return kvf__fail_why(KVF_ERR_POLICY, why, why_bytes, "%s: the space has %s, asked for %s", fields[i].name,
                             print_number(mine, one), print_number(theirs, two));
    }
    return KVF_OK;
}

/* ---- read ---- */

/* "E", or "K=E,V=E" in either order. */
static bool read_bounds(const char *text, kvf_policy_t *policy) {
    if (read_number(text, &policy->error_k)) {
        policy->error_v = policy->error_k;
        return true;
    }
    char copy[KVF_POLICY_TEXT_BYTES];
    if (strlen(text) >= sizeof(copy)) return false;
    strcpy(copy, text);
    char *comma = strchr(copy, ',');
    if (!comma) return false;
    *comma = 0;
    const char *first = copy, *second = comma + 1, *k = first[0] == 'K' ? first : second,
               *v = k == first ? second : first;
    return strncmp(k, "K=", 2) == 0 && strncmp(v, "V=", 2) == 0 && read_number(k + 2, &policy->error_k) &&
           read_number(v + 2, &policy->error_v);
}

static bool read_nothing(const char *text, kvf_policy_t *policy) {
    (void)policy;
    return !*text;
}
static bool read_ratio(const char *text, kvf_policy_t *policy) { return read_number(text, &policy->ratio); }
static bool read_tau(const char *text, kvf_policy_t *policy) { return read_number(text, &policy->tau); }

typedef struct form {
    kvf_policy_kind_t kind;
    bool (*read)(const char *text, kvf_policy_t *policy); /* what follows the name */
    const char *wants;
} form_t;

static const form_t forms[] = {
    {KVF_POLICY_EXACT, read_nothing, "takes nothing behind it, but has"},
    {KVF_POLICY_ERROR, read_bounds, "needs E or K=E,V=E, each above 0 and at most 1 ('exact' keeps every bit), not"},
    {KVF_POLICY_RATIO, read_ratio, "needs a number of 1.5 to 64, not"},
    {KVF_POLICY_FUSE, read_tau, "needs a cosine of 0.5 or more and below 1, not"},
};

kvf_status_t kvf_policy_read(const char *text, kvf_policy_t *policy, char *why, size_t why_bytes) {
    size_t length = strcspn(text, " ");
    const char *rest = text + length + strspn(text + length, " ");
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        const char *name = kvf_policy_kind_name(forms[i].kind);
        if (strlen(name) != length || strncmp(name, text, length) != 0) continue;
        kvf_policy_t read = {.kind = forms[i].kind};
        if (!forms[i].read(rest, &read) || kvf_policy_check(&read, NULL, 0) != KVF_OK)
            return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "policy '%s' %s '%.64s'", name, forms[i].wants, rest);
        *policy = read;
        return KVF_OK;
    }
    return kvf__fail_why(KVF_ERR_INVALID, why, why_bytes, "there is no policy '%.64s', but exact, error, ratio, fuse",
                         text);
}

/* ---- print ---- */

char *kvf_policy_print(const kvf_policy_t *policy, char *text, size_t bytes) {
    const char *name = kvf_policy_kind_name(policy->kind);
    char one[NUMBER_BYTES], two[NUMBER_BYTES];
    switch (policy->kind) {
    case KVF_POLICY_ERROR:
        if (policy->error_k == policy->error_v)
            snprintf(text, bytes, "%s %s", name, print_number(policy->error_k, one));
        else
            snprintf(text, bytes, "%s K=%s,V=%s", name, print_number(policy->error_k, one),
                     print_number(policy->error_v, two));
        break;
    case KVF_POLICY_RATIO: snprintf(text, bytes, "%s %s", name, print_number(policy->ratio, one)); break;
    case KVF_POLICY_FUSE: snprintf(text, bytes, "%s %s", name, print_number(policy->tau, one)); break;
    default: snprintf(text, bytes, "%s", name);
    }
    return text;
}

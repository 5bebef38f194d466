/* options_value.c - one value of an option: text to field and back. */
#include "daemon/options_internal.h"
#include "transport/log.h"

#include <inttypes.h>
#include <string.h>

typedef struct suffix {
    const char *text;
    uint64_t factor;
} suffix_t;

/* The first row of a factor is the one that is printed. */
static const suffix_t byte_suffixes[] = {
    {"TiB", UINT64_C(1) << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1},
    {"T", UINT64_C(1) << 40},   {"G", 1 << 30},   {"M", 1 << 20},   {"K", 1 << 10},   {NULL, 0},
};
static const suffix_t count_suffixes[] = {{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"", 1}, {"Ki", 1 << 10}, {NULL, 0}};
static const suffix_t ms_suffixes[] = {{"s", 1000}, {"ms", 1}, {"", 1}, {NULL, 0}};

typedef struct kind {
    const suffix_t *suffixes;
    const char *form;
} kind_t;

static const kind_t kinds[] = {
    [KVF__OPTION_BYTES] = {byte_suffixes, "is not a size like 1048576, 512K, 64MiB or 8GiB"},
    [KVF__OPTION_COUNT] = {count_suffixes, "is not a number like 4096 or 64Mi"},
    [KVF__OPTION_MS] = {ms_suffixes, "is not a time like 30s, 500ms or 500 (milliseconds)"},
};

static bool fail(char *why, const char *text, const char *reason) {
    char shown[96];
    bool cut;
    (void)kvf_log_escape(shown, sizeof(shown), text, strlen(text), &cut);
    (void)snprintf(why, KVF__OPTION_WHY_BYTES, "'%s%s' %s", shown, cut ? "..." : "", reason);
    return false;
}

static bool read_digits(const char **text, unsigned base, uint64_t *value) {
    const char *at = *text;
    uint64_t sum = 0;
    for (; *at >= '0' && *at < (char)('0' + (char)base); at++)
        if (__builtin_mul_overflow(sum, base, &sum) || __builtin_add_overflow(sum, (uint64_t)(*at - '0'), &sum))
            return false;
    if (at == *text) return false;
    *text = at;
    *value = sum;
    return true;
}

static bool set_number(const kvf__option_t *row, const char *text, uint64_t *value, char *why) {
    const kind_t *kind = &kinds[row->type];
    const suffix_t *suffix = kind->suffixes;
    const char *rest = text;
    uint64_t number;
    if (!read_digits(&rest, 10, &number)) return fail(why, text, kind->form);
    while (suffix->text && strcmp(suffix->text, rest) != 0) suffix++;
    if (!suffix->text || __builtin_mul_overflow(number, suffix->factor, &number)) return fail(why, text, kind->form);
    if (number == 0 && row->zero) {
        *value = 0;
        return true;
    }
    if (number < row->min || number > row->max) {
        char min[KVF_OPTION_STRING_BYTES], max[KVF_OPTION_STRING_BYTES], reason[KVF_OPTION_STRING_BYTES];
        kvf__option_format_number(row->type, row->min, min);
        kvf__option_format_number(row->type, row->max, max);
        (void)snprintf(reason, sizeof(reason), "is outside %.30s to %.30s%s%s", min, max, row->zero ? ", or 0: " : "",
                       row->zero ? row->zero : "");
        return fail(why, text, reason);
    }
    *value = number;
    return true;
}

static bool set_mode(const kvf__option_t *row, const char *text, uint32_t *mode, char *why) {
    const char *rest = text;
    uint64_t number;
    if (!read_digits(&rest, 8, &number) || *rest || number > row->max)
        return fail(why, text, "is not an octal file mode like 0660");
    *mode = (uint32_t)number;
    return true;
}

static bool set_bool(const char *text, bool *value, char *why) {
    static const char *const words[] = {"off", "on", "no", "yes", "false", "true", "0", "1"};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(text, words[i]) == 0) {
            *value = i % 2 == 1;
            return true;
        }
    return fail(why, text, "is neither on nor off");
}

static bool set_enum(const kvf__option_t *row, const char *text, uint32_t *value, char *why) {
    char reason[128] = "is none of";
    for (uint32_t i = 0; row->names[i]; i++) {
        const size_t used = strlen(reason);
        if (strcmp(text, row->names[i]) == 0) {
            *value = i;
            return true;
        }
        (void)snprintf(reason + used, sizeof(reason) - used, "%s%s", i ? ", " : " ", row->names[i]);
    }
    return fail(why, text, reason);
}

/* Whatever is taken here must come back from a config file as it was. */
static bool set_string(const kvf__option_t *row, const char *text, char *value, char *why) {
    const size_t size = strlen(text);
    if (size >= KVF_OPTION_STRING_BYTES) return fail(why, text, "is too long");
    for (size_t i = 0; i < size; i++) {
        const unsigned char byte = (unsigned char)text[i];
        if (byte < 0x20 || byte == 0x7f) return fail(why, text, "has a control byte in it");
        if (byte == ' ' && (i == 0 || i + 1 == size)) return fail(why, text, "begins or ends with a blank");
        if ((byte == '#' || byte == ';') && (i == 0 || text[i - 1] == ' '))
            return fail(why, text, "has the sign of a comment in it");
    }
    const char *reason = row->check ? row->check(text) : NULL;
    if (reason) return fail(why, text, reason);
    memset(value, 0, KVF_OPTION_STRING_BYTES);
    memcpy(value, text, size);
    return true;
}

bool kvf__option_set(const kvf__option_t *row, kvf_options_t *options, const char *text, char *why) {
    void *field = (char *)options + row->offset;
    switch (row->type) {
    case KVF__OPTION_BOOL: return set_bool(text, field, why);
    case KVF__OPTION_STRING: return set_string(row, text, field, why);
    case KVF__OPTION_ENUM: return set_enum(row, text, field, why);
    case KVF__OPTION_MODE: return set_mode(row, text, field, why);
    case KVF__OPTION_BYTES:
    case KVF__OPTION_COUNT:
    case KVF__OPTION_MS: break;
    }
    return set_number(row, text, field, why);
}

void kvf__option_format_number(kvf__option_type_t type, uint64_t value, char *out) {
    if (type == KVF__OPTION_MODE) {
        (void)snprintf(out, KVF_OPTION_STRING_BYTES, "%04" PRIo64, value);
        return;
    }
    const suffix_t *suffix = kinds[type].suffixes;
    while (value % suffix->factor != 0) suffix++; /* ends at the factor 1 */
    (void)snprintf(out, KVF_OPTION_STRING_BYTES, "%" PRIu64 "%s", value / suffix->factor, value ? suffix->text : "");
}

void kvf__option_format(const kvf__option_t *row, const kvf_options_t *options, char *out) {
    const void *field = (const char *)options + row->offset;
    switch (row->type) {
    case KVF__OPTION_BOOL:
        (void)snprintf(out, KVF_OPTION_STRING_BYTES, "%s", *(const bool *)field ? "on" : "off");
        return;
    case KVF__OPTION_STRING: memcpy(out, field, KVF_OPTION_STRING_BYTES); return;
    case KVF__OPTION_ENUM:
        (void)snprintf(out, KVF_OPTION_STRING_BYTES, "%s", row->names[*(const uint32_t *)field]);
        return;
    case KVF__OPTION_MODE: kvf__option_format_number(row->type, *(const uint32_t *)field, out); return;
    case KVF__OPTION_BYTES:
    case KVF__OPTION_COUNT:
    case KVF__OPTION_MS: break;
    }
    kvf__option_format_number(row->type, *(const uint64_t *)field, out);
}

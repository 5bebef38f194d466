/* options_internal.h - the table of options and what reads and writes one value of it. For daemon/options*.c alone. */
#ifndef KVF_DAEMON_OPTIONS_INTERNAL_H
#define KVF_DAEMON_OPTIONS_INTERNAL_H

#include "daemon/options.h"

typedef enum kvf__option_type {
    KVF__OPTION_BYTES,  /* uint64_t */
    KVF__OPTION_COUNT,  /* uint64_t */
    KVF__OPTION_MS,     /* uint64_t */
    KVF__OPTION_BOOL,   /* bool */
    KVF__OPTION_STRING, /* char [KVF_OPTION_STRING_BYTES] */
    KVF__OPTION_ENUM,   /* uint32_t, an index of `names` */
    KVF__OPTION_MODE,   /* uint32_t, written in octal */
} kvf__option_type_t;

/* NULL if `text` is right for the option, else why not (static, continues "'text' …"). */
typedef const char *(*kvf__option_check_fn)(const char *text);

typedef struct kvf__option {
    const char *group; /* heading in --help; rows of a group are neighbours */
    const char *name;
    kvf__option_type_t type;
    const char *initial; /* the default, as a user would write it */
    uint64_t min, max;   /* of numbers, inclusive */
    const char *zero;    /* what 0 stands for where it is allowed below `min`, else NULL */
    const char *unit;    /* the value's name in --help */
    const char *description;
    size_t offset;              /* in kvf_options_t */
    const char *const *names;   /* of an enum, NULL-terminated */
    kvf__option_check_fn check; /* of a string, may be NULL */
} kvf__option_t;

extern const kvf__option_t kvf__option_table[];
extern const size_t kvf__option_count;
enum { KVF__OPTIONS_MAX = 64, KVF__OPTION_WHY_BYTES = 320 };

/* Index of the option of that name, kvf__option_count if there is none. */
size_t kvf__option_find(const char *name);
/* Takes `text` as the value of `row`. On failure false, and `why` ([KVF__OPTION_WHY_BYTES]) says what is wrong with it.
 */
bool kvf__option_set(const kvf__option_t *row, kvf_options_t *options, const char *text, char *why);
/* The value of `row` as kvf__option_set reads it, into `out` [KVF_OPTION_STRING_BYTES]. */
void kvf__option_format(const kvf__option_t *row, const kvf_options_t *options, char *out);
/* A number of that type in its shortest exact form ("8GiB", "30s"), into `out` [KVF_OPTION_STRING_BYTES]. */
void kvf__option_format_number(kvf__option_type_t type, uint64_t value, char *out);

/* Fills `error`; bytes outside printable ASCII are escaped. */
void kvf__options_fail(kvf_options_error_t *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif

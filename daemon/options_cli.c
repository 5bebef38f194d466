/* options_cli.c - the command line: argp's table is made from ours. Values are only noted while argp runs and taken
 * after the config file, because they win over it. */
#include "daemon/options_internal.h"

#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_FIRST = 0x1000, /* of our rows; above the letters, so that they have no short form */
    KEY_PRINT_CONFIG = 0x2000,
    KEY_CONFIG = 'c',
    KEY_HELP = 'h',
    KEY_VERSION = 'V',
    GROUPS_MAX = 16,
    FIXED_OPTIONS = 5, /* heading, --config, --print-config, --help, --version */
    DOC_BYTES = 384,
};

typedef struct cli {
    const char *values[KVF__OPTIONS_MAX]; /* as given, in argv; NULL: not given */
    const char *config;
    size_t last_switch; /* index of a switch that was just given without a value, else kvf__option_count */
    bool help, version, print_config, failed;
    kvf_options_error_t *error;
    struct argp_option options[KVF__OPTIONS_MAX + GROUPS_MAX + FIXED_OPTIONS + 1];
    char docs[KVF__OPTIONS_MAX][DOC_BYTES];
    char units[KVF__OPTIONS_MAX][64];
} cli_t;

static error_t fail(cli_t *cli, const char *what, const char *arg) {
    if (!cli->failed) kvf__options_fail(cli->error, "%s '%.200s', see --help", what, arg);
    cli->failed = true;
    return EINVAL;
}

/* "--busy-poll on": argp takes optional values only after a =, so the word arrives here. */
static error_t take_word(cli_t *cli, const char *arg) {
    kvf_options_t scratch;
    char why[KVF__OPTION_WHY_BYTES];
    const size_t i = cli->last_switch;
    cli->last_switch = kvf__option_count;
    if (i == kvf__option_count || !kvf__option_set(&kvf__option_table[i], &scratch, arg, why))
        return fail(cli, "unexpected argument", arg);
    cli->values[i] = arg;
    return 0;
}

static error_t take_argument(int key, char *arg, struct argp_state *state) {
    cli_t *cli = state->input;
    if (key == ARGP_KEY_ARG) return take_word(cli, arg);
    /* argp says no more than that it did not understand the word before `next`. */
    if (key == ARGP_KEY_ERROR)
        return fail(cli,
                    "unknown option, or one without its value:", state->next > 0 ? state->argv[state->next - 1] : "");
    if (key >= KEY_FIRST && (size_t)key < KEY_FIRST + kvf__option_count) {
        const size_t i = (size_t)key - KEY_FIRST;
        cli->values[i] = arg ? arg : "on";
        cli->last_switch = arg ? kvf__option_count : i;
        return 0;
    }
    switch (key) {
    case KEY_HELP: cli->help = true; break;
    case KEY_VERSION: cli->version = true; break;
    case KEY_PRINT_CONFIG: cli->print_config = true; break;
    case KEY_CONFIG: cli->config = arg; break;
    default: return ARGP_ERR_UNKNOWN;
    }
    cli->last_switch = kvf__option_count;
    return 0;
}

static void fill_row(cli_t *cli, struct argp_option *option, size_t i, int group) {
    const kvf__option_t *row = &kvf__option_table[i];
    const char *unit = row->unit;
    if (row->names) { /* on|off */
        size_t used = 0;
        for (size_t k = 0; row->names[k] && used < sizeof(cli->units[i]); k++)
            used += (size_t)snprintf(cli->units[i] + used, sizeof(cli->units[i]) - used, "%s%s", k ? "|" : "",
                                     row->names[k]);
        unit = cli->units[i];
    }
    (void)snprintf(cli->docs[i], DOC_BYTES, "%s (default: %s%s%s)", row->description,
                   *row->initial ? row->initial : "empty", row->zero ? "; 0: " : "", row->zero ? row->zero : "");
    *option = (struct argp_option){.name = row->name,
                                   .key = KEY_FIRST + (int)i,
                                   .arg = unit,
                                   .flags = row->type == KVF__OPTION_BOOL ? OPTION_ARG_OPTIONAL : 0,
                                   .doc = cli->docs[i],
                                   .group = group};
}

static void fill_options(cli_t *cli) {
    static const struct argp_option fixed[FIXED_OPTIONS] = {
        {.doc = "Program"},
        {.name = "config",
         .key = KEY_CONFIG,
         .arg = "FILE",
         .doc = "Take options from FILE; the command line wins over it"},
        {.name = "print-config",
         .key = KEY_PRINT_CONFIG,
         .doc = "Print a config file of the options as they are, and exit"},
        {.name = "help", .key = KEY_HELP, .doc = "Print this, and exit"},
        {.name = "version", .key = KEY_VERSION, .doc = "Print the version, and exit"},
    };
    struct argp_option *next = cli->options;
    const char *heading = NULL;
    int group = 1;
    for (int i = 0; i < FIXED_OPTIONS; i++) {
        *next = fixed[i];
        next++->group = group;
    }
    for (size_t i = 0; i < kvf__option_count; i++) {
        if (kvf__option_table[i].group != heading && group < GROUPS_MAX) {
            heading = kvf__option_table[i].group;
            group++;
            *next++ = (struct argp_option){.doc = heading, .group = group};
        }
        fill_row(cli, next++, i, group);
    }
}

static kvf_status_t read_config(const char *path, kvf_options_t *options, kvf_options_error_t *error) {
    kvf_status_t status = KVF_ERR_NO_MEMORY;
    char *bytes = NULL;
    FILE *file = fopen(path, "re");
    if (!file) {
        status = kvf_status_from_errno(errno);
        kvf__options_fail(error, "%.200s: %s", path, strerror(errno));
        return status;
    }
    bytes = malloc(KVF_CONFIG_FILE_BYTES + 1);
    if (!bytes) {
        kvf__options_fail(error, "%.200s: no memory to read it", path);
        goto err_close;
    }
    errno = 0;
    const size_t size = fread(bytes, 1, KVF_CONFIG_FILE_BYTES + 1, file);
    if (ferror(file)) {
        status = kvf_status_from_errno(errno ? errno : EIO);
        kvf__options_fail(error, "%.200s: %s", path, strerror(errno ? errno : EIO));
    } else if (size > KVF_CONFIG_FILE_BYTES) {
        status = KVF_ERR_TOO_LARGE;
        kvf__options_fail(error, "%.200s: larger than %d bytes", path, KVF_CONFIG_FILE_BYTES);
    } else {
        status = kvf_options_parse_config(options, path, bytes, size, error);
    }
    free(bytes);
err_close:
    (void)fclose(file);
    return status;
}

static kvf_status_t take_values(const cli_t *cli, kvf_options_t *options, kvf_options_error_t *error) {
    for (size_t i = 0; i < kvf__option_count; i++) {
        const kvf__option_t *row = &kvf__option_table[i];
        char why[KVF__OPTION_WHY_BYTES];
        if (!cli->values[i] || kvf__option_set(row, options, cli->values[i], why)) continue;
        kvf__options_fail(error, "--%s: %s", row->name, why);
        return KVF_ERR_INVALID;
    }
    return kvf_options_check(options, error);
}

static kvf_status_t write_config(const kvf_options_t *options, FILE *out, kvf_options_error_t *error) {
    kvf_text_t text;
    kvf_text_init(&text, KVF_OPTIONS_TEXT_BYTES);
    kvf_options_print(options, &text);
    kvf_status_t status = text.status;
    if (status == KVF_OK && (fputs(kvf_text_string(&text), out) < 0 || fflush(out) != 0)) status = KVF_ERR_IO;
    if (status != KVF_OK) kvf__options_fail(error, "cannot print the options: %s", kvf_status_text(status));
    kvf_text_clear(&text);
    return status;
}

static kvf_status_t run_cli(cli_t *cli, kvf_options_t *options, int argc, char **argv, FILE *out, bool *done,
                            kvf_options_error_t *error) {
    static char name[] = "kvfused";
    const struct argp argp = {
        .options = cli->options,
        .parser = take_argument,
        .doc = "Stores KV-cache blocks of LLM serving engines in memory and serves them over UCX.\v"
               "Sizes: 512K, 64MiB, 8GiB (powers of 1024). Times: 500ms, 30s. Every option but the program's "
               "may stand in FILE as `name = value`; # begins a comment."};
    const int rc = argp_parse(&argp, argc, argv, ARGP_NO_HELP | ARGP_NO_ERRS | ARGP_NO_EXIT | ARGP_IN_ORDER, NULL, cli);
    if (rc != 0) {
        if (!cli->failed) kvf__options_fail(error, "cannot read the command line: %s", strerror(rc));
        return rc == EINVAL ? KVF_ERR_INVALID : kvf_status_from_errno(rc);
    }
    if (cli->help || cli->version) {
        *done = true;
        if (cli->help)
            argp_help(&argp, out, ARGP_HELP_SHORT_USAGE | ARGP_HELP_PRE_DOC | ARGP_HELP_LONG | ARGP_HELP_POST_DOC,
                      name);
        else
            (void)fprintf(out, "kvfused %s\n", KVF_VERSION);
        if (fflush(out) == 0 && !ferror(out)) return KVF_OK;
        kvf__options_fail(error, "cannot write: %s", strerror(errno));
        return KVF_ERR_IO;
    }
    kvf_status_t status = cli->config ? read_config(cli->config, options, error) : KVF_OK;
    if (status == KVF_OK) status = take_values(cli, options, error);
    if (status != KVF_OK || !cli->print_config) return status;
    *done = true;
    return write_config(options, out, error);
}

kvf_status_t kvf_options_parse(kvf_options_t *options, int argc, char **argv, FILE *out, bool *done,
                               kvf_options_error_t *error) {
    *done = false;
    error->text[0] = '\0';
    kvf_options_set_defaults(options);
    cli_t *cli = calloc(1, sizeof(*cli));
    if (!cli) {
        kvf__options_fail(error, "out of memory");
        return KVF_ERR_NO_MEMORY;
    }
    cli->error = error;
    cli->last_switch = kvf__option_count;
    fill_options(cli);
    const kvf_status_t status = run_cli(cli, options, argc, argv, out, done, error);
    free(cli);
    return status;
}

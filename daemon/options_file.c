/* options_file.c - the config file. inih splits names and values; our reader gives it one clean line at a time, so that
 * its limits on a line and its multi-line values, which differ between builds of it, never decide what a file means. */
#include "daemon/options_internal.h"
#include "transport/log.h"

#include <ini.h>
#include <string.h>

typedef struct config_reader {
    const char *name; /* of the file, for errors */
    const char *next;
    const char *end;
    unsigned line; /* the one read last, from 1 */
    uint64_t seen; /* a bit an option */
    kvf_options_t *options;
    kvf_options_error_t *error;
    bool failed;
} config_reader_t;

static bool is_blank(char byte) { return byte == ' ' || byte == '\t'; }

static char *fail_line(config_reader_t *reader, const char *what) {
    kvf__options_fail(reader->error, "%s:%u: %s", reader->name, reader->line, what);
    reader->failed = true;
    return NULL;
}

/* Cuts a comment, blanks at both ends and a carriage return off the [*size] bytes at *line. */
static void trim(const char **line, size_t *size) {
    for (size_t i = 0; i < *size; i++)
        if (((*line)[i] == '#' || (*line)[i] == ';') && (i == 0 || is_blank((*line)[i - 1]))) *size = i;
    while (*size && (is_blank((*line)[*size - 1]) || (*line)[*size - 1] == '\r')) (*size)--;
    while (*size && is_blank(**line)) {
        (*line)++;
        (*size)--;
    }
}

/* An ini_reader: the next line into `str` [num], NULL at the end or after an error. */
static char *read_line(char *str, int num, void *stream) {
    config_reader_t *reader = stream;
    if (reader->failed || reader->next == reader->end) return NULL;
    const char *line = reader->next;
    const char *newline = memchr(line, '\n', (size_t)(reader->end - line));
    size_t size = (size_t)((newline ? newline : reader->end) - line);
    reader->next = newline ? newline + 1 : reader->end;
    reader->line++;

    trim(&line, &size);
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)line[i] < 0x20 && line[i] != '\t') return fail_line(reader, "a control byte in the line");
    if (size && line[0] == '[') return fail_line(reader, "sections are not used here");
    if (size && line[0] == '=') return fail_line(reader, "no name before the =");
    if (size && !memchr(line, '=', size)) return fail_line(reader, "not of the form name = value");
    if (num < 2 || size > (size_t)num - 2) return fail_line(reader, "the line is too long");
    memcpy(str, line, size);
    memcpy(str + size, "\n", 2);
    return str;
}

/* An ini_handler: one name and its value. */
static int take_value(void *user, const char *section, const char *name, const char *value) {
    config_reader_t *reader = user;
    char why[KVF__OPTION_WHY_BYTES];
    (void)section; /* read_line lets none through */
    if (reader->failed) return 0;
    const size_t i = kvf__option_find(name);
    if (i == kvf__option_count) {
        kvf__options_fail(reader->error, "%s:%u: there is no option '%.100s'", reader->name, reader->line, name);
    } else if (reader->seen & (UINT64_C(1) << i)) {
        kvf__options_fail(reader->error, "%s:%u: %s is set a second time", reader->name, reader->line, name);
    } else if (!kvf__option_set(&kvf__option_table[i], reader->options, value, why)) {
        kvf__options_fail(reader->error, "%s:%u: %s: %s", reader->name, reader->line, name, why);
    } else {
        reader->seen |= UINT64_C(1) << i;
        return 1;
    }
    reader->failed = true;
    return 0;
}

kvf_status_t kvf_options_parse_config(kvf_options_t *options, const char *name, const char *bytes, size_t count,
                                      kvf_options_error_t *error) {
    config_reader_t reader = {.name = name, .next = bytes, .end = bytes + count, .options = options, .error = error};
    error->text[0] = '\0';
    if (count >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0) reader.next += 3; /* some editors begin a file with it */
    const int rc = ini_parse_stream(read_line, &reader, take_value, &reader);
    if (reader.failed) return KVF_ERR_INVALID;
    if (rc < 0) {
        kvf__options_fail(error, "%s: no memory to read it", name);
        return KVF_ERR_NO_MEMORY;
    }
    if (rc > 0) {
        kvf__options_fail(error, "%s:%d: not of the form name = value", name, rc);
        return KVF_ERR_INVALID;
    }
    return KVF_OK;
}

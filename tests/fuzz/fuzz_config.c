/* fuzz_config.c - a config file of any bytes: taken or rejected with a reason, and what was taken prints as a file that
 * is taken again and means the same. */
#include "daemon/options.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void check(bool holds) {
    if (!holds) abort();
}

/* One line of printable ASCII that names the file. */
static void check_error(const kvf_options_error_t *error) {
    check(memchr(error->text, '\0', sizeof(error->text)) != NULL && strncmp(error->text, "f:", 2) == 0);
    for (const char *at = error->text; *at; at++) check(*at >= ' ' && *at <= '~');
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    kvf_options_t options, again;
    kvf_options_error_t error;
    kvf_text_t text;
    kvf_options_set_defaults(&options);
    const kvf_status_t status = kvf_options_parse_config(&options, "f", (const char *)bytes, count, &error);
    check(status == KVF_OK || status == KVF_ERR_INVALID);
    if (status != KVF_OK) {
        check_error(&error);
        return 0;
    }
    kvf_text_init(&text, KVF_OPTIONS_TEXT_BYTES);
    kvf_options_print(&options, &text);
    check(text.status == KVF_OK);
    kvf_options_set_defaults(&again);
    check(kvf_options_parse_config(&again, "f", text.data, text.size, &error) == KVF_OK);
    check(memcmp(&options, &again, sizeof(options)) == 0);
    kvf_text_clear(&text);
    return 0;
}

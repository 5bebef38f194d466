/* The public header repeats what proto/ and fusion/ declare, and the export map what it declares: they must agree. */
#include "public_header_shape.h"

#include "fusion/layout.h"
#include "fusion/policy.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_text(const char *path) {
    FILE *file = fopen(path, "re");
    cr_assert(file, "cannot open %s", path);
    char *text = calloc(1, 1 << 20);
    cr_assert_gt(fread(text, 1, (1 << 20) - 1, file), 0);
    fclose(file);
    return text;
}

Test(public_header, has_each_status_with_its_number) {
    char *header = read_text(KVF_PUBLIC_HEADER);
    for (unsigned i = 0; i < KVF_STATUS_COUNT; i++) {
        char line[64];
        snprintf(line, sizeof(line), " %s = %d,", kvf_status_name(kvf_status_at(i)), (int)kvf_status_at(i));
        cr_assert(strstr(header, line), "kvfuse.h lacks '%s'", line);
    }
    free(header);
}

Test(public_header, has_no_status_of_its_own) {
    char *header = read_text(KVF_PUBLIC_HEADER), *end = strstr(header, "} kvf_status_t;");
    cr_assert(end);
    *end = 0;
    unsigned count = 0;
    for (char *at = strstr(header, "enum kvf_status {"); (at = strstr(at, "    KVF_")); at++) count++;
    cr_assert_eq(count, KVF_STATUS_COUNT);
    free(header);
}

Test(public_header, structs_have_the_shape_of_the_internal_ones) {
    const size_t shape[] = KVF_LAYOUT_SHAPE;
    cr_assert_eq(sizeof(shape), public_layout_shape_count * sizeof(size_t));
    for (size_t i = 0; i < public_layout_shape_count; i++)
        cr_assert_eq(shape[i], public_layout_shape[i], "field %zu", i);
}

/* Names that look like calls or declarations of ours behind KVF_API. */
static size_t list_functions(char *header, char names[][64], size_t most) {
    size_t count = 0;
    for (char *at = header; (at = strstr(at, "\nKVF_API"));) {
        char *name = strchr(at, '(');
        char *end = name;
        while (isalnum((unsigned char)name[-1]) || name[-1] == '_') name--;
        cr_assert_lt(count, most);
        snprintf(names[count++], 64, "%.*s", (int)(end - name), name);
        at = end;
    }
    return count;
}

Test(public_header, each_function_is_exported_and_nothing_else_is) {
    char *header = read_text(KVF_PUBLIC_HEADER), *map = read_text(KVF_EXPORT_MAP);
    char names[64][64];
    size_t count = list_functions(header, names, 64), lines = 0;
    void *library = dlopen(KVF_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    cr_assert(library, "%s", dlerror());
    for (size_t i = 0; i < count; i++) {
        char line[80];
        snprintf(line, sizeof(line), "    %.63s;", names[i]);
        cr_assert(strstr(map, line), "libkvfuse.map lacks %s", names[i]);
        cr_assert(dlsym(library, names[i]), "libkvfuse.so lacks %s", names[i]);
    }
    for (char *at = map; (at = strstr(at, "    kvf_")); at++) lines++;
    cr_assert_eq(lines, count);
    cr_assert_null(dlsym(library, "kvf_conn_send"));
    cr_assert_null(dlsym(library, "kvf__queue_pump"));
    dlclose(library);
    free(header);
    free(map);
}

Test(public_header, options_have_the_documented_defaults) { cr_assert(public_defaults_are_as_documented()); }

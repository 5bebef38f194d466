#include "client/cli/safetensors.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct image {
    uint8_t *bytes;
    size_t num_bytes;
} image_t;

/* A file with this header and `data_bytes` bytes 0, 1, 2, … behind it. */
static image_t make_image(const char *header, size_t header_bytes, size_t data_bytes) {
    uint64_t length = header_bytes;
    image_t image = {.num_bytes = sizeof(length) + header_bytes + data_bytes};
    image.bytes = malloc(image.num_bytes);
    cr_assert_not_null(image.bytes);
    memcpy(image.bytes, &length, sizeof(length));
    memcpy(image.bytes + sizeof(length), header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) image.bytes[sizeof(length) + header_bytes + i] = (uint8_t)i;
    return image;
}

static kvf_status_t parse(image_t image, kvf_error_t *error) {
    kvf_safetensors_t *file = NULL;
    kvf_status_t status = kvf_safetensors_parse(image.bytes, image.num_bytes, "x.st", &file, error);
    cr_assert_eq(status == KVF_OK, file != NULL);
    kvf_safetensors_close(file);
    return status;
}

static kvf_status_t parse_text(const char *header, size_t data_bytes, kvf_error_t *error) {
    image_t image = make_image(header, strlen(header), data_bytes);
    kvf_status_t status = parse(image, error);
    free(image.bytes);
    return status;
}

static char folder[] = "/tmp/kvf-safetensors-XXXXXX";
static char path[128];

static void make_folder(void) {
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/file.safetensors", folder);
}

static size_t files_in_folder(void) {
    size_t count = 0;
    DIR *dir = opendir(folder);
    cr_assert_not_null(dir);
    while (readdir(dir)) count++;
    closedir(dir);
    return count - 2; /* . and .. */
}

static void remove_folder(void) {
    unlink(path);
    cr_assert_eq(rmdir(folder), 0, "something was left in %s", folder);
}

/* ---- what a good file gives ---- */

static const char good[] = "{\"__metadata__\":{\"b\":\"two\",\"a\":\"one\"},"
                           "\"late\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
                           "\"early\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]}}  ";

Test(safetensors, good_file_gives_tensors_in_order_of_data) {
    image_t image = make_image(good, strlen(good), 20);
    kvf_safetensors_t *file;
    cr_assert_eq(kvf_safetensors_parse(image.bytes, image.num_bytes, "x.st", &file, NULL), KVF_OK);
    size_t count;
    const kvf_tensor_t *tensors = kvf_safetensors_tensors(file, &count);
    cr_assert_eq(count, 2);
    cr_assert_str_eq(tensors[0].name, "early");
    cr_assert_eq(tensors[0].dtype, KVF_TENSOR_I32);
    cr_assert_eq(tensors[0].rank, 1);
    cr_assert_str_eq(tensors[1].name, "late");
    cr_assert_eq(tensors[1].bytes, 12);
    cr_assert_eq(tensors[1].shape[1], 3);
    cr_assert_eq(tensors[1].data, image.bytes + image.num_bytes - 12);
    cr_assert_eq(kvf_safetensors_find(file, "late"), &tensors[1]);
    cr_assert_null(kvf_safetensors_find(file, "__metadata__"));
    cr_assert_str_eq(kvf_safetensors_path(file), "x.st");
    kvf_safetensors_close(file);
    free(image.bytes);
}

Test(safetensors, good_file_gives_metadata_in_order_of_header) {
    image_t image = make_image(good, strlen(good), 20);
    kvf_safetensors_t *file;
    cr_assert_eq(kvf_safetensors_parse(image.bytes, image.num_bytes, "x.st", &file, NULL), KVF_OK);
    size_t count;
    const kvf_metadata_t *metadata = kvf_safetensors_metadata(file, &count);
    cr_assert_eq(count, 2);
    cr_assert_str_eq(metadata[0].key, "b");
    cr_assert_str_eq(metadata[1].value, "one");
    cr_assert_str_eq(kvf_safetensors_find_metadata(file, "b"), "two");
    cr_assert_null(kvf_safetensors_find_metadata(file, "c"));
    kvf_safetensors_close(file);
    free(image.bytes);
}

Test(safetensors, edges_of_the_format_are_allowed) {
    cr_assert_eq(parse_text("{}", 0, NULL), KVF_OK);
    cr_assert_eq(parse_text("{\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}", 8, NULL), KVF_OK);
    cr_assert_eq(parse_text("{\"a\":{\"dtype\":\"F64\",\"shape\":[3,0],\"data_offsets\":[0,0]}}", 0, NULL), KVF_OK);
    cr_assert_eq(parse_text("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
                            "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
                            "\"c\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]}}",
                            4, NULL),
                 KVF_OK, "empty tensors at both ends of one that is not");
}

/* ---- hostile headers ---- */

#define ONE(dtype, shape, offsets) "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(first, second)                                                                                             \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" first "},"                                              \
    "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" second "}}"

static const struct hostile {
    const char *header;
    size_t data_bytes;
    kvf_status_t status;
    const char *says;
} hostile[] = {
    {"", 8, KVF_ERR_INVALID, "does not begin with '{'"},
    {" {}", 0, KVF_ERR_INVALID, "does not begin with '{'"},
    {"[1]", 0, KVF_ERR_INVALID, "does not begin with '{'"},
    {"{\"a\":", 0, KVF_ERR_INVALID, "no JSON"},
    {"{} x", 0, KVF_ERR_INVALID, "no JSON"},
    {"{\"a\\u0000b\":1}", 0, KVF_ERR_INVALID, "no JSON"},
    {"{\"\xff\":1}", 0, KVF_ERR_INVALID, "no JSON"},
    {"{\"a\":1,\"a\":2}", 0, KVF_ERR_INVALID, "duplicate"},
    {"{\"a\":1}", 0, KVF_ERR_INVALID, "no object"},
    {"{\"__metadata__\":[]}", 0, KVF_ERR_INVALID, "__metadata__ is no object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, KVF_ERR_INVALID, "'k' is no string"},
    {ONE("\"F4\"", "[4]", "[0,2]"), 2, KVF_ERR_UNSUPPORTED, "dtype 'F4'"},
    {ONE("\"bf16\"", "[1]", "[0,2]"), 2, KVF_ERR_UNSUPPORTED, "dtype 'bf16'"},
    {ONE("7", "[1]", "[0,2]"), 2, KVF_ERR_INVALID, "dtype is missing"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, KVF_ERR_INVALID, "dtype is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, KVF_ERR_INVALID, "shape is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, KVF_ERR_INVALID, "data_offsets is not"},
    {ONE("\"U8\"", "4", "[0,4]"), 4, KVF_ERR_INVALID, "shape is missing or no array"},
    {ONE("\"U8\"", "[-4]", "[0,4]"), 4, KVF_ERR_INVALID, "shape[0] is no whole number"},
    {ONE("\"U8\"", "[4.0]", "[0,4]"), 4, KVF_ERR_INVALID, "shape[0] is no whole number"},
    {ONE("\"U8\"", "[2,\"2\"]", "[0,4]"), 4, KVF_ERR_INVALID, "shape[1] is no whole number"},
    {ONE("\"U8\"", "[18446744073709551616]", "[0,4]"), 4, KVF_ERR_INVALID, "no JSON"},
    {ONE("\"U8\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, KVF_ERR_TOO_LARGE, "17 dimensions"},
    {ONE("\"U8\"", "[4294967296,4294967296]", "[0,0]"), 0, KVF_ERR_INVALID, "shape[1] takes the tensor beyond"},
    {ONE("\"F64\"", "[2305843009213693952]", "[0,0]"), 0, KVF_ERR_INVALID, "shape[0] takes the tensor beyond"},
    {ONE("\"F32\"", "[2]", "[0,4]"), 4, KVF_ERR_INVALID, "span 4 bytes, dtype and shape need 8"},
    {ONE("\"U8\"", "[4]", "[0,8]"), 8, KVF_ERR_INVALID, "span 8 bytes"},
    {ONE("\"U8\"", "[4]", "[0]"), 4, KVF_ERR_INVALID, "data_offsets is not"},
    {ONE("\"U8\"", "[4]", "[0,4,4]"), 4, KVF_ERR_INVALID, "data_offsets is not"},
    {ONE("\"U8\"", "[4]", "{}"), 4, KVF_ERR_INVALID, "data_offsets is not"},
    {ONE("\"U8\"", "[4]", "[0,4.0]"), 4, KVF_ERR_INVALID, "data_offsets is not"},
    {ONE("\"U8\"", "[4]", "[-4,0]"), 4, KVF_ERR_INVALID, "do not lie in"},
    {ONE("\"U8\"", "[4]", "[4,0]"), 4, KVF_ERR_INVALID, "do not lie in"},
    {ONE("\"U8\"", "[4]", "[1,5]"), 4, KVF_ERR_INVALID, "do not lie in"},
    {ONE("\"U8\"", "[4]", "[9223372036854775803,9223372036854775807]"), 4, KVF_ERR_INVALID, "do not lie in"},
    {ONE("\"U8\"", "[4]", "[1,5]"), 5, KVF_ERR_INVALID, "begin at 1, behind the end of another tensor, which is 0"},
    {ONE("\"U8\"", "[4]", "[0,4]"), 5, KVF_ERR_INVALID, "1 bytes behind the last tensor"},
    {TWO("[0,4]", "[3,7]"), 7, KVF_ERR_INVALID, "tensor 'b': data_offsets begin at 3, before the end"},
    {TWO("[0,4]", "[0,4]"), 4, KVF_ERR_INVALID, "begin at 0, before the end"},
    {TWO("[4,8]", "[0,4]"), 9, KVF_ERR_INVALID, "1 bytes behind the last tensor"},
    {TWO("[5,9]", "[0,4]"), 9, KVF_ERR_INVALID, "tensor 'a': data_offsets begin at 5, behind the end"},
};

Test(safetensors, hostile_headers_are_refused_with_the_reason) {
    for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
        kvf_error_t error = {""};
        kvf_status_t status = parse_text(hostile[i].header, hostile[i].data_bytes, &error);
        cr_expect_eq(status, hostile[i].status, "%s: %d, %s", hostile[i].header, (int)status, error.text);
        cr_expect(strstr(error.text, hostile[i].says), "%s: %s", hostile[i].header, error.text);
        cr_expect(strstr(error.text, "x.st"), "%s: %s", hostile[i].header, error.text);
    }
}

Test(safetensors, every_cut_of_a_file_is_refused) {
    image_t image = make_image(good, strlen(good), 20);
    for (size_t bytes = 0; bytes < image.num_bytes; bytes++) {
        uint8_t *cut = malloc(bytes ? bytes : 1); /* of its own, so that a sanitizer sees a read behind it */
        memcpy(cut, image.bytes, bytes);
        cr_expect_eq(parse((image_t){cut, bytes}, NULL), KVF_ERR_INVALID, "cut at %zu", bytes);
        free(cut);
    }
    free(image.bytes);
}

Test(safetensors, header_lengths_beyond_the_file_are_refused) {
    image_t image = make_image("{}", 2, 0);
    const uint64_t lengths[] = {3, 4096, INT64_MAX, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        memcpy(image.bytes, &lengths[i], sizeof(lengths[i]));
        cr_expect_eq(parse(image, NULL), KVF_ERR_INVALID, "%" PRIu64, lengths[i]);
    }
    free(image.bytes);
}

Test(safetensors, header_length_is_limited) {
    size_t bytes = KVF_SAFETENSORS_HEADER_MAX + 1;
    char *header = malloc(bytes);
    memset(header, ' ', bytes);
    memcpy(header, "{}", 2);
    image_t most = make_image(header, bytes - 1, 0), more = make_image(header, bytes, 0);
    cr_assert_eq(parse(most, NULL), KVF_OK);
    cr_assert_eq(parse(more, NULL), KVF_ERR_TOO_LARGE);
    free(most.bytes);
    free(more.bytes);
    free(header);
}

Test(safetensors, deep_nesting_is_refused) {
    size_t depth = 1 << 20;
    char *header = malloc(depth + 5);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', depth);
    image_t image = make_image(header, depth + 5, 0);
    cr_assert_eq(parse(image, NULL), KVF_ERR_INVALID);
    free(image.bytes);
    free(header);
}

Test(safetensors, nul_in_the_header_is_refused) {
    image_t image = make_image("{}\0\0", 4, 0);
    cr_assert_eq(parse(image, NULL), KVF_ERR_INVALID);
    free(image.bytes);
}

Test(safetensors, number_of_tensors_is_limited) {
    size_t size = 8 << 20, used = 1;
    char *header = malloc(size);
    header[0] = '{';
    for (int i = 0; i <= KVF_SAFETENSORS_COUNT_MAX; i++)
        used += (size_t)snprintf(header + used, size - used,
                                 "\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},", i);
    header[used - 1] = '}';
    image_t image = make_image(header, used, 0);
    cr_assert_eq(parse(image, NULL), KVF_ERR_TOO_LARGE);
    free(image.bytes);
    free(header);
}

Test(safetensors, names_cannot_drive_the_terminal) {
    kvf_error_t error;
    cr_assert_eq(parse_text("{\"\\u001b[2J\\u009b\\u00e9\":1}", 0, &error), KVF_ERR_INVALID);
    for (const char *c = error.text; *c; c++) cr_assert(*c >= ' ' && *c <= '~', "%d", *c);
    cr_assert(strstr(error.text, "'?[2J"), "%s", error.text);
}

/* ---- open ---- */

Test(safetensors, paths_that_are_no_files_are_refused, .init = make_folder, .fini = remove_folder, .timeout = 10) {
    kvf_safetensors_t *file;
    kvf_error_t error;
    cr_assert_eq(kvf_safetensors_open(path, &file, &error), KVF_ERR_NOT_FOUND);
    cr_assert(strstr(error.text, path), "%s", error.text);
    cr_assert_eq(kvf_safetensors_open(folder, &file, &error), KVF_ERR_INVALID);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(kvf_safetensors_open(path, &file, &error), KVF_ERR_INVALID, "a FIFO without a writer");
    unlink(path);
    FILE *empty = fopen(path, "w");
    fclose(empty);
    cr_assert_eq(kvf_safetensors_open(path, &file, &error), KVF_ERR_INVALID);
    cr_assert(strstr(error.text, "empty"), "%s", error.text);
}

/* ---- write ---- */

static const kvf_tensor_t two[] = {
    {.name = "all", .dtype = KVF_TENSOR_BF16, .rank = 2, .shape = {256, 256}, .bytes = 2 * 65536},
    {.name = "odd \"\\\n", .dtype = KVF_TENSOR_U8, .rank = 1, .shape = {3}, .bytes = 3},
};
static const kvf_metadata_t notes[] = {{"z", "1"}, {"a", "line\nline \xc3\xa9"}};

static kvf_status_t write_two(kvf_error_t *error) {
    kvf_safetensors_writer_t *writer;
    kvf_status_t status = kvf_safetensors_create(path, two, 2, notes, 2, &writer, error);
    if (status) return status;
    uint16_t *all = malloc(2 * 65536);
    for (size_t i = 0; i < 65536; i++) all[i] = (uint16_t)i; /* each bf16 there is, signalling NaNs too */
    memcpy(kvf_safetensors_writer_data(writer, 0), all, 2 * 65536);
    memcpy(kvf_safetensors_writer_data(writer, 1), "abc", 3);
    cr_assert_null(kvf_safetensors_writer_data(writer, 2));
    free(all);
    return kvf_safetensors_commit(writer, error);
}

Test(safetensors, written_file_reads_back_bit_for_bit, .init = make_folder, .fini = remove_folder) {
    cr_assert_eq(write_two(NULL), KVF_OK);
    kvf_safetensors_t *file;
    kvf_error_t error = {""};
    cr_assert_eq(kvf_safetensors_open(path, &file, &error), KVF_OK, "%s", error.text);
    size_t count;
    const kvf_tensor_t *tensors = kvf_safetensors_tensors(file, &count);
    cr_assert_eq(count, 2);
    for (size_t i = 0; i < 65536; i++) {
        uint16_t value;
        memcpy(&value, (const uint8_t *)tensors[0].data + 2 * i, sizeof(value));
        cr_assert_eq(value, i);
    }
    cr_assert_str_eq(tensors[1].name, two[1].name);
    cr_assert_eq(memcmp(tensors[1].data, "abc", 3), 0);
    const kvf_metadata_t *metadata = kvf_safetensors_metadata(file, &count);
    cr_assert_eq(count, 2);
    cr_assert_str_eq(metadata[0].key, "z");
    cr_assert_str_eq(metadata[1].value, notes[1].value);
    kvf_safetensors_close(file);
}

Test(safetensors, data_begins_at_a_multiple_of_8, .init = make_folder, .fini = remove_folder) {
    cr_assert_eq(write_two(NULL), KVF_OK);
    FILE *file = fopen(path, "rb");
    uint64_t header_bytes;
    cr_assert_eq(fread(&header_bytes, sizeof(header_bytes), 1, file), 1);
    cr_assert_eq(header_bytes % 8, 0);
    fclose(file);
}

Test(safetensors, file_appears_whole_and_replaces_at_commit, .init = make_folder, .fini = remove_folder) {
    FILE *old = fopen(path, "w");
    fputs("old", old);
    fclose(old);
    kvf_safetensors_writer_t *writer;
    cr_assert_eq(kvf_safetensors_create(path, two, 2, NULL, 0, &writer, NULL), KVF_OK);
    struct stat stat_;
    cr_assert_eq(stat(path, &stat_), 0);
    cr_assert_eq(stat_.st_size, 3, "the old file is there until the commit");
    cr_assert_eq(kvf_safetensors_commit(writer, NULL), KVF_OK);
    cr_assert_eq(stat(path, &stat_), 0);
    cr_assert_gt(stat_.st_size, 2 * 65536);
    cr_assert_eq(files_in_folder(), 1);
}

Test(safetensors, a_process_that_ends_before_the_commit_leaves_nothing, .init = make_folder, .fini = remove_folder) {
    int nameless = open(folder, O_TMPFILE | O_WRONLY, 0600);
    if (nameless < 0) cr_skip_test("the file system has no files without names");
    close(nameless);
    pid_t child = fork();
    if (child == 0) {
        kvf_safetensors_writer_t *writer;
        _exit(kvf_safetensors_create(path, two, 2, NULL, 0, &writer, NULL) == KVF_OK ? 7 : 1);
    }
    int state = 0;
    cr_assert_eq(waitpid(child, &state, 0), child);
    cr_assert(WIFEXITED(state) && WEXITSTATUS(state) == 7);
    cr_assert_eq(files_in_folder(), 0);
}

Test(safetensors, file_heeds_the_umask, .init = make_folder, .fini = remove_folder) {
    umask(027);
    cr_assert_eq(write_two(NULL), KVF_OK);
    struct stat stat_;
    cr_assert_eq(stat(path, &stat_), 0);
    cr_assert_eq(stat_.st_mode & 0777, 0640);
}

Test(safetensors, aborted_file_leaves_nothing, .init = make_folder, .fini = remove_folder) {
    kvf_safetensors_writer_t *writer;
    cr_assert_eq(kvf_safetensors_create(path, two, 2, NULL, 0, &writer, NULL), KVF_OK);
    kvf_safetensors_abort(writer);
    kvf_safetensors_abort(NULL);
    cr_assert_eq(files_in_folder(), 0);
}

Test(safetensors, failed_commit_leaves_nothing, .init = make_folder, .fini = remove_folder) {
    kvf_safetensors_writer_t *writer;
    kvf_error_t error;
    cr_assert_eq(kvf_safetensors_create(path, two, 2, NULL, 0, &writer, NULL), KVF_OK);
    cr_assert_eq(mkdir(path, 0700), 0);
    cr_assert_eq(kvf_safetensors_commit(writer, &error), KVF_ERR_IO);
    cr_assert(strstr(error.text, path), "%s", error.text);
    cr_assert_eq(rmdir(path), 0);
    cr_assert_eq(files_in_folder(), 0);
}

Test(safetensors, no_room_is_found_at_create, .init = make_folder, .fini = remove_folder) {
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {65536, 65536};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(write_two(NULL), KVF_ERR_IO);
    cr_assert_eq(files_in_folder(), 0);
}

Test(safetensors, nonsense_is_not_written, .init = make_folder, .fini = remove_folder) {
    kvf_safetensors_writer_t *writer;
    kvf_error_t error;
    const kvf_tensor_t twice[] = {two[0], two[0]};
    cr_expect_eq(kvf_safetensors_create(path, twice, 2, NULL, 0, &writer, &error), KVF_ERR_INVALID);
    cr_expect(strstr(error.text, "'all' occurs twice"), "%s", error.text);
    const kvf_metadata_t same[] = {notes[0], notes[0]};
    cr_expect_eq(kvf_safetensors_create(path, two, 2, same, 2, &writer, &error), KVF_ERR_INVALID);
    const kvf_metadata_t binary = {"k", "\xff"};
    cr_expect_eq(kvf_safetensors_create(path, two, 2, &binary, 1, &writer, &error), KVF_ERR_INVALID);
    kvf_tensor_t wrong = two[0];
    wrong.bytes--;
    cr_expect_eq(kvf_safetensors_create(path, &wrong, 1, NULL, 0, &writer, &error), KVF_ERR_INVALID);
    wrong = (kvf_tensor_t){.name = "w", .dtype = KVF_TENSOR_F64, .rank = 2, .shape = {1u << 31, 1u << 31}};
    cr_expect_eq(kvf_safetensors_create(path, &wrong, 1, NULL, 0, &writer, &error), KVF_ERR_INVALID,
                 "2^65 bytes are 0");
    wrong = two[0];
    wrong.name = "__metadata__";
    cr_expect_eq(kvf_safetensors_create(path, &wrong, 1, NULL, 0, &writer, &error), KVF_ERR_INVALID);
    cr_expect_eq(files_in_folder(), 0);
}

Test(safetensors, more_than_can_be_read_again_is_not_written, .init = make_folder, .fini = remove_folder) {
    kvf_safetensors_writer_t *writer;
    char *value = malloc(KVF_SAFETENSORS_HEADER_MAX + 1);
    memset(value, 'x', KVF_SAFETENSORS_HEADER_MAX);
    value[KVF_SAFETENSORS_HEADER_MAX] = '\0';
    const kvf_metadata_t large = {"k", value};
    cr_assert_eq(kvf_safetensors_create(path, two, 2, &large, 1, &writer, NULL), KVF_ERR_TOO_LARGE);
    free(value);
    cr_assert_eq(files_in_folder(), 0);
}

Test(safetensors, folder_that_is_not_there_is_not_found, .init = make_folder, .fini = remove_folder) {
    kvf_safetensors_writer_t *writer;
    char nowhere[160];
    snprintf(nowhere, sizeof(nowhere), "%s/none/file", folder);
    cr_assert_eq(kvf_safetensors_create(nowhere, two, 2, NULL, 0, &writer, NULL), KVF_ERR_NOT_FOUND);
}

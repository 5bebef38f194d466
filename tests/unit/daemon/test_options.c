#include "daemon/evict.h"
#include "daemon/options.h"
#include "daemon/options_internal.h"
#include "transport/log.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ARGS_MAX = 64 };

static kvf_options_t options;
static kvf_options_error_t error;
static bool done;
static char *printed; /* what went to `out` */
static size_t printed_bytes;

/* Parses a command line of words between blanks, "kvfused" before it. */
static kvf_status_t parse(const char *line) {
    static char copy[2048];
    char *argv[ARGS_MAX + 1] = {(char *)(uintptr_t) "kvfused"};
    int argc = 1;
    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word && argc < ARGS_MAX; word = strtok(NULL, " ")) argv[argc++] = word;
    free(printed);
    FILE *out = open_memstream(&printed, &printed_bytes);
    const kvf_status_t status = kvf_options_parse(&options, argc, argv, out, &done, &error);
    fclose(out);
    return status;
}

static kvf_status_t parse_config(const char *text) {
    kvf_options_set_defaults(&options);
    return kvf_options_parse_config(&options, "f.conf", text, strlen(text), &error);
}

static void assert_rejected(const char *line, const char *said) {
    cr_assert_eq(parse(line), KVF_ERR_INVALID, "taken: %s", line);
    cr_assert(strstr(error.text, said), "%s: %s", line, error.text);
}

static void assert_config_rejected(const char *text, const char *said) {
    cr_assert_eq(parse_config(text), KVF_ERR_INVALID, "taken: %s", text);
    cr_assert(strstr(error.text, said), "%s: %s", text, error.text);
}

/* ---- defaults ---- */

Test(options, every_default_is_in_its_own_range) {
    for (size_t i = 0; i < kvf__option_count; i++) {
        char why[KVF__OPTION_WHY_BYTES];
        cr_assert(kvf__option_set(&kvf__option_table[i], &options, kvf__option_table[i].initial, why), "%s: %s",
                  kvf__option_table[i].name, why);
    }
}

Test(options, names_and_fields_are_there_once) {
    for (size_t i = 0; i < kvf__option_count; i++)
        for (size_t k = 0; k < i; k++) {
            cr_assert_str_neq(kvf__option_table[i].name, kvf__option_table[k].name);
            cr_assert_neq(kvf__option_table[i].offset, kvf__option_table[k].offset);
        }
}

Test(options, no_argument_gives_the_documented_defaults) {
    cr_assert_eq(parse(""), KVF_OK, "%s", error.text);
    cr_assert_not(done);
    cr_assert_str_eq(options.address, "127.0.0.1:7311");
    cr_assert_eq(options.threads, 1);
    cr_assert_eq(options.busy_poll, false);
    cr_assert_eq(options.host_bytes, 0, "by the machine");
    cr_assert_eq(options.segment_bytes, 0);
    cr_assert_eq(options.max_keys, UINT64_C(64) << 20);
    cr_assert_eq(options.eviction, KVF_EVICT_S3FIFO);
    cr_assert_eq(options.request_timeout_ms, 30000);
    cr_assert_eq(options.socket_mode, 0660);
    cr_assert_eq(options.log_level, KVF_LOG_INFO);
    cr_assert_str_eq(options.ucx_tls, "tcp");
    cr_assert_str_eq(options.stats_socket, "");
}

/* ---- command line ---- */

Test(options, a_value_follows_an_equals_sign_or_a_blank) {
    cr_assert_eq(parse("--host-bytes=2GiB --threads 4 --eviction lru --log-level=debug"), KVF_OK, "%s", error.text);
    cr_assert_eq(options.host_bytes, UINT64_C(2) << 30);
    cr_assert_eq(options.threads, 4);
    cr_assert_eq(options.eviction, KVF_EVICT_LRU);
    cr_assert_eq(options.log_level, KVF_LOG_DEBUG);
}

Test(options, a_switch_stands_alone_or_with_a_value) {
    static const struct {
        const char *line;
        bool on;
    } cases[] = {{"--busy-poll", true},          {"--busy-poll=off", false},           {"--busy-poll off", false},
                 {"--busy-poll yes", true},      {"--busy-poll=true", true},           {"--busy-poll 0", false},
                 {"--busy-poll --spin 3", true}, {"--busy-poll off --busy-poll", true}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cr_assert_eq(parse(cases[i].line), KVF_OK, "%s: %s", cases[i].line, error.text);
        cr_assert_eq(options.busy_poll, cases[i].on, "%s", cases[i].line);
    }
    assert_rejected("--busy-poll --spin 3 off", "off");
    assert_rejected("--busy-poll on off", "off");
    assert_rejected("--busy-poll=maybe", "neither on nor off");
}

Test(options, the_last_of_two_wins_on_the_command_line) {
    cr_assert_eq(parse("--threads 2 --threads 3"), KVF_OK);
    cr_assert_eq(options.threads, 3);
}

Test(options, what_is_not_an_option_is_named) {
    assert_rejected("--no-such-thing", "--no-such-thing");
    assert_rejected("stray", "stray");
    assert_rejected("--threads", "--threads");
    assert_rejected("-x", "-x");
}

/* ---- values ---- */

Test(options, sizes_are_exact) {
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {{"1048576", 1 << 20}, {"1024K", 1 << 20},   {"1024KiB", 1 << 20},          {"1M", 1 << 20},
                 {"1MiB", 1 << 20},    {"3G", 3ULL << 30},   {"3GiB", 3ULL << 30},          {"2T", 2ULL << 40},
                 {"2TiB", 2ULL << 40}, {"1048577", 1048577}, {"1024TiB", UINT64_C(1) << 50}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char line[128];
        snprintf(line, sizeof(line), "--host-bytes %s", cases[i].text);
        cr_assert_eq(parse(line), KVF_OK, "%s: %s", line, error.text);
        cr_assert_eq(options.host_bytes, cases[i].bytes, "%s", line);
    }
}

Test(options, what_is_no_size_is_rejected) {
    static const char *const texts[] = {"8QB", "8 GiB", "1.5GiB", "-1",  "+1",      "0x10",  "8gib", "8GB",
                                        "GiB", "8GiBx", "8GiB8",  "1e9", "1025TiB", "1023K", "8Gi"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        char config[128];
        snprintf(config, sizeof(config), "host-bytes = %s\n", texts[i]);
        assert_config_rejected(config, "f.conf:1: host-bytes: ");
    }
}

Test(options, numbers_that_overflow_are_rejected_not_wrapped) {
    assert_rejected("--host-bytes 18446744073709551616", "is not a size");
    assert_rejected("--host-bytes 18446744073709551615K", "is not a size");
    assert_rejected("--host-bytes 17179869185GiB", "is not a size"); /* 2^64 + 1 GiB */
    assert_rejected("--request-timeout 18446744073709552s", "is not a time");
    assert_rejected("--max-keys 99999999999999999999999Mi", "is not a number");
}

Test(options, a_number_out_of_range_says_the_range) {
    assert_rejected("--threads 0", "'0' is outside 1 to 64");
    assert_rejected("--threads 65", "1 to 64");
    assert_rejected("--segment-bytes 1", "is outside 64KiB to 1TiB, or 0: by size");
    assert_rejected("--host-bytes 1", "is outside 1MiB to 1024TiB, or 0: half of the free memory, at most 8GiB");
    assert_rejected("--request-timeout 1", "is outside 10ms to 3600s");
}

Test(options, times_take_seconds_and_milliseconds) {
    cr_assert_eq(parse("--request-timeout 5s --session-timeout=500ms --drain-timeout 250"), KVF_OK, "%s", error.text);
    cr_assert_eq(options.request_timeout_ms, 5000);
    cr_assert_eq(options.session_timeout_ms, 500);
    cr_assert_eq(options.drain_timeout_ms, 250);
    assert_rejected("--drain-timeout 5m", "is not a time");
}

Test(options, counts_take_binary_suffixes_alone) {
    cr_assert_eq(parse("--max-keys 2Mi --max-batch 1Ki"), KVF_OK, "%s", error.text);
    cr_assert_eq(options.max_keys, 2 << 20);
    cr_assert_eq(options.max_batch, 1024);
    assert_rejected("--max-keys 2M", "is not a number");
}

Test(options, a_mode_is_octal) {
    cr_assert_eq(parse("--socket-mode 600"), KVF_OK);
    cr_assert_eq(options.socket_mode, 0600);
    assert_rejected("--socket-mode 0668", "octal");
    assert_rejected("--socket-mode 1777", "octal");
    assert_rejected("--socket-mode rw", "octal");
}

Test(options, a_name_outside_a_list_says_the_list) {
    assert_rejected("--eviction fifo", "is none of s3fifo, lru");
    assert_rejected("--log-level loud", "is none of off, error, warn, info, debug");
}

Test(options, addresses_are_checked_by_their_form) {
    static const char *const good[] = {"127.0.0.1:0", "node-7.example:65535", "[::1]:7311", "[fe80::1%eth0]:1",
                                       "0.0.0.0:7311"};
    static const char *const bad[] = {"127.0.0.1", ":7311",       "host:",     "host:65536",   "host:7x",
                                      "::1:7311",  "[::1]",       "[::1]7311", "[nonsense]:1", "ho st:1",
                                      "host:-1",   "host:00001x", "[]:1",      "[::1:7311"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        char config[128];
        snprintf(config, sizeof(config), "address = %s", good[i]);
        cr_assert_eq(parse_config(config), KVF_OK, "%s", error.text);
        cr_assert_str_eq(options.address, good[i]);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char config[128];
        snprintf(config, sizeof(config), "address = %s", bad[i]);
        assert_config_rejected(config, "is not host:port");
    }
}

Test(options, port_ranges_are_checked) {
    cr_assert_eq(parse("--port-range 7400-7499"), KVF_OK, "%s", error.text);
    assert_rejected("--port-range 7499-7400", "range");
    assert_rejected("--port-range 0-10", "range");
    assert_rejected("--port-range 7400", "range");
    assert_rejected("--port-range 7400-70000", "range");
}

Test(options, transports_are_a_list_of_names) {
    cr_assert_eq(parse("--ucx-tls rc,^ud:aux"), KVF_OK, "%s", error.text);
    assert_rejected("--ucx-tls=", "UCX transports");
    assert_rejected("--ucx-tls=tcp/x", "UCX transports");
}

Test(options, a_text_that_a_config_file_could_not_hold_is_rejected) {
    char line[512];
    memset(line, 'x', sizeof(line));
    memcpy(line, "--runtime-dir=", 14);
    line[14 + KVF_OPTION_STRING_BYTES] = '\0';
    assert_rejected(line, "is too long");
    assert_rejected("--runtime-dir=#x", "sign of a comment");
    assert_rejected("--runtime-dir=a\nthreads=3", "control byte");
    cr_assert_not(strchr(error.text, '\n'));
    cr_assert_eq(parse("--runtime-dir=a#b;c=d"), KVF_OK, "%s", error.text);
}

Test(options, values_that_contradict_each_other_are_rejected) {
    assert_rejected("--host-bytes 64MiB --segment-bytes 128MiB", "segment-bytes is larger than host-bytes");
}

/* ---- config file ---- */

Test(options, a_config_file_sets_options) {
    cr_assert_eq(
        parse_config("# all of it\r\n\r\n  host-bytes = 2GiB  # two\nthreads=3\n; old\n\taddress\t=\t[::1]:9 ; here\n"
                     "runtime-dir = /a b/c=d\nstats-socket =\nbusy-poll = on"),
        KVF_OK, "%s", error.text);
    cr_assert_eq(options.host_bytes, UINT64_C(2) << 30);
    cr_assert_eq(options.threads, 3);
    cr_assert_str_eq(options.address, "[::1]:9");
    cr_assert_str_eq(options.runtime_dir, "/a b/c=d");
    cr_assert_str_eq(options.stats_socket, "");
    cr_assert(options.busy_poll);
}

Test(options, an_empty_file_and_one_of_comments_set_nothing) {
    static const char *const texts[] = {"", "\n", "\n\n\n", "#", "  # x\n;y", "\xef\xbb\xbf", "\xef\xbb\xbf# x\n"};
    kvf_options_t defaults;
    kvf_options_set_defaults(&defaults);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        cr_assert_eq(parse_config(texts[i]), KVF_OK, "%s", error.text);
        cr_assert_arr_eq(&options, &defaults, sizeof(options));
    }
}

Test(options, a_bad_line_is_named_by_file_and_number) {
    assert_config_rejected("threads = 2\n\n# x\nthread = 3\n", "f.conf:4: there is no option 'thread'");
    assert_config_rejected("threads = 2\nspin = 1\nthreads = 2\n", "f.conf:3: threads is set a second time");
    assert_config_rejected("\nthreads = many\n", "f.conf:2: threads: 'many' is not a number");
    assert_config_rejected("threads\n", "f.conf:1: not of the form name = value");
    assert_config_rejected("threads: 2\n", "f.conf:1: not of the form");
    assert_config_rejected("= 2\n", "f.conf:1: no name");
    assert_config_rejected("[daemon]\nthreads = 2\n", "f.conf:1: sections");
    assert_config_rejected("threads = 2 3\n", "f.conf:1: threads: '2 3'");
}

Test(options, an_indented_line_is_no_continuation) {
    assert_config_rejected("runtime-dir = /a\n  /b\n", "f.conf:2: not of the form");
}

Test(options, the_first_error_is_the_one_that_is_told) {
    assert_config_rejected("threads = a\nspin = b\nfoo\n", "f.conf:1:");
}

Test(options, hostile_bytes_are_rejected_and_escaped_in_the_error) {
    static const char nul[] = "threads = 2\0 3\n";
    kvf_options_set_defaults(&options);
    cr_assert_eq(kvf_options_parse_config(&options, "f.conf", nul, sizeof(nul) - 1, &error), KVF_ERR_INVALID);
    assert_config_rejected("thr\x1b[31m = 2\n", "control byte");
    assert_config_rejected("thr\xff = 2\n", "thr\\xff");
}

Test(options, a_line_beyond_the_limit_is_an_error_not_two_lines) {
    char text[4096];
    memset(text, 'x', sizeof(text));
    memcpy(text, "runtime-dir = ", 14);
    text[sizeof(text) - 1] = '\0';
    assert_config_rejected(text, "f.conf:1: the line is too long");
    text[0] = '#';
    cr_assert_eq(parse_config(text), KVF_OK, "a comment may be long");
}

/* ---- file and command line together ---- */

static char *write_file(const char *text, size_t count) {
    static char path[] = "/tmp/kvf-options-XXXXXX";
    const int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, text, count), (ssize_t)count);
    close(fd);
    return path;
}

Test(options, the_command_line_wins_over_the_file_wherever_it_stands) {
    static const char text[] = "threads = 2\nspin = 7\n";
    char *path = write_file(text, sizeof(text) - 1), line[256];
    snprintf(line, sizeof(line), "--threads 5 --config %s", path);
    cr_assert_eq(parse(line), KVF_OK, "%s", error.text);
    cr_assert_eq(options.threads, 5);
    cr_assert_eq(options.spin, 7);
    unlink(path);
}

Test(options, a_file_that_cannot_be_read_is_named) {
    cr_assert_eq(parse("--config /nowhere/x.conf"), KVF_ERR_NOT_FOUND);
    cr_assert(strstr(error.text, "/nowhere/x.conf: No such file"), "%s", error.text);
    cr_assert_lt(parse("--config /tmp"), 0);
    cr_assert(strstr(error.text, "/tmp: "), "%s", error.text);
}

Test(options, a_file_that_is_too_large_is_rejected) {
    char *text = calloc(1, KVF_CONFIG_FILE_BYTES + 1), line[256];
    memset(text, '\n', KVF_CONFIG_FILE_BYTES + 1);
    char *path = write_file(text, KVF_CONFIG_FILE_BYTES + 1);
    snprintf(line, sizeof(line), "--config %s", path);
    cr_assert_eq(parse(line), KVF_ERR_TOO_LARGE);
    unlink(path);
    free(text);
}

/* ---- what is printed ---- */

Test(options, help_names_every_option_with_its_default) {
    cr_assert_eq(parse("--help --threads 999"), KVF_OK, "%s", error.text);
    cr_assert(done);
    for (size_t i = 0; i < kvf__option_count; i++) {
        char name[64];
        snprintf(name, sizeof(name), "--%s", kvf__option_table[i].name);
        cr_assert(strstr(printed, name), "%s is missing in\n%s", name, printed);
    }
    cr_assert(strstr(printed, "8GiB") && strstr(printed, "s3fifo|lru") && strstr(printed, "Memory"));
}

Test(options, version_is_one_line) {
    cr_assert_eq(parse("--version"), KVF_OK);
    cr_assert(done);
    cr_assert_str_eq(printed, "kvfused " KVF_VERSION "\n");
}

Test(options, printed_config_parses_back_to_the_same_options) {
    static const char *const lines[] = {"",
                                        "--host-bytes 1048577 --threads 7 --busy-poll --eviction lru --socket-mode "
                                        "0000 --log-level off --drain-timeout 0",
                                        "--address [::1]:0 --runtime-dir=/a=b#c --stats-socket none --port-range "
                                        "1-65535 --max-keys 65Mi --segment-bytes 64K "
                                        "--session-timeout 1500 --request-timeout 60000"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        char line[512];
        snprintf(line, sizeof(line), "%s --print-config", lines[i]);
        cr_assert_eq(parse(line), KVF_OK, "%s", error.text);
        cr_assert(done);
        const kvf_options_t before = options;
        memset(&options, 0xee, sizeof(options));
        cr_assert_eq(parse_config(printed), KVF_OK, "%s in\n%s", error.text, printed);
        cr_assert_arr_eq(&options, &before, sizeof(options));
    }
    cr_assert(strstr(printed, "# Service threads."), "%s", printed);
}

Test(options, numbers_are_printed_short_and_exact) {
    kvf_text_t text;
    cr_assert_eq(
        parse("--host-bytes 3145728 --request-timeout 1500 --session-timeout 2000 --max-batch 4096 --max-keys 64Mi"),
        KVF_OK);
    kvf_text_init(&text, KVF_OPTIONS_TEXT_BYTES);
    kvf_options_print_values(&options, &text);
    cr_assert(strstr(text.data, "\nhost-bytes = 3MiB\n"), "%s", text.data);
    cr_assert(strstr(text.data, "\nsegment-bytes = 0\n"));
    cr_assert(strstr(text.data, "\nrequest-timeout = 1500ms\n"));
    cr_assert(strstr(text.data, "\nsession-timeout = 2s\n"));
    cr_assert(strstr(text.data, "\nmax-batch = 4096\n"));
    cr_assert(strstr(text.data, "\nmax-keys = 64Mi\n"));
    cr_assert(strstr(text.data, "\nsocket-mode = 0660\n"));
    cr_assert_not(strchr(text.data, '#'));
    kvf_text_clear(&text);
}

Test(options, a_full_disk_is_an_error) {
    char *argv[] = {(char *)(uintptr_t) "kvfused", (char *)(uintptr_t) "--print-config"};
    FILE *full = fopen("/dev/full", "w");
    cr_assert(full != NULL);
    cr_assert_eq(kvf_options_parse(&options, 2, argv, full, &done, &error), KVF_ERR_IO);
    fclose(full);
}

Test(options, an_empty_command_line_is_fine) {
    char *argv[] = {NULL};
    cr_assert_eq(kvf_options_parse(&options, 0, argv, stdout, &done, &error), KVF_OK);
}

/* ---- paths ---- */

Test(options, sockets_lie_in_the_runtime_folder_by_port) {
    char path[108];
    cr_assert_eq(parse("--runtime-dir /r"), KVF_OK);
    cr_assert_eq(kvf_options_socket_path(&options, KVF_OPTIONS_STATS_SOCKET, 65535, path, sizeof(path)), KVF_OK);
    cr_assert_str_eq(path, "/r/65535.stats");
    cr_assert_eq(kvf_options_socket_path(&options, KVF_OPTIONS_MEMORY_SOCKET, 1, path, sizeof(path)), KVF_OK);
    cr_assert_str_eq(path, "/r/1.mem");
}

Test(options, a_socket_can_be_named_or_turned_off) {
    char path[108] = "x";
    cr_assert_eq(parse("--stats-socket none --memory-socket /m"), KVF_OK);
    cr_assert_eq(kvf_options_socket_path(&options, KVF_OPTIONS_STATS_SOCKET, 1, path, sizeof(path)), KVF_OK);
    cr_assert_str_eq(path, "");
    cr_assert_eq(kvf_options_socket_path(&options, KVF_OPTIONS_MEMORY_SOCKET, 1, path, sizeof(path)), KVF_OK);
    cr_assert_str_eq(path, "/m");
}

Test(options, a_path_that_no_socket_address_holds_is_too_large) {
    char path[KVF_OPTION_STRING_BYTES];
    kvf_options_set_defaults(&options);
    memset(options.stats_socket, 'x', 108);
    memset(options.runtime_dir, 'x', 100);
    cr_assert_eq(kvf_options_socket_path(&options, KVF_OPTIONS_STATS_SOCKET, 1, path, sizeof(path)), KVF_ERR_TOO_LARGE);
    cr_assert_eq(kvf_options_socket_path(&options, KVF_OPTIONS_MEMORY_SOCKET, 10000, path, sizeof(path)),
                 KVF_ERR_TOO_LARGE);
    options.stats_socket[107] = '\0';
    cr_assert_eq(kvf_options_socket_path(&options, KVF_OPTIONS_STATS_SOCKET, 1, path, sizeof(path)), KVF_OK);
    cr_assert_eq(kvf_options_socket_path(&options, KVF_OPTIONS_STATS_SOCKET, 1, path, 10), KVF_ERR_TOO_LARGE);
}

Test(options, a_named_runtime_folder_is_made_and_may_be_there) {
    char base[] = "/tmp/kvf-run-XXXXXX";
    struct stat about;
    cr_assert(mkdtemp(base) != NULL);
    kvf_options_set_defaults(&options);
    snprintf(options.runtime_dir, sizeof(options.runtime_dir), "%s/run", base);
    cr_assert_eq(kvf_options_make_runtime_dir(&options), KVF_OK);
    cr_assert(stat(options.runtime_dir, &about) == 0 && S_ISDIR(about.st_mode) && !(about.st_mode & 022));
    cr_assert_eq(kvf_options_make_runtime_dir(&options), KVF_OK);
    rmdir(options.runtime_dir);
    FILE *file = fopen(options.runtime_dir, "w");
    cr_assert(file != NULL);
    fclose(file);
    cr_assert_eq(kvf_options_make_runtime_dir(&options), KVF_ERR_ADDRESS, "a file is no folder");
    unlink(options.runtime_dir);
    rmdir(base);
}

Test(options, a_default_folder_that_others_can_write_to_is_refused) {
    char base[] = "/tmp/kvf-xdg-XXXXXX", path[128];
    if (geteuid() == 0) cr_skip("root has a folder of its own");
    cr_assert(mkdtemp(base) != NULL);
    setenv("XDG_RUNTIME_DIR", base, 1);
    kvf_options_set_defaults(&options);
    cr_assert_eq(kvf_options_make_runtime_dir(&options), KVF_OK);
    snprintf(path, sizeof(path), "%s/kvfuse", base);
    cr_assert_eq(chmod(path, 0777), 0);
    cr_assert_eq(kvf_options_make_runtime_dir(&options), KVF_ERR_ADDRESS);
    rmdir(path);
    cr_assert_eq(symlink("/tmp", path), 0);
    cr_assert_eq(kvf_options_make_runtime_dir(&options), KVF_ERR_ADDRESS);
    unlink(path);
    rmdir(base);
}

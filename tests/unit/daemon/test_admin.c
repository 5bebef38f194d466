#include "daemon/admin.h"
#include "daemon/admin_internal.h"
#include "daemon/unix_socket.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_BYTES = 64 * 1024, WAIT_MS = 5000, BIG_BYTES = 2 << 20, SMALL_REPLY_BYTES = 1000 };

static char folder[64], path[sizeof(((struct sockaddr_un *)0)->sun_path)];
static kvf_admin_t *admin;
static atomic_uint big_runs;

static void say_hello(void *arg, kvf_text_t *out) { kvf_text_printf(out, "hello %s\n", (const char *)arg); }
static void say_json(void *arg, kvf_text_t *out) {
    (void)arg;
    kvf_text_printf(out, "{\"blocks\":3}\n");
}
static void say_nothing(void *arg, kvf_text_t *out) {
    (void)arg;
    (void)out;
}
static void say_big(void *arg, kvf_text_t *out) {
    (void)arg;
    for (int i = 0; i < BIG_BYTES / 64; i++) kvf_text_printf(out, "%063d\n", i);
    atomic_fetch_add(&big_runs, 1);
}
static void fail(void *arg, kvf_text_t *out) {
    (void)arg;
    kvf_text_printf(out, "half of an answer\n");
    out->status = KVF_ERR_NOT_FOUND;
}

static const kvf_admin_command_t commands[] = {{"stats", "Numbers", say_hello},
                                               {"stats json", "The same as JSON", say_json},
                                               {"nothing", "Nothing", say_nothing},
                                               {"big", "Two MiB", say_big},
                                               {"fail", "An error", fail}};
enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void sleep_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

static void make_folder(void) {
    snprintf(folder, sizeof(folder), "/tmp/kvf-admin-XXXXXX");
    cr_assert(mkdtemp(folder) != NULL);
    snprintf(path, sizeof(path), "%s/7311.stats", folder);
}
static char world[] = "world";
static void start(void) {
    make_folder();
    cr_assert_eq(kvf_admin_start(path, 0660, commands, COMMANDS, world, &admin), KVF_OK);
}
static void start_limited(unsigned connections, size_t reply_bytes, uint64_t idle_ms) {
    const kvf__admin_limits_t limits = {connections, reply_bytes, idle_ms};
    make_folder();
    cr_assert_eq(kvf__admin_start(path, 0660, commands, COMMANDS, world, &limits, &admin), KVF_OK);
}
static void stop(void) {
    kvf_admin_stop(admin);
    admin = NULL;
    cr_assert_eq(rmdir(folder), 0, "something was left in %s", folder);
}
TestSuite(admin, .init = start, .fini = stop, .timeout = 30);
TestSuite(admin_limits, .fini = stop, .timeout = 30);
TestSuite(admin_socket, .init = make_folder, .timeout = 30);

static int open_client(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval wait = {WAIT_MS / 1000, 0};
    memcpy(address.sun_path, path, sizeof(path));
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert(fd >= 0);
    cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)), 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0, "%s", strerror(errno));
    return fd;
}

static void ask(int fd, const char *text) {
    cr_assert_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* Reads until the peer has closed, or until the text ends with `end`. */
static const char *hear(int fd, const char *end) {
    static char text[ANSWER_BYTES];
    size_t size = 0;
    text[0] = '\0';
    while (size < sizeof(text) - 1) {
        const ssize_t n = recv(fd, text + size, sizeof(text) - 1 - size, 0);
        cr_assert(n >= 0 || errno == ECONNRESET, "no answer after '%s': %s", text, strerror(errno));
        if (n <= 0) break;
        size += (size_t)n;
        text[size] = '\0';
        if (end && size >= strlen(end) && strcmp(text + size - strlen(end), end) == 0) break;
    }
    return text;
}

static bool is_closed(int fd, int ms) {
    struct pollfd poll_fd = {fd, POLLIN, 0};
    char byte;
    return poll(&poll_fd, 1, ms) == 1 && recv(fd, &byte, 1, MSG_DONTWAIT) <= 0;
}

/* ---- requests and answers ---- */

Test(admin, a_command_is_answered_up_to_end) {
    const int fd = open_client();
    ask(fd, "stats\n");
    cr_assert_str_eq(hear(fd, "END\n"), "hello world\nEND\n");
    ask(fd, "stats json\n");
    cr_assert_str_eq(hear(fd, "END\n"), "{\"blocks\":3}\nEND\n");
    ask(fd, "nothing\n");
    cr_assert_str_eq(hear(fd, "END\n"), "END\n");
    close(fd);
}

Test(admin, help_documents_every_command_and_itself) {
    const int fd = open_client();
    ask(fd, "help\n");
    const char *text = hear(fd, "END\n");
    for (size_t i = 0; i < COMMANDS; i++) cr_assert(strstr(text, commands[i].name) && strstr(text, commands[i].help));
    cr_assert(strstr(text, "\nhelp "), "%s", text);
    close(fd);
}

Test(admin, errors_are_one_line_and_the_connection_lives_on) {
    const int fd = open_client();
    ask(fd, "nonsense now\n");
    cr_assert_str_eq(hear(fd, "\n"), "ERROR unknown command 'nonsense now', try help\n");
    ask(fd, "st\x01ts\n");
    cr_assert_str_eq(hear(fd, "\n"), "ERROR a request is printable ASCII\n");
    ask(fd, "fail\n");
    cr_assert_str_eq(hear(fd, "\n"), "ERROR not found\n");
    ask(fd, "STATS\n");
    cr_assert(strstr(hear(fd, "\n"), "ERROR unknown"));
    ask(fd, "stats\n");
    cr_assert_str_eq(hear(fd, "END\n"), "hello world\nEND\n");
    close(fd);
}

Test(admin, many_requests_in_one_packet_are_answered_in_order) {
    const int fd = open_client();
    ask(fd, "stats\r\n\n\r\n  stats \t json \nnothing\nx\nstats\n");
    cr_assert_str_eq(
        hear(fd, "try help\nhello world\nEND\n"),
        "hello world\nEND\n{\"blocks\":3}\nEND\nEND\nERROR unknown command 'x', try help\nhello world\nEND\n");
    close(fd);
}

Test(admin, requests_may_be_split_anywhere) {
    const int fd = open_client();
    static const char text[] = "stats\r\nstats json\n";
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        cr_assert_eq(send(fd, text + i, 1, MSG_NOSIGNAL), 1);
        sleep_ms(2);
    }
    cr_assert_str_eq(hear(fd, "3}\nEND\n"), "hello world\nEND\n{\"blocks\":3}\nEND\n");
    close(fd);
}

Test(admin, far_more_requests_than_the_input_holds_are_all_answered) {
    enum { REQUESTS = 1000 };
    static char text[REQUESTS * 8 + 1];
    const int fd = open_client();
    for (int i = 0; i < REQUESTS; i++) memcpy(text + i * 8, "nothing\n", 8);
    ask(fd, text);
    shutdown(fd, SHUT_WR);
    cr_assert_eq(strlen(hear(fd, NULL)), 4 * REQUESTS);
    close(fd);
}

Test(admin, a_client_that_shuts_its_side_still_gets_its_answers) {
    const int fd = open_client();
    ask(fd, "stats\nstats json\nhalf a requ");
    shutdown(fd, SHUT_WR);
    cr_assert_str_eq(hear(fd, NULL), "hello world\nEND\n{\"blocks\":3}\nEND\n");
    close(fd);
}

Test(admin, a_line_beyond_the_limit_is_told_and_closed) {
    char text[KVF_ADMIN_LINE_BYTES + 1];
    const int fd = open_client();
    memset(text, 'a', sizeof(text));
    text[KVF_ADMIN_LINE_BYTES] = '\0';
    ask(fd, text);
    cr_assert_str_eq(hear(fd, NULL), "ERROR a request has at most 256 bytes\n");
    close(fd);
}

Test(admin, a_client_that_goes_in_the_middle_hurts_nobody) {
    for (int i = 0; i < KVF_ADMIN_CONNECTIONS - 1; i++) { /* the server may see them all before it sees one go */
        const int fd = open_client();
        ask(fd, i % 2 ? "big\nbig\nbig\n" : "sta");
        close(fd);
    }
    const int fd = open_client();
    ask(fd, "stats\n");
    cr_assert_str_eq(hear(fd, "END\n"), "hello world\nEND\n");
    close(fd);
}

/* ---- limits ---- */

Test(admin, a_reader_that_does_not_read_costs_one_answer_and_delays_nobody) {
    char requests[512];
    const int slow = open_client(), other = open_client();
    for (size_t i = 0; i < sizeof(requests) / 4; i++) memcpy(requests + 4 * i, "big\n", 4);
    const unsigned before = atomic_load(&big_runs);
    cr_assert_eq(send(slow, requests, sizeof(requests), MSG_NOSIGNAL), (ssize_t)sizeof(requests));
    for (int i = 0; i < 20; i++) {
        ask(other, "stats\n");
        cr_assert_str_eq(hear(other, "END\n"), "hello world\nEND\n");
        sleep_ms(5);
    }
    cr_assert_eq(atomic_load(&big_runs), before + 1, "answers were made that nobody reads");
    close(slow);
    close(other);
}

Test(admin, what_a_stuck_client_sends_stays_in_the_kernel) {
    static char flood[1 << 20];
    const int fd = open_client();
    ask(fd, "big\n");
    sleep_ms(50);
    memset(flood, '\n', sizeof(flood));
    size_t sent = 0;
    for (int i = 0; i < 100; i++) {
        const ssize_t n = send(fd, flood, sizeof(flood), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            cr_assert_eq(errno, EAGAIN);
            sleep_ms(1);
        } else {
            sent += (size_t)n;
        }
    }
    cr_assert_lt(sent, 4 * sizeof(flood), "the server read %zu bytes from a client that does not read", sent);
    close(fd);
}

Test(admin_limits, a_connection_too_many_is_told_and_closed_and_room_comes_back) {
    start_limited(2, KVF_ADMIN_REPLY_BYTES, KVF_ADMIN_IDLE_MS);
    int fds[2];
    for (int i = 0; i < 2; i++) {
        fds[i] = open_client();
        ask(fds[i], "stats\n");
        (void)hear(fds[i], "END\n");
    }
    for (int i = 0; i < 10; i++) {
        const int fd = open_client();
        cr_assert_str_eq(hear(fd, NULL), "ERROR too many connections\n");
        close(fd);
    }
    close(fds[0]);
    bool answered = false;
    for (int i = 0; i < 100 && !answered; i++) {
        sleep_ms(10);
        const int fd = open_client();
        if (send(fd, "stats\n", 6, MSG_NOSIGNAL) == 6) answered = strncmp(hear(fd, "\n"), "hello world\n", 12) == 0;
        close(fd);
    }
    cr_assert(answered);
    close(fds[1]);
}

Test(admin_limits, a_crowd_at_once_is_turned_away_and_the_server_lives) {
    enum { CROWD = 60 };
    start_limited(1, KVF_ADMIN_REPLY_BYTES, KVF_ADMIN_IDLE_MS);
    int fds[CROWD];
    const int first = open_client();
    ask(first, "stats\n");
    (void)hear(first, "END\n");
    for (int i = 0; i < CROWD; i++) fds[i] = open_client();
    for (int i = 0; i < CROWD; i++) {
        cr_assert_str_eq(hear(fds[i], NULL), "ERROR too many connections\n");
        close(fds[i]);
    }
    ask(first, "stats\n");
    cr_assert_str_eq(hear(first, "END\n"), "hello world\nEND\n");
    close(first);
}

Test(admin_limits, an_answer_beyond_the_limit_is_an_error) {
    start_limited(2, SMALL_REPLY_BYTES, KVF_ADMIN_IDLE_MS);
    const int fd = open_client();
    ask(fd, "big\nstats\n");
    cr_assert_str_eq(hear(fd, "END\n"), "ERROR larger than a limit\nhello world\nEND\n");
    close(fd);
}

Test(admin_limits, silence_dripping_and_not_reading_all_end_at_the_idle_time) {
    start_limited(8, KVF_ADMIN_REPLY_BYTES, 150);
    const int silent = open_client(), dripping = open_client(), deaf = open_client();
    ask(deaf, "big\n");
    bool closed = false;
    for (int i = 0; i < 100 && !closed; i++) { /* a byte or an empty line is no request */
        closed = send(dripping, i % 2 ? "\n" : " ", 1, MSG_NOSIGNAL) < 0;
        sleep_ms(20);
    }
    cr_assert(closed);
    cr_assert(is_closed(silent, WAIT_MS));
    struct pollfd poll_fd = {deaf, 0, 0};
    cr_assert_eq(poll(&poll_fd, 1, WAIT_MS), 1);
    cr_assert(poll_fd.revents & POLLHUP);
    close(silent);
    close(dripping);
    close(deaf);
}

Test(admin_limits, a_client_that_asks_in_time_is_not_idle) {
    start_limited(8, KVF_ADMIN_REPLY_BYTES, 200);
    const int fd = open_client();
    for (int i = 0; i < 8; i++) {
        sleep_ms(60);
        ask(fd, "stats\n");
        cr_assert_str_eq(hear(fd, "END\n"), "hello world\nEND\n");
    }
    close(fd);
}

Test(admin_limits, the_idle_time_begins_anew_with_a_request) {
    start_limited(8, KVF_ADMIN_REPLY_BYTES, 400);
    static char answer[BIG_BYTES + 4];
    const int fd = open_client();
    sleep_ms(250);
    ask(fd, "big\n");
    sleep_ms(250); /* the answer is longer than what the kernel holds, so it still waits for us */
    size_t size = 0;
    while (size < sizeof(answer)) {
        const ssize_t n = recv(fd, answer + size, sizeof(answer) - size, 0);
        cr_assert_gt(n, 0, "closed after %zu bytes", size);
        size += (size_t)n;
    }
    cr_assert_eq(memcmp(answer + BIG_BYTES, "END\n", 4), 0);
    close(fd);
}

/* ---- the socket's file ---- */

static mode_t mode_of_socket(void) {
    struct stat about;
    cr_assert_eq(lstat(path, &about), 0);
    cr_assert(S_ISSOCK(about.st_mode));
    return about.st_mode & 07777;
}

Test(admin_socket, the_mode_is_the_one_that_was_asked_whatever_the_umask) {
    static const mode_t masks[] = {0, 0022, 0777};
    for (size_t i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
        const mode_t before = umask(masks[i]);
        cr_assert_eq(kvf_admin_start(path, 0620, commands, COMMANDS, NULL, &admin), KVF_OK);
        umask(before);
        cr_assert_eq(mode_of_socket(), 0620);
        kvf_admin_stop(admin);
        cr_assert_neq(access(path, F_OK), 0);
    }
    admin = NULL;
    stop();
}

Test(admin_socket, the_socket_of_a_dead_daemon_is_replaced) {
    kvf_unix_listener_t dead;
    cr_assert_eq(kvf_unix_listen(&dead, path, SOCK_STREAM, 0600), KVF_OK);
    close(dead.fd); /* and the file stays, as after a crash */
    cr_assert_eq(kvf_admin_start(path, 0660, commands, COMMANDS, world, &admin), KVF_OK);
    cr_assert_eq(mode_of_socket(), 0660);
    const int fd = open_client();
    ask(fd, "stats\n");
    cr_assert_str_eq(hear(fd, "END\n"), "hello world\nEND\n");
    close(fd);
    stop();
}

Test(admin_socket, the_socket_of_a_live_daemon_is_left_alone) {
    kvf_admin_t *second = NULL;
    cr_assert_eq(kvf_admin_start(path, 0660, commands, COMMANDS, world, &admin), KVF_OK);
    cr_assert_eq(kvf_admin_start(path, 0660, commands, COMMANDS, world, &second), KVF_ERR_ADDRESS_IN_USE);
    cr_assert_null(second);
    const int fd = open_client();
    ask(fd, "stats\n");
    cr_assert_str_eq(hear(fd, "END\n"), "hello world\nEND\n");
    close(fd);
    stop();
}

/* A daemon that starts when `go` closes, says whether it has the socket, and dies when `end` closes. */
static void start_daemon(int go, int report, int end) {
    kvf_unix_listener_t mine;
    char byte;
    if (read(go, &byte, 1) != 0) _exit(1);
    byte = kvf_unix_listen(&mine, path, SOCK_STREAM, 0600) == KVF_OK ? 'w' : '-';
    if (write(report, &byte, 1) != 1 || read(end, &byte, 1) != 0) _exit(1);
    _exit(0);
}

Test(admin_socket, one_of_many_that_start_at_once_over_a_dead_socket_wins) {
    enum { DAEMONS = 4, ROUNDS = 10 };
    for (int round = 0; round < ROUNDS; round++) {
        int go[2], report[2], end[2], wins = 0;
        kvf_unix_listener_t dead;
        cr_assert_eq(kvf_unix_listen(&dead, path, SOCK_STREAM, 0600), KVF_OK);
        close(dead.fd);
        cr_assert(!pipe(go) && !pipe(report) && !pipe(end));
        for (int i = 0; i < DAEMONS; i++) {
            const pid_t pid = fork();
            cr_assert(pid >= 0);
            if (pid != 0) continue;
            close(go[1]);
            close(end[1]);
            start_daemon(go[0], report[1], end[0]);
        }
        close(go[1]);
        for (int i = 0; i < DAEMONS; i++) {
            char won;
            cr_assert_eq(read(report[0], &won, 1), 1);
            wins += won == 'w';
        }
        cr_assert_eq(wins, 1, "%d daemons have the socket", wins);
        close(end[1]);
        for (int i = 0; i < DAEMONS; i++) cr_assert(wait(NULL) > 0);
        close(go[0]);
        close(report[0]);
        close(report[1]);
        close(end[0]);
        unlink(path);
    }
    stop();
}

Test(admin_socket, nobody_touches_the_file_while_another_daemon_makes_its_own) {
    kvf_unix_listener_t mine;
    const int other = open(folder, O_RDONLY | O_DIRECTORY);
    cr_assert(other >= 0 && flock(other, LOCK_EX) == 0);
    cr_assert_eq(kvf_unix_listen(&mine, path, SOCK_STREAM, 0600), KVF_ERR_BUSY);
    cr_assert_neq(access(path, F_OK), 0);
    close(other);
    cr_assert_eq(kvf_unix_listen(&mine, path, SOCK_STREAM, 0600), KVF_OK);
    kvf_unix_close(&mine);
    stop();
}

Test(admin_socket, what_is_not_a_socket_is_never_removed) {
    FILE *file = fopen(path, "w");
    cr_assert(file != NULL);
    fclose(file);
    cr_assert_eq(kvf_admin_start(path, 0660, commands, COMMANDS, NULL, &admin), KVF_ERR_ADDRESS);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(symlink("/nowhere", path), 0);
    cr_assert_eq(kvf_admin_start(path, 0660, commands, COMMANDS, NULL, &admin), KVF_ERR_ADDRESS);
    cr_assert_eq(unlink(path), 0);
    stop();
}

Test(admin_socket, a_path_that_cannot_be_is_an_error) {
    char longer[200];
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    cr_assert_eq(kvf_admin_start(longer, 0660, commands, COMMANDS, NULL, &admin), KVF_ERR_TOO_LARGE);
    cr_assert_eq(kvf_admin_start("", 0660, commands, COMMANDS, NULL, &admin), KVF_ERR_INVALID);
    cr_assert_eq(kvf_admin_start("/nowhere/x", 0660, commands, COMMANDS, NULL, &admin), KVF_ERR_NOT_FOUND);
    stop();
}

Test(admin_socket, a_socket_that_took_our_place_is_not_removed) {
    kvf_unix_listener_t ours, theirs;
    cr_assert_eq(kvf_unix_listen(&ours, path, SOCK_STREAM, 0600), KVF_OK);
    unlink(path);
    cr_assert_eq(kvf_unix_listen(&theirs, path, SOCK_STREAM, 0600), KVF_OK);
    kvf_unix_close(&ours);
    cr_assert_eq(access(path, F_OK), 0);
    kvf_unix_close(&theirs);
    stop();
}

Test(admin_socket, sockets_of_packets_follow_the_same_rules) {
    kvf_unix_listener_t dead, first, second;
    cr_assert_eq(kvf_unix_listen(&dead, path, SOCK_SEQPACKET, 0600), KVF_OK);
    close(dead.fd);
    cr_assert_eq(kvf_unix_listen(&first, path, SOCK_SEQPACKET, 0660), KVF_OK);
    cr_assert_eq(mode_of_socket(), 0660);
    cr_assert_eq(kvf_unix_listen(&second, path, SOCK_SEQPACKET, 0600), KVF_ERR_ADDRESS_IN_USE);
    cr_assert_eq(kvf_unix_listen(&second, path, SOCK_STREAM, 0600), KVF_ERR_ADDRESS_IN_USE, "of the other type, too");
    kvf_unix_close(&first);
    cr_assert_neq(access(path, F_OK), 0);
    stop();
}

static unsigned count_descriptors(void) {
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    cr_assert(dir != NULL);
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

Test(admin_socket, start_and_stop_leave_no_descriptor_open) {
    unsigned before = 0;
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(kvf_admin_start(path, 0660, commands, COMMANDS, world, &admin), KVF_OK);
        const int fd = open_client();
        ask(fd, "big\nbig\n"); /* an answer is on its way while we stop */
        sleep_ms(20);
        kvf_admin_stop(admin);
        close(fd);
        if (i == 0) before = count_descriptors(); /* libuv keeps some for the process */
    }
    admin = NULL;
    cr_assert_eq(count_descriptors(), before);
    stop();
}

/* ---- the parser ---- */

static kvf_status_t parse(const char *bytes, size_t count, size_t *consumed, char *request) {
    char *copy = malloc(count ? count : 1); /* exact, so that a sanitizer sees a byte too many */
    cr_assert(copy != NULL);
    memset(copy, 0, count ? count : 1);
    memcpy(copy, bytes, count);
    const kvf_status_t status = kvf_admin_parse(copy, count, consumed, request);
    free(copy);
    return status;
}

Test(admin_parse, words_are_joined_by_one_blank) {
    static const struct {
        const char *bytes, *request;
        size_t consumed;
    } cases[] = {{"stats\n", "stats", 6},
                 {"stats\r\nx", "stats", 7},
                 {" \t a  b\t c \n", "a b c", 12},
                 {"\n", "", 1},
                 {"\r\n", "", 2},
                 {"   \n", "", 4},
                 {"a\nb\n", "a", 2},
                 {"~!\n", "~!", 3}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char request[KVF_ADMIN_LINE_BYTES];
        size_t consumed;
        cr_assert_eq(parse(cases[i].bytes, strlen(cases[i].bytes), &consumed, request), KVF_OK);
        cr_assert_str_eq(request, cases[i].request);
        cr_assert_eq(consumed, cases[i].consumed, "%s: %zu", cases[i].bytes, consumed);
    }
}

Test(admin_parse, other_bytes_are_invalid_and_their_line_is_skipped) {
    static const char *const lines[] = {"a\x01\n", "\x7f\n", "a\rb\n", "\xc3\xa9\n", "a\r\r\n", "\x1b[0m\n"};
    char request[KVF_ADMIN_LINE_BYTES];
    size_t consumed;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        cr_assert_eq(parse(lines[i], strlen(lines[i]), &consumed, request), KVF_ERR_INVALID, "case %zu", i);
        cr_assert_eq(consumed, strlen(lines[i]));
        cr_assert_str_eq(request, "");
    }
    cr_assert_eq(parse("a\0b\n", 4, &consumed, request), KVF_ERR_INVALID);
}

Test(admin_parse, a_line_is_waited_for_up_to_the_limit) {
    char bytes[KVF_ADMIN_LINE_BYTES + 1], request[KVF_ADMIN_LINE_BYTES];
    size_t consumed;
    memset(bytes, 'a', sizeof(bytes));
    cr_assert_eq(parse(bytes, 0, &consumed, request), KVF_IN_PROGRESS);
    cr_assert_eq(parse(bytes, KVF_ADMIN_LINE_BYTES - 1, &consumed, request), KVF_IN_PROGRESS);
    cr_assert_eq(parse(bytes, KVF_ADMIN_LINE_BYTES, &consumed, request), KVF_ERR_TOO_LARGE);
    cr_assert_eq(consumed, 0);
    bytes[KVF_ADMIN_LINE_BYTES - 1] = '\n';
    cr_assert_eq(parse(bytes, sizeof(bytes), &consumed, request), KVF_OK);
    cr_assert_eq(strlen(request), KVF_ADMIN_LINE_BYTES - 1);
    memset(bytes, 'a', sizeof(bytes));
    bytes[KVF_ADMIN_LINE_BYTES] = '\n';
    cr_assert_eq(parse(bytes, sizeof(bytes), &consumed, request), KVF_ERR_TOO_LARGE);
}

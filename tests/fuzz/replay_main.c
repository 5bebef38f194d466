/* replay_main.c - runs a fuzz target without a fuzzer: NAME_replay CORPUS [MUTATIONS [FILE [NUMBER]]].
 * Each file of CORPUS as it is (mutation 0), then MUTATIONS changed forms of it, the same ones on every machine and in
 * every run. A crash or a hang names its input; FILE and NUMBER (from that line) run that one alone, and write it to
 * stdout. */
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);
/* A sanitizer that found something aborts, so that on_crash can name the input. */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

enum {
    FILES_MAX = 1024,
    NAME_BYTES = 256,
    INPUT_BYTES_MAX = 1 << 20,
    GROWTH_BYTES = 4096,
    CHANGES_MAX = 8,
    HANG_S = 20
};

typedef struct input {
    char name[NAME_BYTES];
    uint8_t *bytes;
    size_t count;
} input_t;

static input_t inputs[FILES_MAX];
static size_t input_count;
static char running[NAME_BYTES + 64];

const char *__asan_default_options(void) { return "abort_on_error=1"; }
const char *__ubsan_default_options(void) { return "abort_on_error=1:print_stacktrace=1"; }

static void on_crash(int number) {
    if (write(STDERR_FILENO, running, strlen(running)) < 0) _exit(2);
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 (Steele, Lea, Flood: Fast splittable PRNGs, OOPSLA 2014) */
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static size_t below(uint64_t *state, size_t limit) { return limit ? (size_t)(next_random(state) % limit) : 0; }

/* Makes room for (or removes) bytes at `at`; 0 if there is none. */
static size_t open_gap(uint8_t *bytes, size_t *count, size_t capacity, size_t at, size_t gap) {
    if (gap > capacity - *count) gap = capacity - *count;
    memmove(bytes + at + gap, bytes + at, *count - at);
    *count += gap;
    return gap;
}

/* One change to the [*count] bytes, of which there may be [capacity]. */
static void change(uint8_t *bytes, size_t *count, size_t capacity, uint64_t *state) {
    static const uint8_t special[] = {0, 1, 0x7f, 0x80, 0xff, '\n', '\r', ' ', '=', '#', '-', '0', '9', '"', '\\', '%'};
    const size_t at = below(state, *count), last = below(state, *count + 1);
    const input_t *other = &inputs[below(state, input_count)];
    size_t size = 1 + below(state, 16);
    switch (*count ? below(state, 8) : 4) {
    case 0: bytes[at] ^= (uint8_t)(1u << below(state, 8)); return;
    case 1: bytes[at] = special[below(state, sizeof(special))]; return;
    case 2: bytes[at] = (uint8_t)next_random(state); return;
    case 3: *count = last; return;
    case 4: /* new bytes */
        size = open_gap(bytes, count, capacity, last, size);
        for (size_t i = 0; i < size; i++) bytes[last + i] = special[below(state, sizeof(special))];
        return;
    case 5: /* some bytes again */
        if (size > *count - at) size = *count - at;
        size = open_gap(bytes, count, capacity, at, size);
        memcpy(bytes + at, bytes + at + size, size < *count - at - size ? size : *count - at - size);
        return;
    case 6: /* some bytes less */
        if (size > *count - at) size = *count - at;
        memmove(bytes + at, bytes + at + size, *count - at - size);
        *count -= size;
        return;
    default: { /* a part of another input */
        const size_t from = below(state, other->count + 1);
        size = other->count - from < GROWTH_BYTES / 4 ? other->count - from : GROWTH_BYTES / 4;
        size = open_gap(bytes, count, capacity, last, size);
        memcpy(bytes + last, other->bytes + from, size);
        return;
    }
    }
}

/* The target gets bytes of their exact size, so that a sanitizer sees a read beyond them. */
static void run(const uint8_t *bytes, size_t count) {
    uint8_t *copy = malloc(count ? count : 1);
    if (!copy) abort();
    memcpy(copy, bytes, count);
    (void)alarm(HANG_S); /* a hang names its input too */
    (void)LLVMFuzzerTestOneInput(copy, count);
    (void)alarm(0);
    free(copy);
}

static void run_mutation(const input_t *input, size_t index, uint64_t number, uint8_t *scratch, FILE *out) {
    uint64_t state = (uint64_t)index << 32 ^ number;
    size_t count = input->count;
    memcpy(scratch, input->bytes, count);
    if (number > 0)
        for (size_t i = 1 + below(&state, CHANGES_MAX); i > 0; i--)
            change(scratch, &count, input->count + GROWTH_BYTES, &state);
    (void)snprintf(running, sizeof(running), "replay: crashed on %.*s mutation %llu\n", NAME_BYTES, input->name,
                   (unsigned long long)number);
    if (out && fwrite(scratch, 1, count, out) != count) perror("replay: stdout");
    run(scratch, count);
}

static int read_input(const char *folder, const char *name) {
    char path[2 * NAME_BYTES];
    input_t *input = &inputs[input_count];
    const int size = snprintf(path, sizeof(path), "%s/%s", folder, name);
    if (size < 0 || (size_t)size >= sizeof(path) || input_count == FILES_MAX || strlen(name) >= NAME_BYTES) return -1;
    FILE *file = fopen(path, "rb");
    if (!file) return -1;
    input->bytes = malloc(INPUT_BYTES_MAX + 1);
    if (input->bytes) input->count = fread(input->bytes, 1, INPUT_BYTES_MAX + 1, file);
    const int failed = !input->bytes || ferror(file) || input->count > INPUT_BYTES_MAX;
    (void)fclose(file);
    if (failed) return -1;
    uint8_t *exact = realloc(input->bytes, input->count + 1);
    if (exact) input->bytes = exact;
    memcpy(input->name, name, strlen(name) + 1);
    input_count++;
    return 0;
}

static int compare(const void *a, const void *b) {
    return strcmp(((const input_t *)a)->name, ((const input_t *)b)->name);
}

/* All files of the folder, in the order of their names. */
static int read_corpus(const char *folder) {
    const struct dirent *entry;
    DIR *dir = opendir(folder);
    if (!dir) return -1;
    while ((entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.' && read_input(folder, entry->d_name) != 0) {
            (void)closedir(dir);
            return -1;
        }
    (void)closedir(dir);
    qsort(inputs, input_count, sizeof(inputs[0]), compare);
    return 0;
}

int main(int argc, char **argv) {
    static const int crashes[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    const char *only = argc > 3 ? argv[3] : NULL;
    const uint64_t mutations = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    const uint64_t first = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
    uint64_t runs = 0;
    if (argc < 2 || read_corpus(argv[1]) != 0 || input_count == 0) {
        (void)fprintf(stderr, "replay: no corpus that can be read in %s\n", argc > 1 ? argv[1] : "(no folder named)");
        return 2;
    }
    for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++) (void)signal(crashes[i], on_crash);
    uint8_t *scratch = malloc(INPUT_BYTES_MAX + GROWTH_BYTES);
    if (!scratch) return 2;
    run(scratch, 0);
    for (size_t i = 0; i < input_count; i++) {
        if (only && strcmp(only, inputs[i].name) != 0) continue;
        for (uint64_t k = first; k <= (argc > 4 ? first : mutations); k++, runs++)
            run_mutation(&inputs[i], i, k, scratch, argc > 4 ? stdout : NULL);
    }
    (void)fprintf(stderr, "replay: %llu inputs of %zu files\n", (unsigned long long)runs, input_count);
    for (size_t i = 0; i < input_count; i++) free(inputs[i].bytes);
    free(scratch);
    return runs ? 0 : 2;
}

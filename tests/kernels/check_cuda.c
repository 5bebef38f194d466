/* check_cuda.c - what a GPU computes against the reference in C, on random and edge inputs.
 *
 *   check_cuda                     compares; exit 1 and a line for each difference, 77 where there is nothing to compare
 *   check_cuda --bench [GROUPS]    that, then rates on 65536 row groups
 *
 * Linked with tests/kernels/cuda_emulated/, the same kernels run on the processor. */
#include "tests/kernels/check_cuda.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SKIPPED = 77, MEMORY_MAX = 64 };

const kvf_cuda_kernels_t *check_table;
kvf_cuda_t *check_cuda;

static uint64_t random_state = 0x9e3779b97f4a7c15;
static void *memory[MEMORY_MAX];
static unsigned used_memory, failures;

uint64_t check_draw(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

unsigned check_below(unsigned end) { return (unsigned)((check_draw() >> 20) % end); }

float check_value(void) {
    uint32_t bits = (uint32_t)(check_draw() >> 32);
    float value = (float)((double)bits / 0x1p31 - 1);
    unsigned kind = check_below(8);
    if (kind > 2) return value;
    if (kind > 0) { /* about fp16's range, and half way between two values of a short format */
        value = ldexpf(value, (int)check_below(46) - 28);
        memcpy(&bits, &value, sizeof(bits));
        bits = kind == 1 ? (bits & 0xffff0000) | 0x8000 : (bits & 0xffffe000) | 0x1000;
    }
    memcpy(&value, &bits, sizeof(value));
    return value;
}

void check_fail(const char *kernel, const char *format, ...) {
    if (failures++ >= 20) return;
    va_list args;
    va_start(args, format);
    printf("FAIL %s: ", kernel);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

void check_ok(kvf_cuda_status_t status, const char *what) {
    if (!status) return;
    printf("FAIL %s: %d, %s\n", what, (int)status, check_table->error(check_cuda));
    exit(1);
}

void *check_make(size_t bytes) {
    uint8_t *filled = malloc(bytes ? bytes : 1);
    if (!filled) abort();
    memset(filled, 0xa5, bytes);
    void *made = check_put(filled, bytes);
    free(filled);
    return made;
}

void *check_put(const void *from, size_t bytes) {
    if (used_memory == MEMORY_MAX) abort();
    check_ok(check_table->alloc(check_cuda, bytes, &memory[used_memory]), "alloc");
    check_ok(check_table->write(check_cuda, memory[used_memory], from, bytes), "write");
    return memory[used_memory++];
}

void check_get(void *to, const void *from, size_t bytes) {
    check_ok(check_table->read(check_cuda, to, from, bytes), "read");
}

void check_release(void) {
    while (used_memory) check_table->free(check_cuda, memory[--used_memory]);
}

void check_same(const char *kernel, unsigned dim, const float *got, const float *want, size_t count) {
    float *read = malloc(count * sizeof(*read));
    if (!read) abort();
    check_get(read, got, count * sizeof(*read));
    for (size_t i = 0; i < count; i++)
        if (memcmp(&read[i], &want[i], sizeof(*read)) != 0 && !(isnan(read[i]) && isnan(want[i]))) {
            check_fail(kernel, "dim %u: number %zu is %g, not %g", dim, i, (double)read[i], (double)want[i]);
            break;
        }
    free(read);
}

static void check_errors(void) {
    kvf_cuda_t *none = NULL;
    if (check_table->open(-1, &none) != KVF_CUDA_NO_GPU || check_table->open(1 << 20, &none) != KVF_CUDA_NO_GPU || none)
        check_fail("open", "a device that is none");
    check_table->close(NULL);
    const kvf_cuda_part_shape_t shape = {.dim = KVF_CUDA_DIM_MAX + 1, .rows = 1};
    kvf_cuda_status_t refused[] = {
        check_table->hadamard(check_cuda, NULL, 1, 0),
        check_table->hadamard(check_cuda, NULL, 1, KVF_CUDA_DIM_MAX + 1),
        check_table->hadamard(check_cuda, NULL, (size_t)KVF_CUDA_GROUPS_MAX + 1, 8),
        check_table->rotate(check_cuda, NULL, 1, 8, 10, KVF_ROTATE_PAIRS, NULL, NULL, NULL, 0),
        check_table->rotate(check_cuda, NULL, 1, 8, 8, 3, NULL, NULL, NULL, 0),
        check_table->load_rows(check_cuda, NULL, NULL, NULL, 1, 8, 4),
        check_table->store_rows(check_cuda, NULL, NULL, 1, 8, 0, NULL),
        check_table->quantise(check_cuda, NULL, NULL, NULL, SIZE_MAX, 8),
        check_table->cosines(check_cuda, NULL, NULL, (float[]){1}, 1, NULL, NULL, 1, 8, KVF_VALUES_BF16),
        check_table->read_parts(check_cuda, &(kvf_cuda_planes_t){0}, NULL, &shape, &(kvf_cuda_hints_t){0}, NULL, NULL,
                                1),
    };
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        if (refused[i] != KVF_CUDA_INVALID) check_fail("limits", "call %zu was not refused", i);
    check_ok(check_table->hadamard(check_cuda, NULL, 0, 8), "no groups");
    check_ok(check_table->wait(check_cuda), "wait");
}

int main(int argc, char **argv) {
    check_table = kvf_cuda_kernels();
    kvf_cuda_status_t status = check_table ? check_table->open(0, &check_cuda) : KVF_CUDA_NO_GPU;
    if (status == KVF_CUDA_NO_GPU) {
        printf("SKIPPED: %s. NOTHING OF CUDA WAS CHECKED.\n", check_table ? "no GPU" : "built without CUDA");
        return SKIPPED;
    }
    if (status) {
        printf("FAIL open: %d\n", (int)status);
        return 1;
    }
    printf("on: %s\n", check_table->name(check_cuda));
    check_errors();
    check_cuda_rows();
    check_cuda_rans();
    check_cuda_parts();
    check_cuda_cosines();
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) bench_cuda(argc > 2 ? strtoul(argv[2], NULL, 10) : 65536);
    check_table->close(check_cuda);
    printf("%u differences\n", failures);
    return failures ? 1 : 0;
}

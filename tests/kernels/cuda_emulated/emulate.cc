/* emulate.cc - blocks of threads as contexts that take turns. See cuda_runtime.h. */
#include <cuda_runtime.h>

#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

dim3 threadIdx, blockIdx, blockDim, gridDim;

enum { WARP = 32, THREADS_MAX = 1024, STACK_BYTES = 128 << 10, FOR_BLOCK = 1, FOR_WARP = 2 };

typedef struct context {
    ucontext_t where;
    char *stack;
    int waits, place; /* waits: 0 it can go on; place: of the wait */
    bool is_done;
    uint32_t given;
} context_t;

static context_t contexts[THREADS_MAX];
static uint32_t exchanged[THREADS_MAX / WARP][WARP];
static ucontext_t scheduler;
static context_t *current;
static const std::function<void()> *body;

static void fail(const char *what) {
    fprintf(stderr, "emulated block %u, thread %u: %s\n", blockIdx.x, threadIdx.x, what);
    abort();
}

static void wait_for(int what, int place) {
    current->waits = what;
    current->place = place;
    swapcontext(&current->where, &scheduler);
}

void emulated_block_wait(int place) { wait_for(FOR_BLOCK, place); }

const uint32_t *emulated_warp_exchange(uint32_t value, int place) {
    unsigned warp = threadIdx.x / WARP;
    current->given = value;
    wait_for(FOR_WARP, place);
    return exchanged[warp];
}

uint32_t emulated_ballot(uint32_t mask, bool is_so, int place) {
    if (mask != UINT32_MAX) fail("a vote of some threads alone");
    const uint32_t *given = emulated_warp_exchange(is_so, place);
    uint32_t votes = 0;
    for (unsigned i = 0; i < WARP; i++) votes |= given[i] << i;
    return votes;
}

float emulated_shuffle(uint32_t mask, float value, int from, int place) {
    if (mask != UINT32_MAX) fail("a shuffle of some threads alone");
    return __uint_as_float(emulated_warp_exchange(__float_as_uint(value), place)[from & (WARP - 1)]);
}

static void run_body(void) {
    (*body)();
    current->is_done = true;
    swapcontext(&current->where, &scheduler);
}

static void start(unsigned thread) {
    context_t *context = &contexts[thread];
    if (!context->stack) context->stack = (char *)malloc(STACK_BYTES);
    if (!context->stack) fail("out of memory");
    context->is_done = false;
    context->waits = 0;
    getcontext(&context->where);
    context->where.uc_stack.ss_sp = context->stack;
    context->where.uc_stack.ss_size = STACK_BYTES;
    context->where.uc_link = NULL;
    makecontext(&context->where, run_body, 0);
}

/* Lets go of threads [first, end) if all that have not ended wait for `what`, in one place; a warp's must all be there. */
static bool let_go(unsigned first, unsigned end, int what) {
    int place = 0;
    bool is_end = false;
    for (unsigned t = first; t < end; t++) {
        is_end |= contexts[t].is_done;
        if (contexts[t].is_done) continue;
        if (contexts[t].waits != what) return false;
        if (place && contexts[t].place != place) fail("threads wait in different places");
        place = contexts[t].place;
    }
    if (!place) return false;
    if (what == FOR_WARP && (is_end || end - first != WARP)) fail("a warp waits for threads that have ended");
    for (unsigned t = first; t < end; t++) {
        if (what == FOR_WARP) exchanged[first / WARP][t - first] = contexts[t].given;
        contexts[t].waits = 0;
    }
    return true;
}

static bool let_all_go(unsigned threads) {
    bool is_any = false;
    for (unsigned first = 0; first < threads; first += WARP)
        is_any |= let_go(first, first + WARP < threads ? first + WARP : threads, FOR_WARP);
    return is_any || let_go(0, threads, FOR_BLOCK);
}

/* `is_reverse`: the last threads go first. What depends on the order is an error that this may show. */
static void run_block(unsigned threads, bool is_reverse) {
    unsigned left = threads;
    for (unsigned t = 0; t < threads; t++) start(t);
    while (left) {
        for (unsigned i = 0; i < threads; i++) {
            threadIdx.x = is_reverse ? threads - 1 - i : i;
            current = &contexts[threadIdx.x];
            if (current->is_done || current->waits) continue;
            swapcontext(&scheduler, &current->where);
            left -= current->is_done;
        }
        if (left && !let_all_go(threads)) fail("threads wait for each other");
    }
}

void emulated_launch(dim3 grid, dim3 block, const std::function<void()> &thread) {
    static bool is_reverse;
    if (block.x > THREADS_MAX || block.y != 1 || block.z != 1 || grid.z != 1) fail("a launch of another shape");
    gridDim = grid;
    blockDim = block;
    body = &thread;
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            blockIdx = dim3(x, y);
            run_block(block.x, is_reverse);
        }
    is_reverse = !is_reverse;
    for (context_t &context : contexts) {
        free(context.stack);
        context.stack = NULL;
    }
}

/* ---- the host's side ---- */

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    snprintf(properties->name, sizeof(properties->name), "no GPU, emulated");
    properties->major = 8;
    return device ? cudaErrorInvalidDevice : cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device ? cudaErrorInvalidDevice : cudaSuccess; }
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "none" : "emulated"; }
const char *cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory" : "error";
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    (void)flags;
    *stream = NULL;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return stream ? cudaErrorInvalidDevice : cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return stream ? cudaErrorInvalidDevice : cudaSuccess; }

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    *memory = malloc(bytes);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *memory) {
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    (void)kind;
    (void)stream;
    memcpy(to, from, bytes);
    return cudaSuccess;
}

/* device.cu - devices, their memory, their errors, and the table. */
#include "kernels/cuda/internal.cuh"

#include <new>
#include <stdio.h>
#include <string.h>

kvf_cuda_status_t kvf__cuda_check(kvf_cuda_t *cuda, cudaError_t error) {
    if (error == cudaSuccess) return KVF_CUDA_OK;
    snprintf(cuda->error, sizeof(cuda->error), "%s: %s", cudaGetErrorName(error), cudaGetErrorString(error));
    cudaGetLastError(); /* else the next call that asks is told of this one again */
    return error == cudaErrorMemoryAllocation ? KVF_CUDA_NO_MEMORY : KVF_CUDA_FAILED;
}

/* Without a driver, with one that is older than the runtime, or with no device at all, counting them fails. */
static bool is_usable(int device, cudaDeviceProp *properties) {
    int count = 0;
    bool is_there = cudaGetDeviceCount(&count) == cudaSuccess && device >= 0 && device < count &&
                    cudaGetDeviceProperties(properties, device) == cudaSuccess;
    if (!is_there) cudaGetLastError();
    return is_there && properties->major >= KVF_CUDA_CAPABILITY;
}

static kvf_cuda_status_t device_open(int device, kvf_cuda_t **cuda) {
    cudaDeviceProp properties;
    if (!is_usable(device, &properties)) return KVF_CUDA_NO_GPU;
    kvf_cuda_t *made = new (std::nothrow) kvf_cuda_t();
    if (!made) return KVF_CUDA_NO_MEMORY;
    made->device = device;
    snprintf(made->name, sizeof(made->name), "%.255s", properties.name);
    cudaError_t error = cudaSetDevice(device);
    if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking);
    kvf_cuda_status_t status = kvf__cuda_check(made, error);
    if (status)
        delete made;
    else
        *cuda = made;
    return status;
}

static void device_close(kvf_cuda_t *cuda) {
    if (!cuda) return;
    cudaSetDevice(cuda->device);
    cudaStreamSynchronize(cuda->stream);
    cudaStreamDestroy(cuda->stream);
    delete cuda;
}

static const char *device_name(const kvf_cuda_t *cuda) { return cuda->name; }
static const char *device_error(const kvf_cuda_t *cuda) { return cuda->error; }

static kvf_cuda_status_t device_alloc(kvf_cuda_t *cuda, size_t bytes, void **memory) {
    void *made = NULL;
    cudaError_t error = cudaSetDevice(cuda->device);
    if (error == cudaSuccess) error = cudaMalloc(&made, bytes ? bytes : 1);
    kvf_cuda_status_t status = kvf__cuda_check(cuda, error);
    if (!status) *memory = made;
    return status;
}

static void device_free(kvf_cuda_t *cuda, void *memory) {
    if (cudaSetDevice(cuda->device) == cudaSuccess) cudaFree(memory); /* waits for what uses it */
}

static kvf_cuda_status_t device_wait(kvf_cuda_t *cuda) {
    cudaError_t error = cudaSetDevice(cuda->device);
    if (error == cudaSuccess) error = cudaStreamSynchronize(cuda->stream);
    return kvf__cuda_check(cuda, error);
}

static kvf_cuda_status_t copy(kvf_cuda_t *cuda, void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    cudaError_t error = cudaSetDevice(cuda->device);
    if (error == cudaSuccess && bytes) error = cudaMemcpyAsync(to, from, bytes, kind, cuda->stream);
    kvf_cuda_status_t status = kvf__cuda_check(cuda, error);
    return status ? status : device_wait(cuda);
}

static kvf_cuda_status_t device_write(kvf_cuda_t *cuda, void *to, const void *from, size_t bytes) {
    return copy(cuda, to, from, bytes, cudaMemcpyHostToDevice);
}

static kvf_cuda_status_t device_read(kvf_cuda_t *cuda, void *to, const void *from, size_t bytes) {
    return copy(cuda, to, from, bytes, cudaMemcpyDeviceToHost);
}

static kvf_cuda_kernels_t make_table(void) {
    kvf_cuda_kernels_t table = {};
    table.open = device_open;
    table.close = device_close;
    table.name = device_name;
    table.error = device_error;
    table.alloc = device_alloc;
    table.free = device_free;
    table.write = device_write;
    table.read = device_read;
    table.wait = device_wait;
    kvf__cuda_fill_rows(&table);
    kvf__cuda_fill_transforms(&table);
    kvf__cuda_fill_rans(&table);
    kvf__cuda_fill_part(&table);
    kvf__cuda_fill_cosine(&table);
    return table;
}

const kvf_cuda_kernels_t *kvf_cuda_kernels(void) {
    static const kvf_cuda_kernels_t table = make_table();
    return &table;
}

#include "fake_runtime.h"

namespace fake_runtime {

Runtime& runtime() {
    static Runtime once;
    return once;
}

namespace {

struct Configuration {
    dim3 grid, block;
    size_t shared;
    void* stream;
};

Configuration pending;

cudaError_t ended(cudaError_t status) {
    if (status != cudaSuccess) runtime().last = status;
    return status;
}

}  // namespace
}  // namespace fake_runtime

using fake_runtime::ended;
using fake_runtime::pending;
using fake_runtime::runtime;

extern "C" {

cudaError_t cudaGetDevice(int* device) {
    *device = runtime().device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    ++runtime().calls["cudaDeviceGetAttribute"];
    const int optin = runtime().optin.at(static_cast<size_t>(device));
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount: *value = 10 + device; return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = optin; return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = optin + 1024; return cudaSuccess;
        case cudaDevAttrReservedSharedMemoryPerBlock: *value = 1024; return cudaSuccess;
        default: return ended(cudaErrorInvalidValue);
    }
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    ++runtime().calls["cudaFuncGetAttributes"];
    *attributes = cudaFuncAttributes{};
    attributes->sharedSizeBytes = static_cast<size_t>(runtime().static_shared);
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    ++runtime().calls["cudaFuncSetAttribute"];
    const std::pair<int, const void*> key{runtime().device, kernel};
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) {
        runtime().hint[key] = value;
        return cudaSuccess;
    }
    const int most = runtime().optin.at(static_cast<size_t>(runtime().device)) - runtime().static_shared;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value > most) return ended(cudaErrorInvalidValue);
    runtime().allowed[key] = value;
    return cudaSuccess;
}

// No block where the kernel may not have so much shared memory: so is the real one.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int, size_t shared) {
    ++runtime().calls["cudaOccupancyMaxActiveBlocksPerMultiprocessor"];
    const auto allowed = runtime().allowed.find({runtime().device, kernel});
    const size_t most = allowed == runtime().allowed.end()
                            ? 48 * 1024 - static_cast<size_t>(runtime().static_shared)
                            : static_cast<size_t>(allowed->second);
    *blocks = shared > most ? 0 : runtime().resident;
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    const cudaError_t status = runtime().last;
    runtime().last = cudaSuccess;
    return status;
}

const char* cudaGetErrorString(cudaError_t status) {
    return status == cudaErrorInvalidValue ? "invalid argument" : "another error";
}

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t) {
    const auto allowed = runtime().allowed.find({runtime().device, kernel});
    const size_t most = allowed == runtime().allowed.end()
                            ? 48 * 1024 - static_cast<size_t>(runtime().static_shared)
                            : static_cast<size_t>(allowed->second);
    if (shared > most) return ended(cudaErrorInvalidValue);
    runtime().launches.push_back({runtime().device, kernel, grid.x, block.x, shared});
    return cudaSuccess;
}

// What nvcc's own code calls, before main and for <<<>>>.
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
    pending = {grid, block, shared, stream};
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    *grid = pending.grid;
    *block = pending.block;
    *shared = pending.shared;
    *static_cast<void**>(stream) = pending.stream;
    return cudaSuccess;
}
void** __cudaRegisterFatBinary(void*) {
    static void* handle;
    return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*, dim3*, int*) {}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
    return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments, shared, stream);
}

}  // extern "C"

#include <ldp/build_info.h>

#include <cuda_runtime_api.h>

namespace ldp {
namespace {

// Never launched: its attributes tell which architecture's code the runtime picks.
__global__ void probe_kernel() {}

}  // namespace

CudaBuild cuda_build() { return {CUDART_VERSION, {__CUDA_ARCH_LIST__}}; }

DeviceCode device_code(int device) {
    DeviceCode code;
    int previous = 0;
    cudaError_t status = cudaGetDevice(&previous);
    if (status == cudaSuccess) status = cudaSetDevice(device);
    if (status == cudaSuccess) {
        cudaFuncAttributes attributes;
        status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&probe_kernel));
        if (status == cudaSuccess) {
            code.binary = attributes.binaryVersion;
            code.ptx = attributes.ptxVersion;
        }
        const cudaError_t restored = cudaSetDevice(previous);
        if (status == cudaSuccess) status = restored;
    }
    if (status != cudaSuccess) {
        code.error = cudaGetErrorString(status);
        cudaGetLastError();  // otherwise torch would meet this error at its next check
    }
    return code;
}

}  // namespace ldp

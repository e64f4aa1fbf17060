// Starts kernels: LDP_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...), template kernels in parentheses,
// LDP_LAUNCH((kernel<4, true>), ...). No synchronisation; what CUDA has against the launch itself is thrown.
#pragma once

#include <ldp/device.h>

#include <atomic>
#include <stdexcept>
#include <string>

namespace ldp {

template <typename A, typename B>
LDP_HOST_DEVICE constexpr A ceil_div(A size, B part) {
    return static_cast<A>((size + static_cast<A>(part) - 1) / static_cast<A>(part));
}

}  // namespace ldp

#ifdef LDP_CUDA_ON_CPU

#define LDP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ::cuda_on_cpu::launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

namespace ldp {

inline int multiprocessors() { return ::cuda_on_cpu::kMultiprocessors; }

}  // namespace ldp

#else

#define LDP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ::ldp::launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

namespace ldp {

inline void check_cuda(const char* what, cudaError_t status) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // forgets it, or the next launch would be blamed for it
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
    // The 48 KiB that a block has without asking are for its static and its dynamic shared memory together.
    constexpr size_t kWithoutAsking = 48 * 1024 - kMostStaticShared;
    if (shared_bytes > kWithoutAsking)
        check_cuda(name,
                   cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
    check_cuda(name, cudaGetLastError());
}

// Of the current device. Asked once for each device.
inline int multiprocessors() {
    constexpr int kDevices = 64;
    static std::atomic<int> known[kDevices];
    int device = 0, count = 0;
    check_cuda("cudaGetDevice", cudaGetDevice(&device));
    if (device < kDevices && (count = known[device].load(std::memory_order_relaxed)) > 0) return count;
    check_cuda("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    if (device < kDevices) known[device].store(count, std::memory_order_relaxed);
    return count;
}

}  // namespace ldp

#endif

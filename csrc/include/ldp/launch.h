// Starts kernels: LDP_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...), template kernels in parentheses,
// LDP_LAUNCH((kernel<4, true>), ...). No synchronisation; what CUDA has against the launch itself is thrown.
//
// And says how many blocks to start: blocks_for. Nothing here does more than ask the runtime about a kernel or a
// device, once for each, so that all of it may happen inside of a capture.
#pragma once

#include <ldp/device.h>

#include <stdexcept>
#include <string>

namespace ldp {

template <typename A, typename B>
LDP_HOST_DEVICE constexpr A ceil_div(A size, B part) {
    return static_cast<A>((size + static_cast<A>(part) - 1) / static_cast<A>(part));
}

// Of the current device; memory in bytes.
struct DeviceLimits {
    int multiprocessors;
    int shared_per_block;           // static and dynamic, for a kernel that asks for more than 48 KiB
    int shared_per_multiprocessor;  // of its blocks, and of what the system reserves for each
    int shared_reserved;            // for each block
};

}  // namespace ldp

#ifdef LDP_CUDA_ON_CPU

#define LDP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ::cuda_on_cpu::launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

namespace ldp {

inline DeviceLimits device_limits() {
    const auto& limits = ::cuda_on_cpu::limits();
    return {::cuda_on_cpu::kMultiprocessors, limits.shared_per_block, limits.shared_per_multiprocessor,
            ::cuda_on_cpu::kReservedShared};
}

template <typename... Parameters>
int resident_blocks(void (*)(Parameters...), int threads, size_t shared_bytes) {
    return ::cuda_on_cpu::resident_blocks(threads, shared_bytes);
}

template <typename... Parameters>
void prefer_shared(void (*)(Parameters...)) {}

}  // namespace ldp

#else

#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

#define LDP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ::ldp::launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

namespace ldp {

inline void check_cuda(const char* what, cudaError_t status) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // forgets it, or the next launch would be blamed for it
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

inline int current_device() {
    int device = 0;
    check_cuda("cudaGetDevice", cudaGetDevice(&device));
    return device;
}

// What was asked once. Kernels, and what they may use, are a device's own: everything is kept by device.
struct Asked {
    std::mutex mutex;
    std::map<int, DeviceLimits> limits;
    std::set<std::pair<int, const void*>> with_shared, preferring_shared;
    std::map<std::tuple<int, const void*, int, size_t>, int> resident;
};

inline Asked& asked() {
    static Asked once;
    return once;
}

// With the mutex held.
inline DeviceLimits limits_of(int device) {
    const auto found = asked().limits.find(device);
    if (found != asked().limits.end()) return found->second;
    DeviceLimits limits{};
    const auto ask = [&](int* value, cudaDeviceAttr attribute) {
        check_cuda("cudaDeviceGetAttribute", cudaDeviceGetAttribute(value, attribute, device));
    };
    ask(&limits.multiprocessors, cudaDevAttrMultiProcessorCount);
    ask(&limits.shared_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    ask(&limits.shared_per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    ask(&limits.shared_reserved, cudaDevAttrReservedSharedMemoryPerBlock);
    return asked().limits[device] = limits;
}

inline DeviceLimits device_limits() {
    const int device = current_device();
    const std::lock_guard<std::mutex> lock(asked().mutex);
    return limits_of(device);
}

// Lets a kernel have all the dynamic shared memory that there is, with the mutex held. Always all of it: what one
// thread asks for would otherwise be taken back by another that starts the same kernel with less, between the
// first one's question and its launch.
inline void allow_shared(const void* kernel, int device) {
    if (asked().with_shared.count({device, kernel}) != 0) return;
    cudaFuncAttributes attributes{};
    check_cuda("cudaFuncGetAttributes", cudaFuncGetAttributes(&attributes, kernel));
    const int most = limits_of(device).shared_per_block - static_cast<int>(attributes.sharedSizeBytes);
    check_cuda("cudaFuncSetAttribute",
               cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
    asked().with_shared.insert({device, kernel});
}

// The 48 KiB that a block has without asking are for its static and its dynamic shared memory together.
constexpr size_t kWithoutAsking = 48 * 1024 - kMostStaticShared;

// Blocks of a kernel that a multiprocessor of the current device holds at once, by registers, threads and shared
// memory. At least 1: what does not fit at all is for the launch to say.
template <typename... Parameters>
int resident_blocks(void (*kernel)(Parameters...), int threads, size_t shared_bytes) {
    const auto* const function = reinterpret_cast<const void*>(kernel);
    const int device = current_device();
    const std::lock_guard<std::mutex> lock(asked().mutex);
    const auto key = std::make_tuple(device, function, threads, shared_bytes);
    const auto found = asked().resident.find(key);
    if (found != asked().resident.end()) return found->second;
    if (shared_bytes > kWithoutAsking) allow_shared(function, device);
    int blocks = 0;
    check_cuda("cudaOccupancyMaxActiveBlocksPerMultiprocessor",
               cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, threads, shared_bytes));
    return asked().resident[key] = larger(blocks, 1);
}

// For kernels whose blocks share a multiprocessor's shared memory down to the last kilobyte: the driver, which divides
// it from the first-level cache, is told so. It is a hint.
template <typename... Parameters>
void prefer_shared(void (*kernel)(Parameters...)) {
    const auto* const function = reinterpret_cast<const void*>(kernel);
    const int device = current_device();
    const std::lock_guard<std::mutex> lock(asked().mutex);
    if (!asked().preferring_shared.insert({device, function}).second) return;
    check_cuda("cudaFuncSetAttribute", cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                                                            cudaSharedmemCarveoutMaxShared));
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
    if (shared_bytes > kWithoutAsking) {
        const int device = current_device();
        const std::lock_guard<std::mutex> lock(asked().mutex);
        allow_shared(reinterpret_cast<const void*>(kernel), device);
    }
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
    check_cuda(name, cudaGetLastError());
}

}  // namespace ldp

#endif

namespace ldp {

inline int multiprocessors() { return device_limits().multiprocessors; }

// Blocks to start for `wanted` blocks' work, at least 1, where blocks stride over what is left: all of them, or as many
// as the device holds at once, `waves` times. One wave where a block has something to prepare; some where blocks take
// unequal time, so that those that are done make room.
template <typename... Parameters>
unsigned blocks_for(int64_t wanted, void (*kernel)(Parameters...), int threads, size_t shared_bytes, int waves) {
    const int64_t most = int64_t{waves} * resident_blocks(kernel, threads, shared_bytes) * multiprocessors();
    return static_cast<unsigned>(larger<int64_t>(1, smaller(wanted, most)));
}

}  // namespace ldp

// What every .cu file starts from: CUDA's words, half precision, shared memory. No torch.
//
// The same file is compiled by nvcc, and, with LDP_CUDA_ON_CPU, as C++ for the tests (tests/cuda_on_cpu): so kernels
// are started by LDP_LAUNCH (launch.h), shared memory is declared by the macros below, and what is more than plain CUDA
// C++ stands in warp.h and mma.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ldp/host_device.h>

namespace ldp {

// Bytes that a kernel declares; launch.h has to know how much dynamic shared memory a launch gets beside them.
constexpr size_t kMostStaticShared = 8 * 1024;

}  // namespace ldp

#ifdef LDP_CUDA_ON_CPU
#include "cuda_on_cpu.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// An array `type name[count]` in shared memory, 16-byte aligned. `name` may be a pointer: no sizeof.
#define LDP_SHARED(type, name, count)          \
    __shared__ __align__(16) type name[count]; \
    static_assert(sizeof(type) * (count) <= ::ldp::kMostStaticShared, #name)

// A pointer `type* name` to the shared memory the launch asked for, 16-byte aligned; the same in every use.
#define LDP_DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(16) unsigned char ldp_dynamic_shared[]; \
    type* const name = reinterpret_cast<type*>(ldp_dynamic_shared)
#endif

namespace ldp {

using half = ::__half;
using half2 = ::__half2;

__device__ __forceinline__ float to_float(half value) { return __half2float(value); }
__device__ __forceinline__ float2 to_float2(half2 pair) { return __half22float2(pair); }

// To nearest, ties to even; beyond 65504 infinity.
__device__ __forceinline__ half to_half(float value) { return __float2half_rn(value); }
__device__ __forceinline__ half2 to_half2(float low, float high) { return __floats2half2_rn(low, high); }

// An access of 4, 8 or 16 bytes at once through the type of the register(s): load_as<float4>(pointer). The address must
// be a multiple of the type's size. Read-only: the data does not change while the kernel runs.
template <typename Wide, typename T>
__device__ __forceinline__ Wide load_as(const T* pointer) {
    return *reinterpret_cast<const Wide*>(pointer);
}

template <typename Wide, typename T>
__device__ __forceinline__ Wide load_read_only(const T* pointer) {
    return __ldg(reinterpret_cast<const Wide*>(pointer));
}

template <typename Wide, typename T>
__device__ __forceinline__ void store_as(T* pointer, Wide value) {
    *reinterpret_cast<Wide*>(pointer) = value;
}

}  // namespace ldp

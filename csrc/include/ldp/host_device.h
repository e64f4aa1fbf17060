// Functions that run on the host and on the device, and arithmetic that gives the same bits on both.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define LDP_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define LDP_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace ldp {

// nvcc contracts a * b + c into one rounding, a host compiler may or may not. Where samples must be the same on CPU and
// GPU (ray marching, random numbers) these are written out: one IEEE rounding each, never contracted.
#if defined(__CUDA_ARCH__)
LDP_HOST_DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
LDP_HOST_DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
LDP_HOST_DEVICE float sub_rn(float a, float b) { return __fsub_rn(a, b); }
LDP_HOST_DEVICE float div_rn(float a, float b) { return __fdiv_rn(a, b); }
#else
// The extension's host code is compiled with -ffp-contract=off.
LDP_HOST_DEVICE float mul_rn(float a, float b) { return a * b; }
LDP_HOST_DEVICE float add_rn(float a, float b) { return a + b; }
LDP_HOST_DEVICE float sub_rn(float a, float b) { return a - b; }
LDP_HOST_DEVICE float div_rn(float a, float b) { return a / b; }
#endif

template <typename T>
LDP_HOST_DEVICE T smaller(T a, T b) {
    return a < b ? a : b;
}

template <typename T>
LDP_HOST_DEVICE T larger(T a, T b) {
    return a > b ? a : b;
}

}  // namespace ldp

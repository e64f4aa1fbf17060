// CUDA's keywords, vector types, half precision and arithmetic functions, in plain C++. For cuda_on_cpu.h.
#pragma once

#include <ldp/half_bits.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Of the thread that runs. One copy for all files; set whenever the fibers change places.
inline uint3 threadIdx{0, 0, 0}, blockIdx{0, 0, 0};
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

#define LDP_VECTOR_TYPES(scalar, name)                                                           \
    struct alignas(2 * sizeof(scalar)) name##2 { scalar x, y; };                                 \
    struct name##3 { scalar x, y, z; };                                                          \
    struct alignas(sizeof(scalar) < 4 ? 4 * sizeof(scalar) : 16) name##4 { scalar x, y, z, w; }; \
    inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }                         \
    inline name##3 make_##name##3(scalar x, scalar y, scalar z) { return {x, y, z}; }            \
    inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

LDP_VECTOR_TYPES(float, float)
LDP_VECTOR_TYPES(int, int)
LDP_VECTOR_TYPES(unsigned char, uchar)
LDP_VECTOR_TYPES(unsigned short, ushort)
#undef LDP_VECTOR_TYPES

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};
struct alignas(16) longlong2 {
    long long x, y;
};
struct alignas(16) ulonglong2 {
    unsigned long long x, y;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }

// No operators and no conversions: torch compiles .cu files with __CUDA_NO_HALF_OPERATORS__ and its kin.
struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
    __half2() = default;
    __half2(__half low, __half high) : x(low), y(high) {}
};

inline float __half2float(__half value) { return ldp::half_value(value.bits); }
inline __half __float2half_rn(float value) { return {ldp::half_bits(value)}; }
inline __half __float2half(float value) { return __float2half_rn(value); }
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }
inline float __low2float(__half2 pair) { return __half2float(pair.x); }
inline float __high2float(__half2 pair) { return __half2float(pair.y); }
inline __half2 __floats2half2_rn(float low, float high) { return {__float2half_rn(low), __float2half_rn(high)}; }
inline __half2 __float22half2_rn(float2 pair) { return {__float2half_rn(pair.x), __float2half_rn(pair.y)}; }
inline __half2 __halves2half2(__half low, __half high) { return {low, high}; }
inline __half __low2half(__half2 pair) { return pair.x; }
inline __half __high2half(__half2 pair) { return pair.y; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

namespace cuda_on_cpu {

template <typename To, typename From>
To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

}  // namespace cuda_on_cpu

inline int __float_as_int(float value) { return ::cuda_on_cpu::bits_as<int>(value); }
inline unsigned __float_as_uint(float value) { return ::cuda_on_cpu::bits_as<unsigned>(value); }
inline float __int_as_float(int bits) { return ::cuda_on_cpu::bits_as<float>(bits); }
inline float __uint_as_float(unsigned bits) { return ::cuda_on_cpu::bits_as<float>(bits); }
inline long long __double_as_longlong(double value) { return ::cuda_on_cpu::bits_as<long long>(value); }
inline double __longlong_as_double(long long bits) { return ::cuda_on_cpu::bits_as<double>(bits); }

// Compiled with -ffp-contract=off: one rounding each.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

// The fast ones of CUDA are less accurate than these.
inline float __expf(float a) { return expf(a); }
inline float __logf(float a) { return logf(a); }
inline float __log2f(float a) { return log2f(a); }
inline float __powf(float a, float b) { return powf(a, b); }
inline float __sinf(float a) { return sinf(a); }
inline float __cosf(float a) { return cosf(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }

namespace cuda_on_cpu {

// CUDA's conversions saturate, and turn NaN into zero (into the lowest number in 64 bits).
template <typename To>
To saturated(double whole) {
    if (whole != whole) return sizeof(To) == 4 ? To(0) : static_cast<To>(1ull << 63);
    constexpr To highest = static_cast<To>(To(-1) < To(0) ? (1ull << (sizeof(To) * 8 - 1)) - 1 : ~0ull);
    constexpr To lowest = static_cast<To>(To(-1) < To(0) ? -static_cast<long long>(highest) - 1 : 0);
    if (whole >= static_cast<double>(highest)) return highest;
    return whole <= static_cast<double>(lowest) ? lowest : static_cast<To>(whole);
}

}  // namespace cuda_on_cpu

inline int __float2int_rd(float a) { return ::cuda_on_cpu::saturated<int>(floorf(a)); }
inline int __float2int_ru(float a) { return ::cuda_on_cpu::saturated<int>(ceilf(a)); }
inline int __float2int_rz(float a) { return ::cuda_on_cpu::saturated<int>(truncf(a)); }
inline int __float2int_rn(float a) { return ::cuda_on_cpu::saturated<int>(nearbyintf(a)); }
inline unsigned __float2uint_rd(float a) { return ::cuda_on_cpu::saturated<unsigned>(floorf(a)); }
inline unsigned __float2uint_rz(float a) { return ::cuda_on_cpu::saturated<unsigned>(truncf(a)); }
inline unsigned __float2uint_rn(float a) { return ::cuda_on_cpu::saturated<unsigned>(nearbyintf(a)); }
inline long long __float2ll_rn(float a) { return ::cuda_on_cpu::saturated<long long>(nearbyintf(a)); }
inline long long __float2ll_rz(float a) { return ::cuda_on_cpu::saturated<long long>(truncf(a)); }
inline long long __double2ll_rn(double a) { return ::cuda_on_cpu::saturated<long long>(nearbyint(a)); }
inline float __int2float_rn(int a) { return static_cast<float>(a); }
inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
inline float __ll2float_rn(long long a) { return static_cast<float>(a); }
inline double __ll2double_rn(long long a) { return static_cast<double>(a); }

inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a ? __builtin_clz(static_cast<unsigned>(a)) : 32; }
inline int __clzll(long long a) { return a ? __builtin_clzll(static_cast<unsigned long long>(a)) : 64; }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline unsigned __brev(unsigned a) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= (a >> i & 1u) << (31 - i);
    return reversed;
}

template <typename T>
inline T __ldg(const T* pointer) {
    return *pointer;
}
template <typename T>
inline T __ldcg(const T* pointer) {
    return *pointer;
}
template <typename T>
inline T __ldcs(const T* pointer) {
    return *pointer;
}
template <typename T>
inline void __stcg(T* pointer, T value) {
    *pointer = value;
}
template <typename T>
inline void __stcs(T* pointer, T value) {
    *pointer = value;
}

#define LDP_MIN_MAX(type)                                     \
    inline type min(type a, type b) { return b < a ? b : a; } \
    inline type max(type a, type b) { return a < b ? b : a; }
LDP_MIN_MAX(int)
LDP_MIN_MAX(unsigned)
LDP_MIN_MAX(long)
LDP_MIN_MAX(unsigned long)
LDP_MIN_MAX(long long)
LDP_MIN_MAX(unsigned long long)
#undef LDP_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline void __threadfence() {}
inline void __threadfence_block() {}

// Work on a stream is done at once.
struct CUstream_st;
using cudaStream_t = CUstream_st*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice = 3 };
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
    if (bytes) std::memset(data, value, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    if (bytes) std::memcpy(to, from, bytes);
    return cudaSuccess;
}

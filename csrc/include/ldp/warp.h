// What the lanes of a warp do together, and reductions into memory. Tensor cores: mma.h, included at the end.
//
// Everything here wants all 32 lanes of the warp, in blocks whose x size is a multiple of 32: leave a loop together,
// and let lanes without work take part with a neutral value.
#pragma once

#include <ldp/device.h>

namespace ldp {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x & 31u); }

// For the lowest `delta` lanes (shuffle_up) or the highest (shuffle_down) the lane's own value comes back.
template <typename T>
__device__ __forceinline__ T shuffle_up(T value, int delta) {
    return __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(delta));
}

template <typename T>
__device__ __forceinline__ T shuffle_down(T value, int delta) {
    return __shfl_down_sync(kAllLanes, value, static_cast<unsigned>(delta));
}

template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
    return __shfl_xor_sync(kAllLanes, value, mask);
}

// The value of one lane; each lane may ask another one.
template <typename T>
__device__ __forceinline__ T broadcast(T value, int lane) {
    return __shfl_sync(kAllLanes, value, lane);
}

__device__ __forceinline__ unsigned ballot(bool predicate) { return __ballot_sync(kAllLanes, predicate); }
__device__ __forceinline__ bool any(bool predicate) { return __any_sync(kAllLanes, predicate) != 0; }
__device__ __forceinline__ bool all(bool predicate) { return __all_sync(kAllLanes, predicate) != 0; }

// Bits of the lanes below this one: popcount(ballot(keep) & lanes_below()) is a kept lane's place among the kept.
__device__ __forceinline__ unsigned lanes_below() { return (1u << lane_id()) - 1u; }

struct Add {
    template <typename T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a + b;
    }
};

struct Multiply {
    template <typename T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a * b;
    }
};

// The greater one; NaN if one of them is NaN.
struct Maximum {
    template <typename T>
    __device__ __forceinline__ T operator()(T a, T b) const {
        return a > b || a != a ? a : b;
    }
};

// The same bits in every lane: a butterfly, whose operation commutes.
template <typename T, typename Operation>
__device__ __forceinline__ T warp_reduce(T value, Operation operation) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) value = operation(value, shuffle_xor(value, mask));
    return value;
}

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
    return warp_reduce(value, Add());
}

template <typename T>
__device__ __forceinline__ T warp_max(T value) {
    return warp_reduce(value, Maximum());
}

// Lane i gets v_0 . v_1 ... v_i.
template <typename T, typename Operation>
__device__ __forceinline__ T inclusive_scan(T value, Operation operation) {
    const int lane = lane_id();
#pragma unroll
    for (int delta = 1; delta < kWarp; delta <<= 1) {
        const T before = shuffle_up(value, delta);
        if (lane >= delta) value = operation(before, value);
    }
    return value;
}

template <typename T>
__device__ __forceinline__ T inclusive_sum(T value) {
    return inclusive_scan(value, Add());
}

// Lane i gets v_0 + ... + v_(i-1), lane 0 zero: shifted, not subtracted, so that nothing cancels.
template <typename T>
__device__ __forceinline__ T exclusive_sum(T value) {
    const T before = shuffle_up(inclusive_sum(value), 1);
    return lane_id() == 0 ? T(0) : before;
}

// Lane i gets v_i . v_(i+1) ... v_31: the scan of a backward pass.
template <typename T, typename Operation>
__device__ __forceinline__ T suffix_scan(T value, Operation operation) {
    const int lane = lane_id();
#pragma unroll
    for (int delta = 1; delta < kWarp; delta <<= 1) {
        const T after = shuffle_down(value, delta);
        if (lane + delta < kWarp) value = operation(value, after);
    }
    return value;
}

template <typename T>
__device__ __forceinline__ T suffix_sum(T value) {
    return suffix_scan(value, Add());
}

// Lane i gets v_(i+1) + ... + v_31, lane 31 zero.
template <typename T>
__device__ __forceinline__ T exclusive_suffix_sum(T value) {
    const T after = shuffle_down(suffix_sum(value), 1);
    return lane_id() == kWarp - 1 ? T(0) : after;
}

// Runs: neighbouring lanes with the same key. Bit i is set where lane i begins a run; bit 0 always is.
template <typename T>
__device__ __forceinline__ unsigned run_heads(T key) {
    const T before = shuffle_up(key, 1);
    return ballot(lane_id() == 0 || before != key);
}

// The first lane of this lane's run.
__device__ __forceinline__ int run_start(unsigned heads) {
    return 31 - __clz(static_cast<int>(heads & (lanes_below() << 1 | 1u)));
}

__device__ __forceinline__ bool is_run_end(unsigned heads) {
    const int lane = lane_id();
    return lane == kWarp - 1 || (heads >> (lane + 1) & 1u) != 0u;
}

// The sum from the run's first lane to this one; where is_run_end, the run's.
template <typename T>
__device__ __forceinline__ T run_sum(T value, unsigned heads) {
    const int place = lane_id() - run_start(heads);
#pragma unroll
    for (int delta = 1; delta < kWarp; delta <<= 1) {
        const T before = shuffle_up(value, delta);
        if (place >= delta) value += before;
    }
    return value;
}

// Reductions into memory. Nothing is returned, so that they compile to RED instructions, which nobody waits for.
// The order of additions is not fixed: float sums differ in their last bits from run to run.
__device__ __forceinline__ void atomic_add(float* address, float value) { atomicAdd(address, value); }
__device__ __forceinline__ void atomic_add(int* address, int value) { atomicAdd(address, value); }
__device__ __forceinline__ void atomic_add(unsigned* address, unsigned value) { atomicAdd(address, value); }

// Integers: the same bits in any order. The sum of two's complement numbers is that of the unsigned ones.
__device__ __forceinline__ void atomic_add(unsigned long long* address, unsigned long long value) {
    atomicAdd(address, value);
}

// address[0] += a, address[1] += b; 8-byte aligned global memory. sm_90 has one instruction for it (each addition is
// atomic, the pair is not); it flushes subnormal sums to zero, as the float reduction of all architectures does.
__device__ __forceinline__ void atomic_add2(float* address, float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    atomicAdd(reinterpret_cast<float2*>(address), make_float2(a, b));
#else
    float2* const pair = reinterpret_cast<float2*>(address);
    atomicAdd(&pair->x, a);
    atomicAdd(&pair->y, b);
#endif
}

// The same with four floats, 16-byte aligned.
__device__ __forceinline__ void atomic_add4(float* address, float4 value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    atomicAdd(reinterpret_cast<float4*>(address), value);
#else
    float4* const quad = reinterpret_cast<float4*>(address);
    atomicAdd(&quad->x, value.x);
    atomicAdd(&quad->y, value.y);
    atomicAdd(&quad->z, value.z);
    atomicAdd(&quad->w, value.w);
#endif
}

// *address = max(*address, value), both >= 0, or NaN, which wins: such floats are ordered as their bits are. The sign
// goes: the bits of -0, and of a NaN with a sign, would not be.
__device__ __forceinline__ void atomic_max(float* address, float value) {
    atomicMax(reinterpret_cast<unsigned*>(address), __float_as_uint(fabsf(value)));
}

}  // namespace ldp

#include <ldp/mma.h>

#include "warp.h"

#include <ldp/launch.h>
#include <ldp/warp.h>

namespace ldp {
namespace {

__global__ void warp_kernel(const float* values, const int* keys, WarpOut out, int size) {
    const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (at / kWarp * kWarp >= size) return;
    const float value = values[at];
    out.sum[at] = warp_sum(value);
    out.largest[at] = warp_max(value);
    out.inclusive[at] = inclusive_sum(value);
    out.exclusive[at] = exclusive_sum(value);
    out.suffix[at] = suffix_sum(value);
    out.exclusive_suffix[at] = exclusive_suffix_sum(value);
    out.product[at] = inclusive_scan(value, Multiply());
    const unsigned heads = run_heads(keys[at]);
    out.heads[at] = heads;
    out.run_sum[at] = run_sum(value, heads);
    out.run_start[at] = run_start(heads);
    out.run_end[at] = is_run_end(heads);
    out.votes[at] = (ballot(value > 0.0f) & lanes_below()) | (any(value > 0.9f) ? 1u << 31 : 0u) |
                    (all(value > -2.0f) ? 1u << 30 : 0u);
    out.reversed[at] = broadcast(keys[at], 31 - lane_id());
}

__global__ void atomics_kernel(const float* values, AtomicOut out, int size) {
    const int stride = static_cast<int>(gridDim.x * blockDim.x);
    for (int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); at < size; at += stride) {
        const float value = values[at];
        atomic_add(out.one, value);
        atomic_add2(out.pair, value, 2.0f * value);
        atomic_add4(out.quad, make_float4(value, 2.0f * value, 3.0f * value, 4.0f * value));
        atomic_add(out.whole, static_cast<unsigned long long>(static_cast<long long>(at - 5)));
        atomic_max(out.largest, value);
    }
}

__device__ void load(FragmentC& c, const float* from) {
    for (int i = 0; i < FragmentC::kElements; ++i)
        c.elements[i] = from[FragmentC::row(lane_id(), i) * 8 + FragmentC::col(lane_id(), i)];
}

__device__ void store(const FragmentC& c, float* to) {
    for (int i = 0; i < FragmentC::kElements; ++i)
        to[FragmentC::row(lane_id(), i) * 8 + FragmentC::col(lane_id(), i)] = c.elements[i];
}

__global__ void mma_half_kernel(const half* a_matrix, const half* b_matrix, float* c_matrix) {
    const int lane = lane_id();
    FragmentA<half> a;
    FragmentB<half> b;
    FragmentC c;
    const auto a_at = [&](int i) {
        return a_matrix[FragmentA<half>::row(lane, i) * 16 + FragmentA<half>::col(lane, i)];
    };
    const auto b_at = [&](int i) {
        return b_matrix[FragmentB<half>::row(lane, i) * 8 + FragmentB<half>::col(lane, i)];
    };
#pragma unroll
    for (int i = 0; i < 4; ++i) a.pairs[i] = __halves2half2(a_at(2 * i), a_at(2 * i + 1));
#pragma unroll
    for (int i = 0; i < 2; ++i) b.pairs[i] = __halves2half2(b_at(2 * i), b_at(2 * i + 1));
    load(c, c_matrix);
    __syncwarp();
    mma_m16n8k16(c, a, b);
    store(c, c_matrix);
}

template <bool kSplit>
__global__ void mma_tf32_kernel(const float* a_matrix, const float* b_matrix, float* c_matrix) {
    using A = FragmentA<float>;
    using B = FragmentB<float>;
    const int lane = lane_id();
    SplitA a;
    SplitB b;
    FragmentC c;
    for (int i = 0; i < A::kElements; ++i) a.set(i, a_matrix[A::row(lane, i) * 8 + A::col(lane, i)]);
    for (int i = 0; i < B::kElements; ++i) b.set(i, b_matrix[B::row(lane, i) * 8 + B::col(lane, i)]);
    load(c, c_matrix);
    if constexpr (kSplit)
        mma_m16n8k8(c, a, b);
    else
        mma_m16n8k8(c, a.high, b.high);
    store(c, c_matrix);
}

}  // namespace

void warp(const float* values, const int* keys, const WarpOut& out, int size, cudaStream_t stream) {
    LDP_LAUNCH(warp_kernel, ceil_div(size, 64), 64, 0, stream, values, keys, out, size);
}

void atomics(const float* values, const AtomicOut& out, int size, cudaStream_t stream) {
    LDP_LAUNCH(atomics_kernel, multiprocessors(), 96, 0, stream, values, out, size);
}

void mma_half(const half* a, const half* b, float* c, cudaStream_t stream) {
    LDP_LAUNCH(mma_half_kernel, 1, 32, 0, stream, a, b, c);
}

void mma_tf32(const float* a, const float* b, float* c, bool split, cudaStream_t stream) {
    if (split)
        LDP_LAUNCH((mma_tf32_kernel<true>), 1, 32, 0, stream, a, b, c);
    else
        LDP_LAUNCH((mma_tf32_kernel<false>), 1, 32, 0, stream, a, b, c);
}

}  // namespace ldp

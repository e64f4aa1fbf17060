// Small kernels with known faults, and their correct selves, for test_harness.py.
#include "planted.h"

#include <ldp/launch.h>
#include <ldp/warp.h>

namespace ldp {
namespace {

// Tree reduction of a block; PLANTED leaves out one barrier.
template <bool kBarrier>
__global__ void reduce_kernel(const float* values, float* sums, int size) {
    LDP_SHARED(float, partial, 128);
    const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), self = static_cast<int>(threadIdx.x);
    partial[self] = at < size ? values[at] : 0.0f;
    for (int half_way = 64; half_way > 0; half_way /= 2) {
        if constexpr (kBarrier) __syncthreads();
        if (self < half_way) partial[self] += partial[self + half_way];
    }
    if (self == 0) sums[blockIdx.x] = partial[0];
}

// Lanes exchange through shared memory; the fault is a missing __syncwarp.
template <bool kBarrier>
__global__ void reverse_warp_kernel(const float* values, float* reversed) {
    LDP_DYNAMIC_SHARED(float, exchange);
    const int lane = lane_id();
    exchange[lane] = values[lane];
    if constexpr (kBarrier) __syncwarp();
    reversed[lane] = exchange[31 - lane];
}

__global__ void copy_kernel(const float* values, float* out, int size, int excess) {
    const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (at < size + excess) out[at] = values[at];
}

__global__ void static_shared_kernel(float* out, int excess) {
    LDP_SHARED(float, memory, 32);
    memory[threadIdx.x] = 1.0f;
    __syncthreads();
    out[blockIdx.x * 32 + threadIdx.x] = memory[static_cast<int>(threadIdx.x) + excess];
}

__global__ void dynamic_shared_kernel(float* out, int excess) {
    LDP_DYNAMIC_SHARED(float, memory);
    memory[threadIdx.x] = 1.0f;
    __syncthreads();
    out[blockIdx.x * 32 + threadIdx.x] = memory[static_cast<int>(threadIdx.x) + excess];
}

// Sums what a block left in shared memory, of which only the first `written` elements were written.
__global__ void sum_shared_kernel(float* out, int written) {
    LDP_SHARED(float, memory, 32);
    if (static_cast<int>(threadIdx.x) < written) memory[threadIdx.x] = 1.0f;
    __syncthreads();
    if (threadIdx.x != 0) return;
    float sum = 0.0f;
    for (int i = 0; i < 32; ++i) sum += memory[i];
    *out = sum;
}

__global__ void sum_global_kernel(const float* values, float* out, int size) {
    float sum = 0.0f;
    for (int i = static_cast<int>(threadIdx.x); i < size; i += 32) sum += values[i];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) *out = sum;
}

// A stack array read behind its end, by an index the compiler cannot know, after the fibers changed places.
__global__ void local_kernel(float* out, int at) {
    float local[4] = {0.0f, 1.0f, 2.0f, 3.0f};
    __syncthreads();
    float* const first = local;
    out[threadIdx.x] = first[at];
}

__global__ void divergent_shuffle_kernel(float* out, int fault) {
    const int lane = lane_id();
    if (fault == 1 && lane >= 16) return;                    // some lanes have left
    if (fault == 2 && lane >= 16) __syncthreads();           // some lanes are elsewhere
    if (fault == 3 && lane >= 16) __syncwarp();              // another collective
    out[lane] = fault == 4 ? __shfl_sync(0xffffu, 1.0f, 31)  // lanes that are not in the mask
                           : shuffle_xor(static_cast<float>(lane), 16);
    if (fault == 2 && lane < 16) __syncthreads();
}

__global__ void divergent_barrier_kernel(float* out) {
    if (threadIdx.x >= 32) return;
    __syncthreads();
    out[threadIdx.x] = 1.0f;
}

// Adds up all values in one place, by an atomic or (the fault) by reading and writing.
template <bool kAtomic>
__global__ void total_kernel(const float* values, float* total, int size) {
    const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (at >= size) return;
    if constexpr (kAtomic)
        atomic_add(total, values[at]);
    else
        *total += values[at];
}

// Each block writes its place and, which is the fault, reads its neighbour's: another order shows only stale numbers.
__global__ void neighbour_kernel(float* places, float* out) {
    if (threadIdx.x == 0) places[blockIdx.x] = 1.0f;
    __syncthreads();
    if (threadIdx.x == 1) out[blockIdx.x] = places[(blockIdx.x + 1) % gridDim.x] * 0.0f;
}

}  // namespace

void total(const float* values, float* sum, int size, bool atomic, cudaStream_t stream) {
    if (atomic)
        LDP_LAUNCH((total_kernel<true>), ceil_div(size, 64), 64, 0, stream, values, sum, size);
    else
        LDP_LAUNCH((total_kernel<false>), ceil_div(size, 64), 64, 0, stream, values, sum, size);
}

void neighbour(float* places, float* out, int blocks, cudaStream_t stream) {
    LDP_LAUNCH(neighbour_kernel, blocks, 32, 0, stream, places, out);
}

void reduce(const float* values, float* sums, int size, bool barrier, cudaStream_t stream) {
    if (barrier)
        LDP_LAUNCH((reduce_kernel<true>), ceil_div(size, 128), 128, 0, stream, values, sums, size);
    else
        LDP_LAUNCH((reduce_kernel<false>), ceil_div(size, 128), 128, 0, stream, values, sums, size);
}

void reverse_warp(const float* values, float* reversed, bool barrier, cudaStream_t stream) {
    if (barrier)
        LDP_LAUNCH((reverse_warp_kernel<true>), 1, 32, 32 * sizeof(float), stream, values, reversed);
    else
        LDP_LAUNCH((reverse_warp_kernel<false>), 1, 32, 32 * sizeof(float), stream, values, reversed);
}

void copy(const float* values, float* out, int size, int excess, cudaStream_t stream) {
    LDP_LAUNCH(copy_kernel, ceil_div(size + 1, 64), 64, 0, stream, values, out, size, excess);
}

void static_shared(float* out, int excess, cudaStream_t stream) {
    LDP_LAUNCH(static_shared_kernel, 2, 32, 0, stream, out, excess);
}

void dynamic_shared(float* out, int excess, cudaStream_t stream) {
    LDP_LAUNCH(dynamic_shared_kernel, 2, 32, 32 * sizeof(float), stream, out, excess);
}

void sum_shared(float* out, int written, cudaStream_t stream) {
    LDP_LAUNCH(sum_shared_kernel, 1, 32, 0, stream, out, written);
}

void sum_global(const float* values, float* out, int size, cudaStream_t stream) {
    LDP_LAUNCH(sum_global_kernel, 1, 32, 0, stream, values, out, size);
}

void local(float* out, int at, cudaStream_t stream) { LDP_LAUNCH(local_kernel, 1, 64, 0, stream, out, at); }

void divergent_shuffle(float* out, int fault, cudaStream_t stream) {
    LDP_LAUNCH(divergent_shuffle_kernel, 1, 32, 0, stream, out, fault);
}

void partial_warp_shuffle(float* out, cudaStream_t stream) {
    LDP_LAUNCH(divergent_shuffle_kernel, 1, 24, 0, stream, out, 0);
}

void divergent_barrier(float* out, cudaStream_t stream) { LDP_LAUNCH(divergent_barrier_kernel, 1, 64, 0, stream, out); }

}  // namespace ldp

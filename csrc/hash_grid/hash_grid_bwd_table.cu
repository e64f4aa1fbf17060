// The table's gradient: one thread for a sample at a level, the level being blockIdx.y; it reads its position and F
// gradients and adds them, weighted, to eight entries. The rate of scattered reductions is the limit, so:
//
// * F = 2 takes one reduction of two floats (sm_90: REDG.E.ADD.F32x2), F = 4 and 8 of four;
// * on coarse levels, where neighbouring samples of a ray share a cell, each run of lanes in one cell is summed within
//   the warp first, and its last lane adds for all;
// * samples without a gradient, behind an early stop, add nothing.
//
// The deterministic mode adds integers, whose sums do not depend on their order: 64-bit fixed point, with the place of
// the point from the largest gradient. An entry gets at most the sum of all |gradients| of one feature, S * 2^e, so 62
// bits above the smallest step hold it without overflow; at S = 2^18 a step is 2^-44 of the largest gradient. Terms
// that are not finite make their element NaN.
#include <ldp/warp.h>

#include <cfloat>

#include "hash_grid_device.h"

namespace ldp {
namespace {

constexpr int kAggregatedLevels = 8;

__device__ __forceinline__ bool finite(float value) { return fabsf(value) <= FLT_MAX; }

// The power of two that turns gradients into integers.
__device__ __forceinline__ int fixed_point_shift(const float* largest, int64_t count) {
    const int exponent = static_cast<int>(__float_as_uint(*largest) >> 23) - 126;  // |gradient| < 2^exponent
    const int samples = 64 - __clzll(static_cast<long long>(count));               // count < 2^samples
    return 62 - samples - exponent;
}

struct FloatSums {
    float* table;

    template <int kCount>
    __device__ __forceinline__ void add(int64_t element, const float* value) const {
        if constexpr (kCount == 1) {
            atomic_add(table + element, value[0]);
        } else if constexpr (kCount == 2) {
            atomic_add2(table + element, value[0], value[1]);
        } else {
#pragma unroll
            for (int f = 0; f < kCount; f += 4)
                atomic_add4(table + element + f, make_float4(value[f], value[f + 1], value[f + 2], value[f + 3]));
        }
    }
};

struct FixedSums {
    float* table;
    unsigned long long* sums;
    double scale;

    template <int kCount>
    __device__ __forceinline__ void add(int64_t element, const float* value) const {
#pragma unroll
        for (int f = 0; f < kCount; ++f) {
            if (finite(value[f]))
                atomic_add(sums + element + f, static_cast<unsigned long long>(__double2ll_rn(value[f] * scale)));
            else
                table[element + f] = nanf("");
        }
    }
};

// Eight corners of one sample, kCount features of its entries from `feature` on.
template <int kCount, typename Sums>
__device__ __forceinline__ void add_corners(const HashGridPlace& at, const HashGridLevel& level, GridIndexing indexing,
                                            int features, int feature, const float* g, bool active, bool aggregate,
                                            const Sums& sums) {
    unsigned heads = kAllLanes;
    if (aggregate)
        heads = run_heads(at.x.vertex) | run_heads(at.y.vertex) | run_heads(at.z.vertex) |
                run_heads(static_cast<int>(active));
    const bool runs = heads != kAllLanes, adds = active && (!runs || is_run_end(heads));
#pragma unroll
    for (int corner = 0; corner < 8; ++corner) {
        const float weight = corner_weight(at, corner);
        float value[kCount];
#pragma unroll
        for (int f = 0; f < kCount; ++f) value[f] = active ? weight * g[f] : 0.0f;
        if (runs) {
#pragma unroll
            for (int f = 0; f < kCount; ++f) value[f] = run_sum(value[f], heads);
        }
        if (adds) {
            const int64_t index = level.offset + corner_index(at, corner, level, indexing);
            sums.template add<kCount>(index * features + feature, value);
        }
    }
}

template <int kF, typename Sums>
__device__ __forceinline__ void scatter(const HashGridParams& params, const float* grad, const Sums& sums) {
    const HashGridLevel level = params.levels[blockIdx.y];
    const int features = kF > 0 ? kF : params.n_features;
    const int64_t width = static_cast<int64_t>(params.n_levels) * features, count = live_count(params);
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    const bool aggregate = blockIdx.y < kAggregatedLevels;
    // All lanes go round together, for the shuffles.
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x; first < count; first += stride) {
        const int64_t s = first + threadIdx.x;
        const bool live = s < count;
        const HashGridPlace at = live ? place_of(params, level, s) : HashGridPlace{};
        const float* row = grad + (live ? s * width + static_cast<int>(blockIdx.y) * features : 0);
        if constexpr (kF > 0) {
            float g[kF] = {};
            if (live) load_values<kF>(row, g);
            bool active = false;
#pragma unroll
            for (int f = 0; f < kF; ++f) active |= g[f] != 0.0f;
            add_corners<kF>(at, level, params.indexing, kF, 0, g, active, aggregate, sums);
        } else {
            bool active = false;
            for (int f = 0; live && f < features; ++f) active |= row[f] != 0.0f;
            for (int f = 0; f < features; ++f) {
                const float g = live ? row[f] : 0.0f;
                add_corners<1>(at, level, params.indexing, features, f, &g, active, aggregate, sums);
            }
        }
    }
}

template <int kF>
__global__ void __launch_bounds__(kHashGridThreads)
    hash_grid_backward_table_kernel(const HashGridParams params, const float* grad, float* grad_table) {
    scatter<kF>(params, grad, FloatSums{grad_table});
}

template <int kF>
__global__ void __launch_bounds__(kHashGridThreads)
    hash_grid_backward_table_fixed_kernel(const HashGridParams params, const float* grad, float* grad_table,
                                          unsigned long long* sums, const float* largest) {
    const double scale = ldexp(1.0, fixed_point_shift(largest, live_count(params)));
    scatter<kF>(params, grad, FixedSums{grad_table, sums, scale});
}

__global__ void __launch_bounds__(kHashGridThreads)
    hash_grid_largest_kernel(const HashGridParams params, const float* grad, float* largest) {
    const int64_t size = live_count(params) * params.n_levels * params.n_features;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    float found = 0.0f;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) {
        const float magnitude = fabsf(grad[i]);
        if (finite(magnitude)) found = larger(found, magnitude);
    }
    found = warp_max(found);
    if (lane_id() == 0 && found > 0.0f) atomic_max(largest, found);
}

__global__ void __launch_bounds__(kHashGridThreads)
    hash_grid_from_fixed_kernel(const HashGridParams params, int64_t elements, const unsigned long long* sums,
                                const float* largest, float* grad_table) {
    const double step = ldexp(1.0, -fixed_point_shift(largest, live_count(params)));
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += stride)
        grad_table[i] += static_cast<float>(static_cast<double>(static_cast<long long>(sums[i])) * step);
}

}  // namespace

void hash_grid_backward_table_cuda(const HashGridParams& params, const float* grad, float* grad_table,
                                   int64_t* workspace, cudaStream_t stream) {
    if (params.size == 0) return;
    const auto levels = static_cast<unsigned>(params.n_levels);
    const dim3 block(kHashGridThreads);
    const bool aligned = hash_grid_aligned(params.n_features, sizeof(float), grad, grad_table);
    if (workspace == nullptr) {
        LDP_BY_FEATURES(params.n_features, aligned,
                        LDP_LAUNCH((hash_grid_backward_table_kernel<kF>),
                                   dim3(hash_grid_blocks(params.size, hash_grid_backward_table_kernel<kF>), levels),
                                   block, 0, stream, params, grad, grad_table));
        return;
    }
    const HashGridLevel& last = params.levels[params.n_levels - 1];
    const int64_t elements = (last.offset + last.size) * params.n_features;
    auto* sums = reinterpret_cast<unsigned long long*>(workspace);
    auto* largest = reinterpret_cast<float*>(workspace + elements);
    const int64_t gradients = params.size * params.n_levels * params.n_features;
    LDP_LAUNCH(hash_grid_largest_kernel, hash_grid_blocks(gradients, hash_grid_largest_kernel), block, 0, stream,
               params, grad, largest);
    LDP_BY_FEATURES(params.n_features, aligned,
                    LDP_LAUNCH((hash_grid_backward_table_fixed_kernel<kF>),
                               dim3(hash_grid_blocks(params.size, hash_grid_backward_table_fixed_kernel<kF>), levels),
                               block, 0, stream, params, grad, grad_table, sums, largest));
    LDP_LAUNCH(hash_grid_from_fixed_kernel, hash_grid_blocks(elements, hash_grid_from_fixed_kernel), block, 0, stream,
               params, elements, sums, largest, grad_table);
}

}  // namespace ldp

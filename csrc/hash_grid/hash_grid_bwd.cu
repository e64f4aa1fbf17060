// The gradient by the positions: one thread for a sample, which sums over its levels in their order, so that the result
// has the same bits in every run. It reads the row of gradients [L*F] and eight entries a level, and writes 3 floats.
#include "hash_grid_device.h"

namespace ldp {
namespace {

// sum_f grad[f] * entry[f], for the entry of a corner.
template <int kF, typename Entry>
__device__ __forceinline__ float corner_dot(const Entry* entry, const float* grad, const float* held, int features) {
    float sum = 0.0f;
    if constexpr (kF > 0) {
        float values[kF];
        load_values<kF>(entry, values);
#pragma unroll
        for (int f = 0; f < kF; ++f) sum += held[f] * values[f];
    } else {
        for (int f = 0; f < features; ++f) sum += grad[f] * load_value(entry + f);
    }
    return sum;
}

template <int kF, typename Entry>
__global__ void __launch_bounds__(kHashGridThreads)
    hash_grid_backward_positions_kernel(const HashGridParams params, const float* grad, float* grad_positions) {
    const int features = kF > 0 ? kF : params.n_features;
    const int64_t width = static_cast<int64_t>(params.n_levels) * features, count = live_count(params);
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t s = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; s < params.size; s += stride) {
        float x = 0.0f, y = 0.0f, z = 0.0f;
        for (int l = 0; s < count && l < params.n_levels; ++l) {
            const HashGridLevel level = params.levels[l];
            const HashGridPlace at = place_of(params, level, s);
            const Entry* table = entries_of<Entry>(params) + level.offset * features;
            const float* g = grad + s * width + l * features;
            float held[kF > 0 ? kF : 1], dot[8];
            if constexpr (kF > 0) load_values<kF>(g, held);
            uint32_t index[8];
            corner_indices(at, level, params.indexing, index);
#pragma unroll
            for (int corner = 0; corner < 8; ++corner)
                dot[corner] = corner_dot<kF>(table + static_cast<int64_t>(index[corner]) * features, g, held, features);
            // Differences along an axis, interpolated along the other two.
            const auto blend = [](float a, float b, float weight) { return (1.0f - weight) * a + weight * b; };
            const float u = at.x.weight, v = at.y.weight, w = at.z.weight;
            x += at.x.slope *
                 blend(blend(dot[1] - dot[0], dot[3] - dot[2], v), blend(dot[5] - dot[4], dot[7] - dot[6], v), w);
            y += at.y.slope *
                 blend(blend(dot[2] - dot[0], dot[3] - dot[1], u), blend(dot[6] - dot[4], dot[7] - dot[5], u), w);
            z += at.z.slope *
                 blend(blend(dot[4] - dot[0], dot[5] - dot[1], u), blend(dot[6] - dot[2], dot[7] - dot[3], u), v);
        }
        float* out = grad_positions + s * 3;
        out[0] = x;
        out[1] = y;
        out[2] = z;
    }
}

template <typename Entry>
void run(const HashGridParams& params, const Entry* table, const float* grad, float* grad_positions,
         cudaStream_t stream) {
    const bool aligned = hash_grid_aligned(params.n_features, sizeof(Entry), table) &&
                         hash_grid_aligned(params.n_features, sizeof(float), grad);
    LDP_BY_FEATURES(params.n_features, aligned,
                    LDP_LAUNCH((hash_grid_backward_positions_kernel<kF, Entry>),
                               hash_grid_blocks(params.size, hash_grid_backward_positions_kernel<kF, Entry>),
                               dim3(kHashGridThreads), 0, stream, params, grad, grad_positions));
}

}  // namespace

void hash_grid_backward_positions_cuda(const HashGridParams& params, const float* grad, float* grad_positions,
                                       cudaStream_t stream) {
    if (params.size == 0) return;
    if (params.shadow != nullptr)
        run(params, static_cast<const half*>(params.shadow), grad, grad_positions, stream);
    else
        run(params, params.table, grad, grad_positions, stream);
}

}  // namespace ldp

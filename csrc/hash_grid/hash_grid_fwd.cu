// Encoding: one thread for a sample at a level, the level being blockIdx.y, so that the blocks that run at one time
// read one level's entries (4 MB in float32, 2 MB in half), which stay in L2. A thread reads its position (12 bytes,
// once a level), eight entries as vectors, and writes F floats of the row [L*F]. The cost are the gathers: 8 sectors.
#include "hash_grid_device.h"

namespace ldp {
namespace {

template <int kF, typename Entry>
__global__ void __launch_bounds__(kHashGridThreads) hash_grid_kernel(const HashGridParams params, float* encoding) {
    const HashGridLevel level = params.levels[blockIdx.y];
    const int features = kF > 0 ? kF : params.n_features;
    const int64_t width = static_cast<int64_t>(params.n_levels) * features, count = live_count(params);
    const Entry* table = entries_of<Entry>(params) + level.offset * features;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t s = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; s < params.size; s += stride) {
        float* out = encoding + s * width + static_cast<int>(blockIdx.y) * features;
        const bool live = s < count;
        const HashGridPlace at = live ? place_of(params, level, s) : HashGridPlace{};
        if constexpr (kF > 0) {
            float sum[kF] = {};
            if (live) {
                uint32_t index[8];
                corner_indices(at, level, params.indexing, index);
                float entry[8][kF];
#pragma unroll
                for (int corner = 0; corner < 8; ++corner)
                    load_values<kF>(table + static_cast<int64_t>(index[corner]) * kF, entry[corner]);
#pragma unroll
                for (int corner = 0; corner < 8; ++corner) {
                    const float weight = corner_weight(at, corner);
#pragma unroll
                    for (int f = 0; f < kF; ++f) sum[f] += weight * entry[corner][f];
                }
            }
            if constexpr (kF == 1) {
                out[0] = sum[0];
            } else if constexpr (kF == 2) {
                store_as(out, make_float2(sum[0], sum[1]));
            } else {
#pragma unroll
                for (int f = 0; f < kF; f += 4)
                    store_as(out + f, make_float4(sum[f], sum[f + 1], sum[f + 2], sum[f + 3]));
            }
        } else {
            for (int f = 0; f < features; ++f) {
                float sum = 0.0f;
                if (live)
                    for (int corner = 0; corner < 8; ++corner) {
                        const int64_t index = corner_index(at, corner, level, params.indexing);
                        sum += corner_weight(at, corner) * load_value(table + index * features + f);
                    }
                out[f] = sum;
            }
        }
    }
}

template <typename Entry>
void run(const HashGridParams& params, const Entry* table, float* encoding, cudaStream_t stream) {
    const auto levels = static_cast<unsigned>(params.n_levels);
    const bool aligned = hash_grid_aligned(params.n_features, sizeof(Entry), table) &&
                         hash_grid_aligned(params.n_features, sizeof(float), encoding);
    LDP_BY_FEATURES(
        params.n_features, aligned,
        LDP_LAUNCH((hash_grid_kernel<kF, Entry>),
                   dim3(hash_grid_blocks(params.size, hash_grid_kernel<kF, Entry>), levels), dim3(kHashGridThreads), 0,
                   stream, params, encoding));
}

}  // namespace

void hash_grid_cuda(const HashGridParams& params, float* encoding, cudaStream_t stream) {
    if (params.size == 0) return;
    if (params.shadow != nullptr)
        run(params, static_cast<const half*>(params.shadow), encoding, stream);
    else
        run(params, params.table, encoding, stream);
}

}  // namespace ldp

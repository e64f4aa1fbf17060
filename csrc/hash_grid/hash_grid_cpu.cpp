#include <ldp/parallel.h>

#include "hash_grid.h"

namespace ldp {

void hash_grid_cpu(const HashGridParams& params, float* encoding) {
    const int64_t count = params.count != nullptr ? smaller(*params.count, params.size) : params.size;
    const int features = params.n_features, width = params.n_levels * features;
    parallel_for(params.size, 1024, [&](int64_t begin, int64_t end) {
        for (int64_t s = begin; s < end; ++s) {
            float* out = encoding + s * width;
            for (int i = 0; i < width; ++i) out[i] = 0.0f;
            if (s >= count) continue;
            const float* x = params.positions + s * 3;
            for (int l = 0; l < params.n_levels; ++l, out += features) {
                const HashGridLevel& level = params.levels[l];
                HashGridCell cell[3];
                for (int d = 0; d < 3; ++d)
                    cell[d] = hash_grid_cell(x[d], level.scale, params.shift, level.resolution, params.smoothstep);
                for (int corner = 0; corner < 8; ++corner) {
                    float weight = 1.0f;
                    uint32_t vertex[3];
                    for (int d = 0; d < 3; ++d) {
                        const bool upper = corner >> d & 1;
                        weight *= upper ? cell[d].weight : 1.0f - cell[d].weight;
                        vertex[d] = cell[d].vertex + upper;
                    }
                    const uint32_t index =
                        hash_grid_index(vertex[0], vertex[1], vertex[2], level.resolution, level.size, params.hashed);
                    const float* entry = params.table + (level.offset + index) * features;
                    for (int f = 0; f < features; ++f) out[f] += weight * entry[f];
                }
            }
        }
    });
}

}  // namespace ldp

// Two neighbouring columns of the hash grid encoding of one position, by one lane.
#pragma once

#include <ldp/warp.h>

#include "../hash_grid/hash_grid_device.h"

namespace ldp {

// kWidth features of a level, from `column` on: 2 (columns of one level, both in one load) or 1 (the second is 0).
template <int kWidth>
__device__ __forceinline__ float2 field_encode_some(const HashGridParams& grid, const HashGridLevel* levels,
                                                    const float* unit, int column) {
    const int features = grid.n_features;
    const int l = features == 2 ? column >> 1 : column / features;
    const HashGridLevel level = levels[l];
    HashGridCell cell[3];
#pragma unroll
    for (int d = 0; d < 3; ++d)
        cell[d] = hash_grid_cell(unit[d], level.scale, grid.shift, level.resolution, grid.smoothstep);
    float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int corner = 0; corner < 8; ++corner) {
        float weight = 1.0f;
        uint32_t vertex[3];
#pragma unroll
        for (int d = 0; d < 3; ++d) {
            const bool upper = (corner >> d & 1) != 0;
            weight *= upper ? cell[d].weight : 1.0f - cell[d].weight;
            vertex[d] = cell[d].vertex + (upper ? 1u : 0u);
        }
        const uint32_t index =
            hash_grid_index(vertex[0], vertex[1], vertex[2], level.resolution, level.size, grid.indexing);
        const int64_t at = (level.offset + index) * features + (column - l * features);
        const half* const shadow = static_cast<const half*>(grid.shadow);
        float2 entry = make_float2(0.0f, 0.0f);
        if (kWidth == 2)
            entry = shadow != nullptr ? to_float2(load_read_only<half2>(shadow + at))
                                      : load_read_only<float2>(grid.table + at);
        else
            entry.x = shadow != nullptr ? to_float(load_read_only<half>(shadow + at))
                                        : load_read_only<float>(grid.table + at);
        sum.x = fmaf(weight, entry.x, sum.x);
        if (kWidth == 2) sum.y = fmaf(weight, entry.y, sum.y);
    }
    return sum;
}

// Whether two neighbouring columns can be read at once: F is even, and the entries begin at a multiple of two numbers,
// which a view into a longer tensor need not.
inline bool field_encodes_pairs(const HashGridParams& grid) {
    if (grid.n_features % 2 != 0) return false;
    return grid.shadow != nullptr ? hash_grid_aligned(2, sizeof(half), grid.shadow)
                                  : hash_grid_aligned(2, sizeof(float), grid.table);
}

// Columns `column` (even) and the next; those from L*F on are 0. `pairs` is what field_encodes_pairs says.
__device__ __forceinline__ float2 field_encode(const HashGridParams& grid, const HashGridLevel* levels,
                                               const float* unit, int column, bool pairs) {
    const int columns = grid.n_levels * grid.n_features;
    if (column >= columns) return make_float2(0.0f, 0.0f);
    if (pairs) return field_encode_some<2>(grid, levels, unit, column);
    float2 both = field_encode_some<1>(grid, levels, unit, column);
    both.y = column + 1 < columns ? field_encode_some<1>(grid, levels, unit, column + 1).x : 0.0f;
    return both;
}

}  // namespace ldp

// Multiresolution hash grid encoding: the parameters of the kernels and the maths they share.
//
// The convention of tiny-cuda-nn and instant-ngp (layout.h). Letters: S positions, L levels, F features of a level.
// y[s, l*F + f] = sum over the 8 corners c of the cell: weight_c * table[offset_l + index_l(corner_c), f].
#pragma once

#include <ldp/host_device.h>

#if defined(LDP_CUDA_ON_CPU)
#include <ldp/device.h>
#elif defined(USE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include "layout.h"

namespace ldp {

constexpr int kMaxFeatures = 16;

struct HashGridLevel {
    int64_t offset;       // first entry of the level in the table
    uint32_t size;        // entries of the level
    uint32_t resolution;  // vertices along an axis
    float scale;          // cells along an axis
};

struct HashGridParams {
    const float* positions;  // [S, 3] in [0, 1]
    const float* table;      // [entries, F]
    const void* shadow;      // [entries, F] half, read instead of the table; null without one
    const int64_t* count;    // device: positions that are there, rows from *count on are padding; null = all S
    int64_t size;            // S
    int n_levels;            // L
    int n_features;          // F
    float shift;             // 0.5: vertices lie between the ends (tiny-cuda-nn); 0: on them (voxel grids)
    GridIndexing indexing;   // of the levels that do not fit
    bool smoothstep;         // 3t^2 - 2t^3 instead of t
    HashGridLevel levels[kMaxLevels];
};

// The cell that holds a position, along one axis.
struct HashGridCell {
    uint32_t vertex;  // the lower one; wraps for positions below 0, as in tiny-cuda-nn
    float weight;     // of the upper vertex
    float slope;      // d weight / d position, in units of [0, 1]
    float curvature;  // d slope / d position, in the same units
};

LDP_HOST_DEVICE HashGridCell hash_grid_cell(float x, float scale, float shift, uint32_t resolution, bool smoothstep) {
    const float at = fmaf(scale, x, shift);
    float whole = floorf(at);
    // On a grid with vertices on its ends the upper end belongs to the last cell.
    if (shift == 0.0f && whole == scale && resolution > 1) whole -= 1.0f;
    // A float beyond int32 has no defined conversion: NaN and far away positions take cell 0, and the weight
    // stays NaN.
    const bool representable = whole > -2147483000.0f && whole < 2147483000.0f;
    const float t = at - whole;
    HashGridCell cell;
    cell.vertex = representable ? static_cast<uint32_t>(static_cast<int32_t>(whole)) : 0u;
    cell.weight = smoothstep ? t * t * (3.0f - 2.0f * t) : t;
    cell.slope = smoothstep ? 6.0f * t * (1.0f - t) * scale : scale;
    cell.curvature = smoothstep ? (6.0f - 12.0f * t) * scale * scale : 0.0f;
    return cell;
}

// index % size; divides only where it has to.
LDP_HOST_DEVICE uint32_t hash_grid_wrap(uint32_t index, uint32_t size) {
    if ((size & (size - 1)) == 0) return index & (size - 1);
    return index < size ? index : index % size;
}

// Entry of a vertex within its level. The dense index of a tiled level counts every axis, in 32 bits (tiny-cuda-nn's
// tiled grids). Otherwise it is built axis by axis and stops growing once it has outrun the level: a wrapped level with
// resolution^2 > size ignores z, as in torch-ngp's tiled grids, and a hashed one takes the hash, in the same cases as
// tiny-cuda-nn.
LDP_HOST_DEVICE uint32_t hash_grid_index(uint32_t x, uint32_t y, uint32_t z, uint32_t resolution, uint32_t size,
                                         GridIndexing indexing) {
    uint32_t index = x;
    uint64_t stride = resolution;
    const bool all_axes = indexing == GridIndexing::kTiled;
    if (all_axes || stride <= size) {
        index += y * static_cast<uint32_t>(stride);
        stride *= resolution;
    }
    if (all_axes || stride <= size) {
        index += z * static_cast<uint32_t>(stride);
        stride *= resolution;
    }
    if (indexing == GridIndexing::kHashed && size < stride) index = x ^ (y * 2654435761u) ^ (z * 805459861u);
    return hash_grid_wrap(index, size);
}

// float32 in and out. Rows from *count on: encoding and grad_positions become zero, grad is not read. Samples whose
// gradient is zero at a level leave the table's alone (even where their position is NaN): early stops make many of
// them. The table's gradient reads no table: params.table may be null.
void hash_grid_cpu(const HashGridParams& params, float* encoding);  // [S, L*F]
void hash_grid_backward_table_cpu(const HashGridParams& params, const float* grad, float* grad_table);  // [entries, F]
void hash_grid_backward_positions_cpu(const HashGridParams& params, const float* grad,
                                      float* grad_positions);  // [S, 3]

#if defined(USE_CUDA) || defined(LDP_CUDA_ON_CPU)
void hash_grid_cuda(const HashGridParams& params, float* encoding, cudaStream_t stream);
void hash_grid_backward_positions_cuda(const HashGridParams& params, const float* grad, float* grad_positions,
                                       cudaStream_t stream);

// Adds to grad_table, which comes zeroed, in float32 atomics; with a workspace (zeroed, as many numbers as
// hash_grid_workspace says) in fixed point: the same bits in every run.
void hash_grid_backward_table_cuda(const HashGridParams& params, const float* grad, float* grad_table,
                                   int64_t* workspace, cudaStream_t stream);
#endif

// Numbers of 64 bits: a fixed-point sum for every element of the table, and the largest gradient.
inline int64_t hash_grid_workspace(int64_t elements) { return elements + 1; }

}  // namespace ldp

// Which cells the field is asked about, and what becomes of the answers: a thread per sample.
//
// Sampling reads up to ten averages at random, writes 20 bytes. The update writes three times, each kernel what the
// next one starts from: a copy; the decayed average of every sampled cell (a cell that was drawn twice gets the same
// number twice); the largest answer, by atomics on non-negative floats, whose order does not matter.
#include <ldp/launch.h>
#include <ldp/warp.h>

#include "occupancy.h"

namespace ldp {
namespace {

constexpr int kBlock = 256;

__device__ __forceinline__ int64_t first_item() { return static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x; }
__device__ __forceinline__ int64_t stride() { return static_cast<int64_t>(gridDim.x) * kBlock; }

unsigned blocks(int64_t size) {
    return static_cast<unsigned>(smaller(ceil_div(size, kBlock), static_cast<int64_t>(multiprocessors()) * 16));
}

__global__ void __launch_bounds__(kBlock) occupancy_sample_cells(OccupancySamplesParams params) {
    for (int64_t i = first_item(); i < params.size; i += stride()) occupancy_sample(params, i);
}

__global__ void __launch_bounds__(kBlock) occupancy_copy(OccupancyUpdateParams params) {
    for (int64_t i = first_item(); i < params.n_cells; i += stride()) params.updated[i] = params.ema[i];
}

__global__ void __launch_bounds__(kBlock) occupancy_decay(OccupancyUpdateParams params) {
    for (int64_t i = first_item(); i < params.size; i += stride()) {
        const int64_t cell = params.cells[i];
        if (cell < 0 || cell >= params.n_cells) continue;
        params.updated[cell] = occupancy_decayed(params.decay, params.ema[cell]);
    }
}

__global__ void __launch_bounds__(kBlock) occupancy_raise(OccupancyUpdateParams params) {
    for (int64_t i = first_item(); i < params.size; i += stride()) {
        const int64_t cell = params.cells[i];
        if (cell < 0 || cell >= params.n_cells) continue;
        atomic_max(params.updated + cell, occupancy_density(params.densities[i]));
    }
}

}  // namespace

void occupancy_samples_cuda(const OccupancySamplesParams& params, cudaStream_t stream) {
    if (params.size > 0) LDP_LAUNCH(occupancy_sample_cells, blocks(params.size), kBlock, 0, stream, params);
}

void occupancy_update_cuda(const OccupancyUpdateParams& params, cudaStream_t stream) {
    if (params.n_cells == 0) return;
    LDP_LAUNCH(occupancy_copy, blocks(params.n_cells), kBlock, 0, stream, params);
    if (params.size == 0) return;
    LDP_LAUNCH(occupancy_decay, blocks(params.size), kBlock, 0, stream, params);
    LDP_LAUNCH(occupancy_raise, blocks(params.size), kBlock, 0, stream, params);
}

}  // namespace ldp

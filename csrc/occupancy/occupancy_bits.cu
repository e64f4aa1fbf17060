// From averages to bits: the mean in two stages whose order is fixed, then eight cells to a byte.
//
// Reads the averages twice, writes a bit a cell. The sums are float64, in the order of the CPU backend: `kMeanThreads`
// strided sums of a tile, halves onto halves; then the same over the tiles, in one block.
#include <ldp/launch.h>

#include "occupancy.h"

namespace ldp {
namespace {

// The sum of the block's values in thread 0, parts of it elsewhere.
__device__ __forceinline__ double block_sum(double value, double* shared) {
    const int thread = static_cast<int>(threadIdx.x);
    shared[thread] = value;
    for (int half = kMeanThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) shared[thread] += shared[thread + half];
    }
    return shared[thread];
}

__global__ void __launch_bounds__(kMeanThreads) occupancy_tile_sums(OccupancyBitsParams params) {
    LDP_SHARED(double, shared, kMeanThreads);
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * kMeanTile;
    const int64_t end = smaller<int64_t>(begin + kMeanTile, params.n_cells);
    double sum = 0.0;
    for (int64_t i = begin + threadIdx.x; i < end; i += kMeanThreads) sum += static_cast<double>(params.ema[i]);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) params.partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kMeanThreads) occupancy_mean(OccupancyBitsParams params, int64_t n_tiles) {
    LDP_SHARED(double, shared, kMeanThreads);
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < n_tiles; i += kMeanThreads) sum += params.partial[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) *params.used = occupancy_threshold(sum, params.n_cells, params.threshold);
}

__global__ void __launch_bounds__(kMeanThreads) occupancy_pack(OccupancyBitsParams params) {
    const float used = *params.used;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * kMeanThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kMeanThreads + threadIdx.x; i < params.n_cells / 8; i += stride)
        params.bits[i] = occupancy_byte(params.ema + 8 * i, used);
}

}  // namespace

void occupancy_bits_cuda(const OccupancyBitsParams& params, cudaStream_t stream) {
    const int64_t tiles = ceil_div(params.n_cells, kMeanTile);
    LDP_LAUNCH(occupancy_tile_sums, static_cast<unsigned>(tiles), kMeanThreads, 0, stream, params);
    LDP_LAUNCH(occupancy_mean, 1, kMeanThreads, 0, stream, params, tiles);
    LDP_LAUNCH(occupancy_pack,
               blocks_for(ceil_div(params.n_cells / 8, kMeanThreads), occupancy_pack, kMeanThreads, 0, 4), kMeanThreads,
               0, stream, params);
}

}  // namespace ldp

// Offsets of rays: an exclusive prefix sum of the samples' counts, clipped to the capacity, in whole numbers.
//
// A block sums a tile of 4096 rays (march_tile_sums), one warp scans the sums of the tiles (march_scan_tiles: 256 for a
// million rays), then every block scans its own tile and adds what stands before it (march_scan_rays). Up to one tile,
// which is 64 x 64 rays, the last kernel is all there is. No block waits for another one, and there are no atomics.
#include <ldp/launch.h>
#include <ldp/warp.h>

#include "march_rays.h"

namespace ldp {
namespace {

constexpr int kBlock = 1024;
constexpr int kItems = kScanTile / kBlock;
constexpr int kWarpsInBlock = kBlock / kWarp;

// The sum of the values of the threads before this one; `total` is that of the block. All threads take part.
__device__ __forceinline__ int64_t block_exclusive_sum(int64_t value, int64_t* shared, int64_t& total) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int64_t inclusive = inclusive_sum(value);
    __syncthreads();
    if (lane_id() == kWarp - 1) shared[warp] = inclusive;
    __syncthreads();
    if (warp == 0) shared[lane_id()] = inclusive_sum(shared[lane_id()]);
    __syncthreads();
    total = shared[kWarpsInBlock - 1];
    return (warp > 0 ? shared[warp - 1] : 0) + inclusive - value;
}

__device__ __forceinline__ int64_t first_item() {
    return static_cast<int64_t>(blockIdx.x) * kScanTile + static_cast<int64_t>(threadIdx.x) * kItems;
}

__global__ void __launch_bounds__(kBlock) march_tile_sums(MarchRaysParams params) {
    LDP_SHARED(int64_t, shared, kWarpsInBlock);
    int64_t sum = 0, total = 0;
    for (int j = 0; j < kItems; ++j) {
        const int64_t r = first_item() + j;
        if (r < params.n_rays) sum += params.ray_offsets[r + 1];
    }
    block_exclusive_sum(sum, shared, total);
    if (threadIdx.x == 0) params.tile_sums[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kWarp) march_scan_tiles(int64_t* tile_sums, int64_t n_tiles) {
    int64_t before = 0;
    for (int64_t base = 0; base < n_tiles; base += kWarp) {
        const int64_t i = base + lane_id();
        const int64_t sum = i < n_tiles ? tile_sums[i] : 0;
        const int64_t inclusive = inclusive_sum(sum);
        if (i < n_tiles) tile_sums[i] = before + inclusive - sum;
        before += broadcast(inclusive, kWarp - 1);
    }
}

__global__ void __launch_bounds__(kBlock) march_scan_rays(MarchRaysParams params, bool single) {
    LDP_SHARED(int64_t, shared, kWarpsInBlock);
    int64_t counts[kItems], sum = 0, total = 0;
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
        const int64_t r = first_item() + j;
        counts[j] = r < params.n_rays ? params.ray_offsets[r + 1] : 0;
        sum += counts[j];
    }
    const int64_t before = single ? 0 : params.tile_sums[blockIdx.x];
    int64_t offset = before + block_exclusive_sum(sum, shared, total);
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
        const int64_t r = first_item() + j;
        offset += counts[j];
        if (r < params.n_rays) params.ray_offsets[r + 1] = smaller(offset, params.capacity);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) params.ray_offsets[0] = 0;
    if (blockIdx.x + 1 == gridDim.x && threadIdx.x == 0) {
        params.counts[0] = smaller(before + total, params.capacity);
        params.counts[1] = before + total;
    }
}

}  // namespace

void march_scan_cuda(const MarchRaysParams& params, cudaStream_t stream) {
    const int64_t tiles = larger<int64_t>(ceil_div(params.n_rays, kScanTile), 1);
    if (tiles > 1) {
        LDP_LAUNCH(march_tile_sums, static_cast<unsigned>(tiles), kBlock, 0, stream, params);
        LDP_LAUNCH(march_scan_tiles, 1, kWarp, 0, stream, params.tile_sums, tiles);
    }
    LDP_LAUNCH(march_scan_rays, static_cast<unsigned>(tiles), kBlock, 0, stream, params, tiles == 1);
}

}  // namespace ldp

// Occupancy grid: which cells the march may skip. Parameters of the kernels and the maths they share.
//
// A cell's density is an exponential moving average of what the field said at random points of it (instant-ngp), and
// its bit says whether that is above a threshold. Letters: N = K * res^3 cells (grid.h), n samples.
#pragma once

#include <ldp/host_device.h>
#include <ldp/random.h>

#if defined(LDP_CUDA_ON_CPU)
#include <ldp/device.h>
#elif defined(USE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include "grid.h"

namespace ldp {

constexpr int kTries = 10;            // draws in search of an occupied cell
constexpr uint64_t kNumbers = 16;     // random numbers of a sample: 10 draws, then 3 for the place inside the cell
constexpr uint64_t kFirstNumber = uint64_t{1} << 40;  // the march has those below
constexpr float kLargestDensity = 1e10f;
constexpr int kMeanThreads = 256;
constexpr int kMeanTile = 8192;  // cells of one partial sum

struct OccupancySamplesParams {
    const float* ema;        // [N]
    const float* threshold;  // [1]
    const int64_t* seed;     // [1]
    int64_t* cells;          // [n], out
    float* positions;        // [n, 3], out
    int64_t size;            // n
    int64_t uniform;         // the first of them are drawn from all cells, the others from occupied ones; with
    bool every;              // every cell once instead
    GridGeometry grid;
};

struct OccupancyUpdateParams {
    const float* ema;        // [N]
    const int64_t* cells;    // [n]
    const float* densities;  // [n]
    float* updated;          // [N], out
    int64_t n_cells;         // N
    int64_t size;            // n
    float decay;
};

struct OccupancyBitsParams {
    const float* ema;   // [N]
    uint8_t* bits;      // [N / 8], out
    float* used;        // [1], out: the smaller of threshold and the mean
    double* partial;    // [ceil(N / kMeanTile)], workspace
    int64_t n_cells;    // N
    float threshold;
};

// A cell out of all: the upper bits give the place in the cascade, the lower ones the cascade.
LDP_HOST_DEVICE int64_t occupancy_draw(const GridGeometry& grid, uint64_t bits) {
    const int width = 3 * grid.log2_resolution;
    const uint64_t cascade = ((bits & 0xffffffffu) * static_cast<uint64_t>(grid.cascades)) >> 32;
    return static_cast<int64_t>(cascade << width | bits >> (64 - width));
}

LDP_HOST_DEVICE void occupancy_sample(const OccupancySamplesParams& params, int64_t i) {
    const uint64_t seed = static_cast<uint64_t>(*params.seed);
    const uint64_t number = kFirstNumber + static_cast<uint64_t>(i) * kNumbers;
    int64_t cell = i;
    if (!params.every) {
        cell = occupancy_draw(params.grid, random_bits(seed, number));
        for (int j = 1; i >= params.uniform && j < kTries && !(params.ema[cell] > *params.threshold); ++j)
            cell = occupancy_draw(params.grid, random_bits(seed, number + static_cast<uint64_t>(j)));
    }
    params.cells[i] = cell;
    const int width = 3 * params.grid.log2_resolution;
    const int cascade = static_cast<int>(cell >> width);
    const uint32_t code = static_cast<uint32_t>(cell & ((int64_t{1} << width) - 1));
    for (int d = 0; d < 3; ++d)
        params.positions[3 * i + d] = grid_point(params.grid, d, cascade, morton_gather(code >> d),
                                                 random_uniform(seed, number + kTries + static_cast<uint64_t>(d)));
}

// What an answer of the field counts as. One that is not a number counts as occupied, and is forgotten by decay again.
LDP_HOST_DEVICE float occupancy_density(float density) {
    return density < kLargestDensity ? larger(density, 0.0f) : kLargestDensity;
}

// Never below 0, whatever the average was: the maximum that follows compares bits.
LDP_HOST_DEVICE float occupancy_decayed(float decay, float average) { return larger(mul_rn(decay, average), 0.0f); }

LDP_HOST_DEVICE float occupancy_threshold(double sum, int64_t n_cells, float threshold) {
    const float mean = static_cast<float>(sum / static_cast<double>(n_cells));
    return mean < threshold ? mean : threshold;
}

// NaN is occupied. So is what is just at the threshold: a uniform field is its own mean, and must not vanish.
LDP_HOST_DEVICE uint8_t occupancy_byte(const float* ema, float used) {
    unsigned byte = 0;
    for (int j = 0; j < 8; ++j) byte |= (ema[j] < used || ema[j] <= 0.0f ? 0u : 1u) << j;
    return static_cast<uint8_t>(byte);
}

// Entry points, CPU: occupancy_cpu.cpp.
void occupancy_samples_cpu(const OccupancySamplesParams& params);
void occupancy_update_cpu(const OccupancyUpdateParams& params);
void occupancy_bits_cpu(const OccupancyBitsParams& params);

#if defined(USE_CUDA) || defined(LDP_CUDA_ON_CPU)
// occupancy_update.cu, occupancy_bits.cu
void occupancy_samples_cuda(const OccupancySamplesParams& params, cudaStream_t stream);
void occupancy_update_cuda(const OccupancyUpdateParams& params, cudaStream_t stream);
void occupancy_bits_cuda(const OccupancyBitsParams& params, cudaStream_t stream);
#endif

}  // namespace ldp

#include <ldp/parallel.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "occupancy.h"

namespace ldp {
namespace {

constexpr int64_t kUpdateThreads = 8;

// The order of additions of the CUDA kernels: `kMeanThreads` strided sums, then halves onto halves.
template <typename T>
double strided_sum(const T* values, int64_t size) {
    double sums[kMeanThreads] = {};
    for (int64_t begin = 0; begin < size; begin += kMeanThreads)
        for (int64_t j = 0; j < smaller<int64_t>(kMeanThreads, size - begin); ++j)
            sums[j] += static_cast<double>(values[begin + j]);
    for (int half = kMeanThreads / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
    return sums[0];
}

}  // namespace

void occupancy_samples_cpu(const OccupancySamplesParams& params) {
    parallel_for(params.size, 4096, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) occupancy_sample(params, i);
    });
}

void occupancy_update_cpu(const OccupancyUpdateParams& params) {
    for (int64_t i = 0; i < params.size; ++i)
        if (params.cells[i] < 0 || params.cells[i] >= params.n_cells)
            throw std::runtime_error("occupancy_update: cells: expected indices from 0 to " +
                                     std::to_string(params.n_cells - 1) + ", got " + std::to_string(params.cells[i]));
    // Every thread has cells of its own and looks through all samples for them: no two write to one place.
    const int64_t grain = larger<int64_t>((params.n_cells + kUpdateThreads - 1) / kUpdateThreads, 1 << 14);
    parallel_for(params.n_cells, grain, [&](int64_t begin, int64_t end) {
        std::memcpy(params.updated + begin, params.ema + begin, sizeof(float) * static_cast<size_t>(end - begin));
        for (int64_t i = 0; i < params.size; ++i) {
            const int64_t cell = params.cells[i];
            if (cell >= begin && cell < end) params.updated[cell] = occupancy_decayed(params.decay, params.ema[cell]);
        }
        for (int64_t i = 0; i < params.size; ++i) {
            const int64_t cell = params.cells[i];
            if (cell < begin || cell >= end) continue;
            params.updated[cell] = larger(params.updated[cell], occupancy_density(params.densities[i]));
        }
    });
}

void occupancy_bits_cpu(const OccupancyBitsParams& params) {
    const int64_t tiles = (params.n_cells + kMeanTile - 1) / kMeanTile;
    parallel_for(tiles, 4, [&](int64_t begin, int64_t end) {
        for (int64_t tile = begin; tile < end; ++tile)
            params.partial[tile] = strided_sum(params.ema + tile * kMeanTile,
                                               smaller<int64_t>(kMeanTile, params.n_cells - tile * kMeanTile));
    });
    const float used = occupancy_threshold(strided_sum(params.partial, tiles), params.n_cells, params.threshold);
    *params.used = used;
    parallel_for(params.n_cells / 8, 4096, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) params.bits[i] = occupancy_byte(params.ema + 8 * i, used);
    });
}

}  // namespace ldp

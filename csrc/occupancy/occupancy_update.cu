// Which cells the field is asked about, and what becomes of the answers.
//
// Sampling, a thread per sample, reads up to ten averages at random and writes 20 bytes. The update clears its output
// (a thread per cell), leaves the largest answer there (a thread per sample; an integer maximum, whose order does not
// matter), and puts it together with the old average (a thread per cell): 8 bytes written and 8 read a cell, and one
// scattered access a sample.
#include <ldp/launch.h>

#include "occupancy.h"

namespace ldp {
namespace {

constexpr int kBlock = 256;

__device__ __forceinline__ int64_t first_item() { return static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x; }
__device__ __forceinline__ int64_t stride() { return static_cast<int64_t>(gridDim.x) * kBlock; }

template <typename Params>
unsigned blocks(int64_t size, void (*kernel)(Params)) {
    return blocks_for(ceil_div(size, kBlock), kernel, kBlock, 0, 4);
}

__global__ void __launch_bounds__(kBlock) occupancy_sample_cells(OccupancySamplesParams params) {
    for (int64_t i = first_item(); i < params.size; i += stride()) occupancy_sample(params, i);
}

// Where there was no answer. Answers are not negative, so that their bits are greater.
constexpr int kNoAnswer = -1;

__global__ void __launch_bounds__(kBlock) occupancy_clear(OccupancyUpdateParams params) {
    int* const answers = reinterpret_cast<int*>(params.updated);
    for (int64_t i = first_item(); i < params.n_cells; i += stride()) answers[i] = kNoAnswer;
}

__global__ void __launch_bounds__(kBlock) occupancy_raise(OccupancyUpdateParams params) {
    int* const answers = reinterpret_cast<int*>(params.updated);
    for (int64_t i = first_item(); i < params.size; i += stride()) {
        const int64_t cell = params.cells[i];
        if (cell < 0 || cell >= params.n_cells) continue;
        atomicMax(answers + cell, __float_as_int(occupancy_density(params.densities[i])));
    }
}

__global__ void __launch_bounds__(kBlock) occupancy_settle(OccupancyUpdateParams params) {
    for (int64_t i = first_item(); i < params.n_cells; i += stride()) {
        const float answer = params.updated[i], average = params.ema[i];
        const bool sampled = __float_as_int(answer) != kNoAnswer;
        params.updated[i] = sampled ? larger(occupancy_decayed(params.decay, average), answer) : average;
    }
}

}  // namespace

void occupancy_samples_cuda(const OccupancySamplesParams& params, cudaStream_t stream) {
    if (params.size == 0) return;
    LDP_LAUNCH(occupancy_sample_cells, blocks(params.size, occupancy_sample_cells), kBlock, 0, stream, params);
}

void occupancy_update_cuda(const OccupancyUpdateParams& params, cudaStream_t stream) {
    if (params.n_cells == 0) return;
    LDP_LAUNCH(occupancy_clear, blocks(params.n_cells, occupancy_clear), kBlock, 0, stream, params);
    if (params.size > 0) LDP_LAUNCH(occupancy_raise, blocks(params.size, occupancy_raise), kBlock, 0, stream, params);
    LDP_LAUNCH(occupancy_settle, blocks(params.n_cells, occupancy_settle), kBlock, 0, stream, params);
}

}  // namespace ldp

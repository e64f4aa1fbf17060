#include "occupancy_op.h"

#include "grid_op.h"
#include "occupancy.h"

namespace ldp {

void occupancy_samples_op(Tensor cells, Tensor positions, Tensor ema, Tensor threshold, Tensor seed, int64_t uniform,
                          int64_t occupied, std::vector<double> box, int64_t resolution, int64_t cascades) {
    constexpr const char* op = "occupancy_samples";
    OccupancySamplesParams params{};
    params.grid = checked_grid(op, box, resolution, cascades);
    check(uniform >= 0, op, "uniform", "at least 0", std::to_string(uniform));
    check(occupied >= 0, op, "occupied", "at least 0", std::to_string(occupied));
    params.every = uniform == 0 && occupied == 0;
    params.uniform = uniform;
    params.size = params.every ? grid_cells(params.grid) : uniform + occupied;
    params.ema = data<float>(op, "ema", ema, {grid_cells(params.grid)}, ema);
    params.threshold = data<float>(op, "threshold", threshold, {1}, ema);
    params.seed = data<int64_t>(op, "seed", seed, {1}, ema);
    params.cells = data<int64_t>(op, "cells", cells, {params.size}, ema);
    params.positions = data<float>(op, "positions", positions, {params.size, 3}, ema);
    LDP_DISPATCH(op, ema, occupancy_samples_cpu(params), occupancy_samples_cuda(params, stream));
}

void occupancy_update_op(Tensor updated, Tensor ema, Tensor cells, Tensor densities, double decay) {
    constexpr const char* op = "occupancy_update";
    OccupancyUpdateParams params{};
    check(decay >= 0.0 && decay <= 1.0, op, "decay", "0 to 1", std::to_string(decay));
    params.ema = data<float>(op, "ema", ema, {-1}, ema);
    params.n_cells = ema.size(0);
    params.cells = data<int64_t>(op, "cells", cells, {-1}, ema);
    params.size = cells.size(0);
    params.densities = data<float>(op, "densities", densities, {params.size}, ema);
    params.updated = data<float>(op, "updated", updated, {params.n_cells}, ema);
    params.decay = static_cast<float>(decay);
    LDP_DISPATCH(op, ema, occupancy_update_cpu(params), occupancy_update_cuda(params, stream));
}

void occupancy_bits_op(Tensor bits, Tensor used, Tensor workspace, Tensor ema, double threshold) {
    constexpr const char* op = "occupancy_bits";
    OccupancyBitsParams params{};
    check(threshold >= 0.0, op, "threshold", "at least 0", std::to_string(threshold));
    params.ema = data<float>(op, "ema", ema, {-1}, ema);
    params.n_cells = ema.size(0);
    check(params.n_cells > 0 && params.n_cells % 8 == 0, op, "ema", "a multiple of 8 cells",
          std::to_string(params.n_cells));
    params.bits = data<uint8_t>(op, "bits", bits, {params.n_cells / 8}, ema);
    params.used = data<float>(op, "used_threshold", used, {1}, ema);
    const int64_t tiles = (params.n_cells + kMeanTile - 1) / kMeanTile;
    params.partial = data<double>(op, "workspace", workspace, {tiles}, ema);
    params.threshold = static_cast<float>(threshold);
    LDP_DISPATCH(op, ema, occupancy_bits_cpu(params), occupancy_bits_cuda(params, stream));
}

}  // namespace ldp

// Checks of what describes an occupancy grid, for the operators that take one.
#pragma once

#include <ldp/tensors.h>

#include <cmath>
#include <vector>

#include "grid.h"

namespace ldp {

inline GridGeometry checked_grid(const char* op, const std::vector<double>& box, int64_t resolution, int64_t cascades) {
    check(box.size() == 6, op, "box", "6 numbers: the lower corner, then the upper one", std::to_string(box.size()));
    for (int d = 0; d < 3; ++d) {
        const double lower = box[d], upper = box[d + 3];
        check(std::isfinite(lower) && std::isfinite(upper), op, "box", "finite numbers",
              std::to_string(lower) + " to " + std::to_string(upper));
        check(static_cast<float>(lower) < static_cast<float>(upper), op, "box",
              "an upper corner above the lower one on every axis",
              std::to_string(lower) + " to " + std::to_string(upper));
    }
    check(cascades >= 1 && cascades <= kMaxCascades, op, "cascades", "1 to " + std::to_string(kMaxCascades),
          std::to_string(cascades));
    int log2_resolution = 2;
    while (log2_resolution < kMaxLog2Resolution && (int64_t{1} << log2_resolution) < resolution) ++log2_resolution;
    check((int64_t{1} << log2_resolution) == resolution, op, "resolution", "a power of two from 4 to 1024",
          std::to_string(resolution));
    return grid_geometry(box.data(), log2_resolution, static_cast<int>(cascades));
}

inline int64_t grid_cells(const GridGeometry& grid) {
    return static_cast<int64_t>(grid.cascades) << (3 * grid.log2_resolution);
}

}  // namespace ldp

#include "march_rays_op.h"

#include "../occupancy/grid_op.h"
#include "march_rays.h"

namespace ldp {

void march_rays_op(Tensor positions, Tensor distances, Tensor steps, Tensor ray_offsets, Tensor counts,
                   Tensor workspace, Tensor origins, Tensor directions, OptionalTensor bits, Tensor seed,
                   std::vector<double> box, int64_t resolution, int64_t cascades, double near, double far, double step,
                   double cone_angle, double max_step, bool jitter, int64_t capacity) {
    constexpr const char* op = "march_rays";
    MarchRaysParams params{};
    params.grid = checked_grid(op, box, resolution, cascades);
    check(capacity >= 1, op, "capacity", "at least 1", std::to_string(capacity));
    check(near >= 0.0 && std::isfinite(near), op, "near", "a finite number of at least 0", std::to_string(near));
    check(far > near, op, "far", "a number above near", std::to_string(far));
    params.step = static_cast<float>(step);
    check(params.step > 0.0f && std::isfinite(params.step), op, "step", "a finite number above 0",
          std::to_string(step));
    const double diagonal = std::hypot(box[3] - box[0], box[4] - box[1], box[5] - box[2]);
    check(diagonal / step < kMaxLattice, op, "step",
          "less than " + std::to_string(kMaxLattice) + " steps along the box's diagonal",
          std::to_string(diagonal / step));
    check(cone_angle >= 0.0 && std::isfinite(cone_angle), op, "cone_angle", "a finite number of at least 0",
          std::to_string(cone_angle));
    check(cone_angle == 0.0 || max_step >= step, op, "max_step", "at least step", std::to_string(max_step));

    params.n_rays = origins.size(0);
    params.capacity = capacity;
    params.origins = data<float>(op, "origins", origins, {params.n_rays, 3}, origins);
    params.directions = data<float>(op, "directions", directions, {params.n_rays, 3}, origins);
    params.bits = data_or_null<uint8_t>(op, "bits", bits, {grid_cells(params.grid) / 8}, origins);
    params.seed = data<int64_t>(op, "seed", seed, {1}, origins);
    params.positions = data<float>(op, "positions", positions, {capacity, 3}, origins);
    params.distances = data<float>(op, "distances", distances, {capacity}, origins);
    params.steps = data<float>(op, "steps", steps, {capacity}, origins);
    params.ray_offsets = data<int64_t>(op, "ray_offsets", ray_offsets, {params.n_rays + 1}, origins);
    params.counts = data<int64_t>(op, "counts", counts, {2}, origins);
    const int64_t tiles = (params.n_rays + kScanTile - 1) / kScanTile;
    params.tile_sums = data<int64_t>(op, "workspace", workspace, {tiles}, origins);
    params.near = static_cast<float>(near);
    params.far = static_cast<float>(far);
    params.cone_angle = static_cast<float>(cone_angle);
    params.max_step = static_cast<float>(max_step);
    params.jitter = jitter;
    LDP_DISPATCH(op, origins, march_rays_cpu(params), march_rays_cuda(params, stream));
}

}  // namespace ldp

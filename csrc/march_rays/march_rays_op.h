// The operators of this room, as csrc/library.cpp registers them.
#pragma once

#include <ldp/tensors.h>

#include <vector>

namespace ldp {

void march_rays_op(Tensor positions, Tensor distances, Tensor steps, Tensor ray_offsets, Tensor counts,
                   Tensor workspace, Tensor origins, Tensor directions, OptionalTensor bits, Tensor seed,
                   std::vector<double> box, int64_t resolution, int64_t cascades, double near, double far, double step,
                   double cone_angle, double max_step, bool jitter, int64_t capacity);

}  // namespace ldp

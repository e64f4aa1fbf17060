// The operators of this room, as csrc/library.cpp registers them.
#pragma once

#include <ldp/tensors.h>

#include <vector>

namespace ldp {

void occupancy_samples_op(Tensor cells, Tensor positions, Tensor ema, Tensor threshold, Tensor seed, int64_t uniform,
                          int64_t occupied, std::vector<double> box, int64_t resolution, int64_t cascades);
void occupancy_update_op(Tensor updated, Tensor ema, Tensor cells, Tensor densities, double decay);
void occupancy_bits_op(Tensor bits, Tensor used, Tensor workspace, Tensor ema, double threshold);

}  // namespace ldp

// The operators of this room, as csrc/library.cpp registers them.
#pragma once

#include <ldp/tensors.h>

#include <vector>

namespace ldp {

void hash_grid_op(Tensor encoding, Tensor positions, Tensor table, OptionalTensor shadow, OptionalTensor count,
                  std::vector<int64_t> offsets, std::vector<int64_t> resolutions, std::vector<double> scales, double shift,
                  bool hashed, bool smoothstep);

}  // namespace ldp

// The operators of this room, as csrc/library.cpp registers them.
#pragma once

#include <ldp/tensors.h>

#include <vector>

#include "hash_grid.h"

namespace ldp {

// Checks and gathers what describes an encoding; the latent field's operator asks for it too.
HashGridParams hash_grid_params(const char* op, const Tensor& positions, const Tensor& table,
                                const OptionalTensor& shadow, const OptionalTensor& count,
                                const std::vector<int64_t>& offsets, const std::vector<int64_t>& resolutions,
                                const std::vector<double>& scales, double shift, int64_t indexing, bool smoothstep);

void hash_grid_op(Tensor encoding, Tensor positions, Tensor table, OptionalTensor shadow, OptionalTensor count,
                  std::vector<int64_t> offsets, std::vector<int64_t> resolutions, std::vector<double> scales,
                  double shift, int64_t indexing, bool smoothstep);

// On CUDA grad_table, and the workspace of the deterministic mode, come zeroed.
void hash_grid_backward_table_op(Tensor grad_table, OptionalTensor workspace, Tensor grad, Tensor positions,
                                 OptionalTensor count, std::vector<int64_t> offsets, std::vector<int64_t> resolutions,
                                 std::vector<double> scales, double shift, int64_t indexing, bool smoothstep);

void hash_grid_backward_positions_op(Tensor grad_positions, Tensor grad, Tensor positions, Tensor table,
                                     OptionalTensor shadow, OptionalTensor count, std::vector<int64_t> offsets,
                                     std::vector<int64_t> resolutions, std::vector<double> scales, double shift,
                                     int64_t indexing, bool smoothstep);

}  // namespace ldp

// The operators of this room, as csrc/library.cpp registers them.
#pragma once

#include <ldp/tensors.h>

#include <vector>

namespace ldp {

void latent_field_op(Tensor density, Tensor latents, Tensor encoding, OptionalTensor workspace, Tensor positions,
                     Tensor table, OptionalTensor shadow, Tensor weights, OptionalTensor count,
                     std::vector<int64_t> offsets, std::vector<int64_t> resolutions, std::vector<double> scales,
                     double shift, int64_t indexing, bool smoothstep, double bound, int64_t hidden, int64_t layers,
                     int64_t channels, bool bias, bool sigmoid, double blob_strength, double blob_std, bool half);

void latent_field_backward_op(Tensor grad_encoding, Tensor grad_weights, Tensor grad_positions,
                              OptionalTensor workspace, Tensor grad_density, Tensor grad_latents, Tensor positions,
                              Tensor encoding, Tensor weights, OptionalTensor count, int64_t hidden, int64_t layers,
                              int64_t channels, bool bias, bool sigmoid, double blob_strength, double blob_std,
                              bool half);

}  // namespace ldp

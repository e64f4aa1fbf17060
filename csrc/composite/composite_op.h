// The operators of this room, as csrc/library.cpp registers them.
#pragma once

#include <ldp/tensors.h>

namespace ldp {

void composite_op(Tensor composited, Tensor opacity, Tensor depth, Tensor weights, Tensor distortion, Tensor emptiness,
                  Tensor density, Tensor values, Tensor distances, Tensor steps, Tensor ray_offsets,
                  OptionalTensor background, double early_stop, double emptiness_scale);

void composite_backward_op(Tensor grad_density, Tensor grad_samples, Tensor grad_background,
                           OptionalTensor grad_composited, OptionalTensor grad_opacity, OptionalTensor grad_depth,
                           OptionalTensor grad_weights, OptionalTensor grad_distortion, OptionalTensor grad_emptiness,
                           Tensor density, Tensor values, Tensor distances, Tensor steps, Tensor ray_offsets,
                           OptionalTensor background, Tensor opacity, double early_stop, double emptiness_scale);

}  // namespace ldp

// The operators of this room, as csrc/library.cpp registers them.
#pragma once

#include <ldp/tensors.h>

namespace ldp {

void group_norm_moments_op(Tensor mean, Tensor rstd, Tensor x, int64_t groups, double eps);

void group_norm_silu_op(Tensor out, Tensor x, Tensor mean, Tensor rstd, OptionalTensor weight, OptionalTensor bias,
                        bool silu);

void group_norm_silu_backward_op(Tensor grad_x, Tensor grad, Tensor x, Tensor mean, Tensor rstd, OptionalTensor weight,
                                 OptionalTensor bias, bool silu, OptionalTensor addend, OptionalTensor signs,
                                 double sign_weight);

}  // namespace ldp

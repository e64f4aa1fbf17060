// The operator of this room, as csrc/library.cpp registers it.
#pragma once

#include <ldp/tensors.h>

namespace ldp {

void fused_adam_op(Tensor param, Tensor grad, Tensor exp_avg, Tensor exp_avg_sq, OptionalTensor shadow, Tensor step,
                   Tensor lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled,
                   OptionalTensor grad_scale, OptionalTensor found_inf, bool zero_grad);

}  // namespace ldp

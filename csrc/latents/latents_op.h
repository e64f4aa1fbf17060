// torch.ops.ldp_fast_native: the streaming operators on latents; see latents.h. Latents are [B, ...],
// contiguous, or channels-last as the output is (the residual, where there is no output like it).
#pragma once

#include <ldp/tensors.h>

namespace ldp {

void perturb_op(Tensor out, Tensor latents, Tensor noise, Tensor alpha, Tensor sigma);
void guided_residual_op(Tensor out, Tensor model_output, Tensor noise, OptionalTensor guidance_scale,
                        OptionalTensor noisy_latents, OptionalTensor alpha, OptionalTensor sigma, bool from_text,
                        bool text_first, int64_t prediction);
void residual_latents_op(Tensor out, Tensor latents, Tensor residual);
void residual_latents_backward_op(Tensor out, Tensor grad, Tensor alpha);
void score_distillation_op(Tensor value, OptionalTensor count, Tensor residual, Tensor weight, bool zero_nonfinite);
void score_distillation_backward_op(Tensor out, Tensor grad, Tensor residual, Tensor weight, bool zero_nonfinite);

}  // namespace ldp

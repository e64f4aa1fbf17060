// torch.ops.ldp_fast_native.feature_matching and its backward; see feature_matching.h.
#pragma once

#include <ldp/tensors.h>

#include <vector>

namespace ldp {

// Rows [B, M] of stride 1, or contiguous [B, ...]; without features_prime [2B, M], x above x'. mean and batch_mean are
// those of the loss.
void feature_matching_op(Tensor loss, Tensor level_values, Tensor counts, Tensor signs, std::vector<Tensor> features,
                         std::vector<Tensor> features_prime, bool mean, bool batch_mean, bool zero_nonfinite,
                         bool save_signs);
// grads are contiguous: [2B, M] of each level for halves, else the wanted ones of [B, M] of x, then those of x'.
void feature_matching_backward_op(std::vector<Tensor> grads, Tensor grad, Tensor signs, std::vector<int64_t> sizes,
                                  int64_t batch, bool mean, bool batch_mean, bool halves, bool needs_features,
                                  bool needs_features_prime);

}  // namespace ldp

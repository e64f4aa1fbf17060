// Group norm and SiLU with constant affine parameters, and the gradient with respect to x alone. CPU, float32,
// channels-last; Triton serves CUDA. The formulas are those of ldp_fast/reference/group_norm_silu.py.
#pragma once

#include <cstdint>

namespace ldp {

struct GroupNormParams {
    const float* x;       // [B, P, C]
    const float* mean;    // [B, G]
    const float* rstd;    // [B, G], 1 / sqrt(variance + eps)
    const float* weight;  // [C], null = 1
    const float* bias;    // [C], null = 0
    int64_t batch;        // B
    int64_t pixels;       // P
    int64_t channels;     // C, a multiple of groups
    int64_t groups;       // G
    bool silu;
};

struct GroupNormGradient {
    const float* grad;     // [B, P, C], of the output
    const float* addend;   // [B, P, C], added to the gradient of x; null = 0
    const int32_t* signs;  // [B / 2, blocks, 512] packed signs of feature matching; null without
    float sign_weight;     // times the sign, for the first half of the samples; minus that for the second
};

// Of params.x alone; mean and rstd are [B, G].
void group_norm_moments_cpu(const GroupNormParams& params, float eps, float* mean, float* rstd);
void group_norm_silu_cpu(const GroupNormParams& params, float* out);
void group_norm_silu_backward_cpu(const GroupNormParams& params, const GroupNormGradient& gradient, float* grad_x);

}  // namespace ldp

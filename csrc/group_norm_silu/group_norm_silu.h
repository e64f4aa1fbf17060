// Group norm and SiLU with constant affine parameters, and the gradient with respect to x alone. CPU; Triton serves
// CUDA. What is read may lie in planes, what is written is channels-last. Images are T: float, BFloat16 or Half; all else
// is float, arithmetic as well. The formulas are those of ldp_fast/reference/group_norm_silu.py.
#pragma once

#include <ldp/narrow.h>

#include <cstdint>
#include <type_traits>

namespace ldp {

// A batch of images to be read: [B, P, C], or in planes [B, C, P].
template <typename T>
struct Images {
    const T* data;
    bool planes;
};

template <typename T>
struct GroupNormParams {
    Images<T> x;
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

// As wide as an element of the image.
template <typename T>
using SignWord = std::conditional_t<sizeof(T) == 2, int16_t, int32_t>;

template <typename T>
struct GroupNormGradient {
    Images<T> grad;            // of the output
    Images<T> addend;          // added to the gradient of x; null = 0
    const SignWord<T>* signs;  // [B / 2, blocks, 2048 / sizeof(T)] packed signs of feature matching; null without
    float sign_weight;         // times the sign, for the first half of the samples; minus that for the second
};

// Of params.x alone; mean and rstd are [B, G].
template <typename T>
void group_norm_moments_cpu(const GroupNormParams<T>& params, float eps, float* mean, float* rstd);
template <typename T>
void group_norm_silu_cpu(const GroupNormParams<T>& params, T* out);
template <typename T>
void group_norm_silu_backward_cpu(const GroupNormParams<T>& params, const GroupNormGradient<T>& gradient, T* grad_x);

}  // namespace ldp

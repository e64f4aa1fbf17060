// Group norm and SiLU with constant affine parameters, and the gradient with respect to x alone. CPU; Triton serves
// CUDA. Images of one call all lie the same way, those that are written as well. Images are T: float, BFloat16 or Half;
// all else is float, arithmetic as well. The formulas are those of ldp_fast/reference/group_norm_silu.py.
#pragma once

#include <ldp/narrow.h>

#include <cstdint>
#include <type_traits>

namespace ldp {

template <typename T>
struct GroupNormParams {
    const T* x;
    bool planes;          // images are [B, C, P]; else [B, P, C]
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
    const T* grad;             // of the output
    const T* addend;           // added to the gradient of x; null = 0
    const SignWord<T>* signs;  // [B / 2, blocks, 2048 / sizeof(T)] packed signs of feature matching; null without, and
                               // null where images lie in planes
    float sign_weight;         // times the sign, for the first half of the samples; minus that for the second
};

// Of params.x alone; mean and rstd are [B, G].
template <typename T>
void group_norm_moments_cpu(const GroupNormParams<T>& params, float eps, float* mean, float* rstd);
template <typename T>
void group_norm_silu_cpu(const GroupNormParams<T>& params, T* out);
template <typename T>
void group_norm_silu_backward_cpu(const GroupNormParams<T>& params, const GroupNormGradient<T>& gradient, T* grad_x);

// The same where params.planes, which the functions above call.
template <typename T>
void group_norm_moments_planes_cpu(const GroupNormParams<T>& params, float eps, float* mean, float* rstd);
template <typename T>
void group_norm_silu_planes_cpu(const GroupNormParams<T>& params, T* out);
template <typename T>
void group_norm_silu_planes_backward_cpu(const GroupNormParams<T>& params, const GroupNormGradient<T>& gradient,
                                         T* grad_x);

}  // namespace ldp

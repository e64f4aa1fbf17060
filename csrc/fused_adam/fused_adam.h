// One step of Adam in one pass: the parameters of the kernels and the formula they share.
//
// torch.optim.Adam's formula: m <- m + (1 - beta1) (g - m), v <- beta2 v + (1 - beta2) g^2,
// p <- p - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps).
// Weight decay adds decay * p to g, or, decoupled (AdamW), first scales p by 1 - lr decay.
#pragma once

#include <ldp/host_device.h>

#include <cstddef>

namespace ldp {

struct FusedAdamParams {
    float* param;             // [N]
    float* grad;              // [N]; zeroed if zero_grad, else unscaled in place if there is a grad_scale
    float* exp_avg;           // [N], m
    float* exp_avg_sq;        // [N], v
    void* shadow;             // [N] half, the new parameters rounded; null without one
    float* step;              // [1], steps taken so far; this one is t = *step + 1
    const float* lr;          // [1]
    const float* grad_scale;  // [1], divides the gradient; null = 1
    const float* found_inf;   // [1], not 0: only the gradient is zeroed; null = 0
    int64_t size;             // N
    float beta1_rest;         // 1 - beta1, rounded once
    float beta2;
    float beta2_rest;  // 1 - beta2
    float log_beta1;   // natural logarithms: 1 - beta^t = -expm1(t log(beta)) keeps its digits for beta near 1
    float log_beta2;
    float eps;
    float weight_decay;
    bool decoupled;
    bool zero_grad;
};

// What is the same for all elements of a step.
struct AdamStep {
    float step_size;      // lr / (1 - beta1^t)
    float correction;     // sqrt(1 - beta2^t)
    float kept;           // factor on the parameter: 1 - lr * decay if decoupled, else 1
    float coupled_decay;  // added to the gradient, times the parameter
    float scale;          // divides the gradient
    bool found_inf;
};

LDP_HOST_DEVICE AdamStep adam_step(const FusedAdamParams& params) {
    const float t = *params.step + 1.0f, lr = *params.lr;
    AdamStep step;
    step.step_size = lr / -expm1f(t * params.log_beta1);
    step.correction = sqrtf(-expm1f(t * params.log_beta2));
    step.kept = params.decoupled ? 1.0f - lr * params.weight_decay : 1.0f;
    step.coupled_decay = params.decoupled ? 0.0f : params.weight_decay;
    step.scale = params.grad_scale != nullptr ? *params.grad_scale : 1.0f;
    step.found_inf = params.found_inf != nullptr && *params.found_inf != 0.0f;
    return step;
}

// Updates one element; `grad` is unscaled.
LDP_HOST_DEVICE void adam_element(const AdamStep& step, float beta1_rest, float beta2, float beta2_rest, float eps,
                                  float& param, float grad, float& exp_avg, float& exp_avg_sq) {
    param *= step.kept;
    // Not added where it is zero: an infinite parameter times zero is NaN.
    if (step.coupled_decay != 0.0f) grad += step.coupled_decay * param;
    exp_avg += beta1_rest * (grad - exp_avg);
    exp_avg_sq = beta2 * exp_avg_sq + beta2_rest * (grad * grad);
    param -= step.step_size * (exp_avg / (sqrtf(exp_avg_sq) / step.correction + eps));
}

// CPU: fused_adam_cpu.cpp. CUDA: fused_adam.cu; a second, tiny kernel advances the step.
void fused_adam_cpu(const FusedAdamParams& params);
void fused_adam_cuda(const FusedAdamParams& params, void* stream);

}  // namespace ldp

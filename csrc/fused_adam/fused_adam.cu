// Adam in one pass over a parameter: nothing but memory traffic, so everything is read once and written once.
//
// Bytes an element: 16 read (p, g, m, v), 12 to 18 written (p, m, v; the zeroed g; the half-precision shadow), where
// separate passes (unscale, step, cast, zero) move 46: 8 + 28 + 6 + 4. Four elements a thread, 16 bytes at a time;
// arrays that do not start on 16 bytes go one by one. The step counter is read by every thread and therefore advanced
// by a kernel of its own, after this one on the same stream.
#include <ldp/launch.h>

#include <cstdint>

#include "fused_adam.h"

namespace ldp {
namespace {

constexpr int kAdamBlock = 256;

__device__ __forceinline__ void adam_one(const FusedAdamParams& params, const AdamStep& step, int64_t i) {
    const float grad = params.grad_scale != nullptr ? params.grad[i] / step.scale : params.grad[i];
    float param = params.param[i], exp_avg = params.exp_avg[i], exp_avg_sq = params.exp_avg_sq[i];
    adam_element(step, params.beta1_rest, params.beta2, params.beta2_rest, params.eps, param, grad, exp_avg,
                 exp_avg_sq);
    params.param[i] = param;
    params.exp_avg[i] = exp_avg;
    params.exp_avg_sq[i] = exp_avg_sq;
    if (params.shadow != nullptr) static_cast<half*>(params.shadow)[i] = to_half(param);
    if (params.zero_grad) {
        params.grad[i] = 0.0f;
    } else if (params.grad_scale != nullptr) {
        params.grad[i] = grad;
    }
}

__device__ __forceinline__ void adam_four(const FusedAdamParams& params, const AdamStep& step, int64_t i) {
    float4 grad = load_as<float4>(params.grad + i), param = load_as<float4>(params.param + i);
    float4 m = load_as<float4>(params.exp_avg + i), v = load_as<float4>(params.exp_avg_sq + i);
    if (params.grad_scale != nullptr) {
        grad.x /= step.scale;
        grad.y /= step.scale;
        grad.z /= step.scale;
        grad.w /= step.scale;
    }
    adam_element(step, params.beta1_rest, params.beta2, params.beta2_rest, params.eps, param.x, grad.x, m.x, v.x);
    adam_element(step, params.beta1_rest, params.beta2, params.beta2_rest, params.eps, param.y, grad.y, m.y, v.y);
    adam_element(step, params.beta1_rest, params.beta2, params.beta2_rest, params.eps, param.z, grad.z, m.z, v.z);
    adam_element(step, params.beta1_rest, params.beta2, params.beta2_rest, params.eps, param.w, grad.w, m.w, v.w);
    store_as(params.param + i, param);
    store_as(params.exp_avg + i, m);
    store_as(params.exp_avg_sq + i, v);
    if (params.shadow != nullptr) {
        struct alignas(8) Four {
            half2 low, high;
        };
        store_as(static_cast<half*>(params.shadow) + i, Four{to_half2(param.x, param.y), to_half2(param.z, param.w)});
    }
    if (params.zero_grad) {
        store_as(params.grad + i, make_float4(0.0f, 0.0f, 0.0f, 0.0f));
    } else if (params.grad_scale != nullptr) {
        store_as(params.grad + i, grad);
    }
}

template <bool kAligned>
__global__ void __launch_bounds__(kAdamBlock) adam_kernel(FusedAdamParams params) {
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * kAdamBlock + threadIdx.x;
    const int64_t threads = static_cast<int64_t>(gridDim.x) * kAdamBlock;
    const AdamStep step = adam_step(params);
    if (step.found_inf) {
        if (params.zero_grad)
            for (int64_t i = thread; i < params.size; i += threads) params.grad[i] = 0.0f;
        return;
    }
    const int64_t fours = kAligned ? params.size / 4 : 0;
    for (int64_t k = thread; k < fours; k += threads) adam_four(params, step, 4 * k);
    for (int64_t i = 4 * fours + thread; i < params.size; i += threads) adam_one(params, step, i);
}

__global__ void adam_advance_kernel(float* step, const float* found_inf) {
    if (found_inf == nullptr || *found_inf == 0.0f) *step += 1.0f;
}

bool aligned(const void* pointer, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace

void fused_adam_cuda(const FusedAdamParams& params, void* stream) {
    const auto on = static_cast<cudaStream_t>(stream);
    const bool wide = aligned(params.param, 16) && aligned(params.grad, 16) && aligned(params.exp_avg, 16) &&
                      aligned(params.exp_avg_sq, 16) && aligned(params.shadow, 8);
    if (params.size > 0) {
        const int64_t threads = wide ? ceil_div(params.size, int64_t{4}) : params.size;
        const int64_t wanted = ceil_div(threads, int64_t{kAdamBlock});
        // One wave: every thread computes the bias corrections.
        if (wide) {
            LDP_LAUNCH((adam_kernel<true>), blocks_for(wanted, adam_kernel<true>, kAdamBlock, 0, 1), dim3(kAdamBlock),
                       0, on, params);
        } else {
            LDP_LAUNCH((adam_kernel<false>), blocks_for(wanted, adam_kernel<false>, kAdamBlock, 0, 1), dim3(kAdamBlock),
                       0, on, params);
        }
    }
    LDP_LAUNCH(adam_advance_kernel, dim3(1), dim3(1), 0, on, params.step, params.found_inf);
}

}  // namespace ldp

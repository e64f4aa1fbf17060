#include <ldp/cpu_target.h>
#include <ldp/parallel.h>

#include <cstring>

#include "fused_adam.h"

namespace ldp {
namespace {

struct Update {
    LDP_INLINE static void run(const FusedAdamParams* params, const AdamStep* step, int64_t begin, int64_t end) {
        float* __restrict param = params->param, * __restrict grad = params->grad;
        float* __restrict exp_avg = params->exp_avg, * __restrict exp_avg_sq = params->exp_avg_sq;
        const AdamStep now = *step;
        const float beta1_rest = params->beta1_rest, beta2 = params->beta2, beta2_rest = params->beta2_rest;
        const float eps = params->eps;
        for (int64_t i = begin; i < end; ++i) {
            grad[i] /= now.scale;
            float p = param[i], m = exp_avg[i], v = exp_avg_sq[i];
            adam_element(now, beta1_rest, beta2, beta2_rest, eps, p, grad[i], m, v);
            param[i] = p;
            exp_avg[i] = m;
            exp_avg_sq[i] = v;
        }
    }
};

// What half_bits (ldp/half_bits.h) does, with less to branch on.
inline uint16_t rounded(float value) {
    uint32_t bits, subnormal;
    memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    // The last place of a subnormal half is that of a float near 0.5, which rounds.
    const float shifted = fabsf(value) + 0.5f;
    memcpy(&subnormal, &shifted, 4);
    uint32_t half = magnitude < 0x38800000u ? subnormal - 0x3f000000u : normal;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half;
    return static_cast<uint16_t>(magnitude > 0x7f800000u ? 0x7fffu : sign | half);
}

void round_to_half(const float* __restrict param, uint16_t* __restrict shadow, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) shadow[i] = rounded(param[i]);
}

}  // namespace

void fused_adam_cpu(const FusedAdamParams& params) {
    const AdamStep step = adam_step(params);
    constexpr int64_t kPiece = 2048;  // of one array; all of them stay in the cache until shadow and zeros are written
    parallel_for(params.size, 4 * kPiece, [&](int64_t first, int64_t last) {
        for (int64_t begin = first; begin < last; begin += kPiece) {
            const int64_t end = smaller(begin + kPiece, last);
            if (!step.found_inf) {
                run_widest<Update, 16>(&params, &step, begin, end);
                if (params.shadow != nullptr)
                    round_to_half(params.param, static_cast<uint16_t*>(params.shadow), begin, end);
            }
            if (params.zero_grad)
                for (int64_t i = begin; i < end; ++i) params.grad[i] = 0.0f;
        }
    });
    if (!step.found_inf) *params.step += 1.0f;
}

}  // namespace ldp

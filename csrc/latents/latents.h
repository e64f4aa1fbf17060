// Streaming operators on latents: noising, guidance and residual, v + r, score distillation. CPU; Triton serves CUDA.
//
// Samples are dense and all laid out alike, so that a sample is N floats, whatever its order. Coefficients are [B]. The
// formulas are those of the files of the same names in ldp_fast/reference; nothing is contracted.
#pragma once

#include <cstdint>

namespace ldp {

struct PerturbParams {
    const float* latents;  // v, [B, N]
    const float* noise;    // ε, [B, N]
    const float* alpha;    // α_t, [B]
    const float* sigma;    // σ_t, [B]
    float* out;            // z_t, [copies, B, N]
    int64_t batch, size, copies;
};

enum class Prediction : int64_t { kEpsilon, kVPrediction, kSample, kFlow, kSigma };

struct GuidedResidualParams {
    const float* start;  // e_u or e_c, from which guidance starts; the whole output without guidance, [B, N]
    const float* text;   // e_c, [B, N]; null without guidance
    const float* uncond; // e_u, [B, N]; null without guidance
    const float* scale;  // s, [B]; null without guidance
    const float* noise;  // ε, [B, N]
    const float* noisy;  // z_t, [B, N]; null where the prediction type does not need it, as the next two
    const float* alpha;  // α_t, [B]
    const float* sigma;  // σ_t, [B]
    float* out;          // r, [B, N]
    int64_t batch, size;
    Prediction prediction;
};

struct ScoreDistillationParams {
    const float* residual;  // r, [B, N]
    const float* weight;    // w(t), [B]
    int64_t batch, size;
    bool zero_nonfinite;
};

void perturb_cpu(const PerturbParams& params);
void guided_residual_cpu(const GuidedResidualParams& params);
// out = v + r; [B, N] each, taken as one array.
void residual_latents_cpu(const float* latents, const float* residual, float* out, int64_t elements);
// out = (1 + α_t) grad.
void residual_latents_backward_cpu(const float* grad, const float* alpha, float* out, int64_t batch, int64_t size);
// value [B] = ½·mean(w r²); count [B], the elements of w r that are not finite, may be null.
void score_distillation_cpu(const ScoreDistillationParams& params, float* value, int32_t* count);
// out [B, N] = grad · w r.
void score_distillation_backward_cpu(const ScoreDistillationParams& params, const float* grad, float* out);

}  // namespace ldp

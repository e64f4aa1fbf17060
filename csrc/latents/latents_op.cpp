#include "latents_op.h"

#include "latents.h"

namespace ldp {
namespace {

// Contiguous, or channels-last where it is [B, C, H, W] and `last`. The stride of an axis of one is anything.
bool is_dense(const Tensor& tensor, bool last) {
    if (!last) return tensor.is_contiguous();
    if (tensor.dim() != 4) return false;
    int64_t expected = 1;
    for (const int64_t d : {1, 3, 2, 0}) {
        if (tensor.size(d) != 1 && tensor.stride(d) != expected) return false;
        expected *= tensor.size(d);
    }
    return true;
}

// Whether the samples of a call are channels-last: those of the leading tensor are, and not contiguous.
bool is_last(const Tensor& leader) { return !leader.is_contiguous() && is_dense(leader, true); }

// [rows, ...] float32, dense, each row as large as one of `like`; with `more`, at least so many rows.
float* rows_of(const char* op, const char* argument, const Tensor& tensor, const Tensor& like, int64_t rows,
               bool last, bool more = false) {
    check(!tensor.is_cuda(), op, argument, "a CPU tensor (Triton serves CUDA)", "one on a GPU");
    check(tensor.scalar_type() == ScalarType::Float, op, argument, "float32", "another dtype");
    bool fits = tensor.dim() == like.dim() && tensor.dim() > 0;
    for (int64_t d = 1; fits && d < like.dim(); ++d) fits = tensor.size(d) == like.size(d);
    if (!fits || (more ? tensor.size(0) < rows : tensor.size(0) != rows))
        check(false, op, argument, std::to_string(rows) + (more ? " or more" : "") + " samples like " + shape_of(like),
              shape_of(tensor));
    check(is_dense(tensor, last), op, argument, last ? "a channels-last tensor" : "a contiguous tensor", "strides");
    return static_cast<float*>(tensor.data_ptr());
}

// N of [B, ...].
int64_t sample_size(const Tensor& tensor) {
    int64_t size = 1;
    for (int64_t d = 1; d < tensor.dim(); ++d) size *= tensor.size(d);
    return size;
}

int64_t batch_of(const char* op, const char* argument, const Tensor& tensor) {
    check(tensor.dim() > 0, op, argument, "shape [B, ...]", shape_of(tensor));
    return tensor.size(0);
}

}  // namespace

void perturb_op(Tensor out, Tensor latents, Tensor noise, Tensor alpha, Tensor sigma) {
    constexpr const char* op = "perturb";
    const bool last = is_last(out);
    PerturbParams params{};
    params.batch = batch_of(op, "latents", latents);
    params.size = sample_size(latents);
    params.latents = rows_of(op, "latents", latents, latents, params.batch, last);
    params.noise = rows_of(op, "noise", noise, latents, params.batch, last);
    params.alpha = data<float>(op, "alpha", alpha, {params.batch}, latents);
    params.sigma = data<float>(op, "sigma", sigma, {params.batch}, latents);
    params.copies = params.batch > 0 ? batch_of(op, "out", out) / params.batch : 0;
    params.out = rows_of(op, "out", out, latents, params.copies * params.batch, last);
    perturb_cpu(params);
}

void guided_residual_op(Tensor out, Tensor model_output, Tensor noise, OptionalTensor guidance_scale,
                        OptionalTensor noisy_latents, OptionalTensor alpha, OptionalTensor sigma, bool from_text,
                        bool text_first, int64_t prediction) {
    constexpr const char* op = "guided_residual";
    check(prediction >= 0 && prediction <= static_cast<int64_t>(Prediction::kSigma), op, "prediction", "0 to 4",
          std::to_string(prediction));
    const bool last = is_last(out), guided = guidance_scale.has_value();
    GuidedResidualParams params{};
    params.prediction = static_cast<Prediction>(prediction);
    params.batch = batch_of(op, "noise", noise);
    params.size = sample_size(noise);
    params.noise = rows_of(op, "noise", noise, noise, params.batch, last);
    params.out = rows_of(op, "out", out, noise, params.batch, last);
    params.start = rows_of(op, "model_output", model_output, noise, (guided ? 2 : 1) * params.batch, last);
    if (guided) {
        const float *const first = params.start, *const second = first + params.batch * params.size;
        params.scale = data<float>(op, "guidance_scale", *guidance_scale, {params.batch}, noise);
        params.text = text_first ? first : second;
        params.uncond = text_first ? second : first;
        params.start = from_text ? params.text : params.uncond;
    }
    if (params.prediction != Prediction::kEpsilon) {
        const bool needs_alpha = params.prediction != Prediction::kSigma;
        const bool needs_sigma = params.prediction != Prediction::kFlow;
        check(noisy_latents.has_value(), op, "noisy_latents", "a tensor", "None");
        params.noisy = rows_of(op, "noisy_latents", *noisy_latents, noise, params.batch, last, true);
        check(alpha.has_value() || !needs_alpha, op, "alpha", "a tensor", "None");
        check(sigma.has_value() || !needs_sigma, op, "sigma", "a tensor", "None");
        params.alpha = data_or_null<float>(op, "alpha", alpha, {params.batch}, noise);
        params.sigma = data_or_null<float>(op, "sigma", sigma, {params.batch}, noise);
    }
    guided_residual_cpu(params);
}

void residual_latents_op(Tensor out, Tensor latents, Tensor residual) {
    constexpr const char* op = "residual_latents";
    const bool last = is_last(out);
    const int64_t batch = batch_of(op, "latents", latents);
    const float* const v = rows_of(op, "latents", latents, latents, batch, last);
    const float* const r = rows_of(op, "residual", residual, latents, batch, last);
    residual_latents_cpu(v, r, rows_of(op, "out", out, latents, batch, last), batch * sample_size(latents));
}

void residual_latents_backward_op(Tensor out, Tensor grad, Tensor alpha) {
    constexpr const char* op = "residual_latents_backward";
    const bool last = is_last(out);
    const int64_t batch = batch_of(op, "grad", grad);
    const float* const from = rows_of(op, "grad", grad, grad, batch, last);
    const float* const a = data<float>(op, "alpha", alpha, {batch}, grad);
    residual_latents_backward_cpu(from, a, rows_of(op, "out", out, grad, batch, last), batch, sample_size(grad));
}

namespace {

ScoreDistillationParams score_distillation_params(const char* op, const Tensor& residual, const Tensor& weight,
                                                  bool last, bool zero) {
    ScoreDistillationParams params{};
    params.batch = batch_of(op, "residual", residual);
    params.size = sample_size(residual);
    params.residual = rows_of(op, "residual", residual, residual, params.batch, last);
    params.weight = data<float>(op, "weight", weight, {params.batch}, residual);
    params.zero_nonfinite = zero;
    return params;
}

}  // namespace

void score_distillation_op(Tensor value, OptionalTensor count, Tensor residual, Tensor weight, bool zero_nonfinite) {
    constexpr const char* op = "score_distillation";
    const bool last = is_last(residual);
    const ScoreDistillationParams params = score_distillation_params(op, residual, weight, last, zero_nonfinite);
    float* const to = data<float>(op, "value", value, {params.batch}, residual);
    score_distillation_cpu(params, to, data_or_null<int32_t>(op, "count", count, {params.batch}, residual));
}

void score_distillation_backward_op(Tensor out, Tensor grad, Tensor residual, Tensor weight, bool zero_nonfinite) {
    constexpr const char* op = "score_distillation_backward";
    const bool last = is_last(out);
    const ScoreDistillationParams params = score_distillation_params(op, residual, weight, last, zero_nonfinite);
    const float* const upstream = data<float>(op, "grad", grad, {params.batch}, residual);
    score_distillation_backward_cpu(params, upstream, rows_of(op, "out", out, residual, params.batch, last));
}

}  // namespace ldp

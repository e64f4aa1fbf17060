// Every native operator: the table of contents of csrc.
//
// They write into outputs that Python allocated (`ldp_fast::foo` is the operator users call, with shapes, autograd and
// checks; `ldp_fast_native::foo(outputs..., arguments...)` is what it runs on CPU and CUDA), so that nothing here
// allocates and all memory is torch's own.
#include <torch/csrc/stable/library.h>

#include "composite/composite_op.h"
#include "feature_matching/feature_matching_op.h"
#include "frozen_conv/frozen_conv_op.h"
#include "fused_adam/fused_adam_op.h"
#include "group_norm_silu/group_norm_silu_op.h"
#include "hash_grid/hash_grid_op.h"
#include "latent_field/latent_field_op.h"
#include "latents/latents_op.h"
#include "march_rays/march_rays_op.h"
#include "occupancy/occupancy_op.h"

STABLE_TORCH_LIBRARY(ldp_fast_native, m) {
    m.def(
        "hash_grid(Tensor(a!) encoding, Tensor positions, Tensor table, Tensor? shadow, Tensor? count, int[] offsets, "
        "int[] resolutions, float[] scales, float shift, int indexing, bool smoothstep) -> ()");
    m.def(
        "hash_grid_backward_table(Tensor(a!) grad_table, Tensor(b!)? workspace, Tensor grad, Tensor positions, Tensor? count, "
        "int[] offsets, int[] resolutions, float[] scales, float shift, int indexing, bool smoothstep) -> ()");
    m.def(
        "hash_grid_backward_positions(Tensor(a!) grad_positions, Tensor grad, Tensor positions, Tensor table, Tensor? shadow, "
        "Tensor? count, int[] offsets, int[] resolutions, float[] scales, float shift, int indexing, bool smoothstep) -> ()");
    m.def(
        "latent_field(Tensor(a!) density, Tensor(b!) latents, Tensor(c!) encoding, Tensor(d!)? workspace, Tensor positions, "
        "Tensor table, Tensor? shadow, Tensor weights, Tensor? count, int[] offsets, int[] resolutions, float[] scales, "
        "float shift, int indexing, bool smoothstep, float bound, int hidden, int layers, int channels, bool bias, bool sigmoid, "
        "float blob_strength, float blob_std, bool half) -> ()");
    m.def(
        "latent_field_backward(Tensor(a!) grad_encoding, Tensor(b!) grad_weights, Tensor(c!) grad_positions, "
        "Tensor(d!)? workspace, Tensor grad_density, Tensor grad_latents, Tensor positions, Tensor encoding, Tensor weights, "
        "Tensor? count, int hidden, int layers, int channels, bool bias, bool sigmoid, float blob_strength, float blob_std, "
        "bool half) -> ()");
    m.def(
        "march_rays(Tensor(a!) positions, Tensor(b!) distances, Tensor(c!) steps, Tensor(d!) ray_offsets, Tensor(e!) counts, "
        "Tensor(f!) workspace, Tensor origins, Tensor directions, Tensor? bits, Tensor seed, float[] box, int resolution, "
        "int cascades, float near, float far, float step, float cone_angle, float max_step, bool jitter, int capacity) -> ()");
    m.def(
        "occupancy_samples(Tensor(a!) cells, Tensor(b!) positions, Tensor ema, Tensor threshold, Tensor seed, int uniform, "
        "int occupied, float[] box, int resolution, int cascades) -> ()");
    m.def("occupancy_update(Tensor(a!) updated, Tensor ema, Tensor cells, Tensor densities, float decay) -> ()");
    m.def("occupancy_bits(Tensor(a!) bits, Tensor(b!) used_threshold, Tensor(c!) workspace, Tensor ema, float threshold) -> ()");
    m.def(
        "composite(Tensor(a!) composited, Tensor(b!) opacity, Tensor(c!) depth, Tensor(d!) weights, Tensor(e!) distortion, "
        "Tensor(f!) emptiness, Tensor density, Tensor values, Tensor distances, Tensor steps, Tensor ray_offsets, "
        "Tensor? background, float early_stop, float emptiness_scale) -> ()");
    m.def(
        "composite_backward(Tensor(a!) grad_density, Tensor(b!) grad_samples, Tensor(c!) grad_background, "
        "Tensor? grad_values, Tensor? grad_opacity, Tensor? grad_depth, Tensor? grad_weights, Tensor? grad_distortion, "
        "Tensor? grad_emptiness, Tensor density, Tensor values, Tensor distances, Tensor steps, Tensor ray_offsets, "
        "Tensor? background, Tensor opacity, float early_stop, float emptiness_scale) -> ()");
    m.def(
        "feature_matching(Tensor(a!) loss, Tensor(b!) level_values, Tensor(c!) counts, Tensor(d!) signs, Tensor[] features, "
        "Tensor[] features_prime, bool mean, bool batch_mean, bool zero_nonfinite, bool save_signs) -> ()");
    m.def(
        "feature_matching_backward(Tensor(a!)[] grads, Tensor grad, Tensor signs, int[] sizes, int batch, bool mean, "
        "bool batch_mean, bool halves, bool needs_features, bool needs_features_prime) -> ()");
    m.def("perturb(Tensor(a!) out, Tensor latents, Tensor noise, Tensor alpha, Tensor sigma) -> ()");
    m.def(
        "guided_residual(Tensor(a!) out, Tensor model_output, Tensor noise, Tensor? guidance_scale, Tensor? noisy_latents, "
        "Tensor? alpha, Tensor? sigma, bool from_text, bool text_first, int prediction) -> ()");
    m.def("residual_latents(Tensor(a!) out, Tensor latents, Tensor residual) -> ()");
    m.def("residual_latents_backward(Tensor(a!) out, Tensor grad, Tensor alpha) -> ()");
    m.def(
        "score_distillation(Tensor(a!) value, Tensor(b!)? count, Tensor residual, Tensor weight, bool zero_nonfinite) -> ()");
    m.def(
        "score_distillation_backward(Tensor(a!) out, Tensor grad, Tensor residual, Tensor weight, bool zero_nonfinite) -> ()");
    m.def(
        "frozen_conv(Tensor(a!) out, Tensor(b!) workspace, Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift, "
        "Tensor? addend, int kind, int threads) -> ()");
    m.def(
        "fused_adam(Tensor(a!) param, Tensor(b!) grad, Tensor(c!) exp_avg, Tensor(d!) exp_avg_sq, Tensor(e!)? shadow, "
        "Tensor(f!) step, Tensor lr, float beta1, float beta2, float eps, float weight_decay, bool decoupled, "
        "Tensor? grad_scale, Tensor? found_inf, bool zero_grad) -> ()");
    m.def("group_norm_moments(Tensor(a!) mean, Tensor(b!) rstd, Tensor x, int groups, float eps) -> ()");
    m.def(
        "group_norm_silu(Tensor(a!) out, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, bool silu) -> ()");
    m.def(
        "group_norm_silu_backward(Tensor(a!) grad_x, Tensor grad, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, "
        "Tensor? bias, bool silu, Tensor? addend, Tensor? signs, float sign_weight) -> ()");
}

namespace {

// One function serves both devices: it looks at its tensors (LDP_DISPATCH).
void implement(torch::stable::detail::StableLibrary& m) {
    m.impl("hash_grid", TORCH_BOX(&ldp::hash_grid_op));
    m.impl("hash_grid_backward_table", TORCH_BOX(&ldp::hash_grid_backward_table_op));
    m.impl("hash_grid_backward_positions", TORCH_BOX(&ldp::hash_grid_backward_positions_op));
    m.impl("latent_field", TORCH_BOX(&ldp::latent_field_op));
    m.impl("latent_field_backward", TORCH_BOX(&ldp::latent_field_backward_op));
    m.impl("march_rays", TORCH_BOX(&ldp::march_rays_op));
    m.impl("occupancy_samples", TORCH_BOX(&ldp::occupancy_samples_op));
    m.impl("occupancy_update", TORCH_BOX(&ldp::occupancy_update_op));
    m.impl("occupancy_bits", TORCH_BOX(&ldp::occupancy_bits_op));
    m.impl("composite", TORCH_BOX(&ldp::composite_op));
    m.impl("composite_backward", TORCH_BOX(&ldp::composite_backward_op));
    m.impl("feature_matching", TORCH_BOX(&ldp::feature_matching_op));
    m.impl("feature_matching_backward", TORCH_BOX(&ldp::feature_matching_backward_op));
    m.impl("perturb", TORCH_BOX(&ldp::perturb_op));
    m.impl("guided_residual", TORCH_BOX(&ldp::guided_residual_op));
    m.impl("residual_latents", TORCH_BOX(&ldp::residual_latents_op));
    m.impl("residual_latents_backward", TORCH_BOX(&ldp::residual_latents_backward_op));
    m.impl("score_distillation", TORCH_BOX(&ldp::score_distillation_op));
    m.impl("score_distillation_backward", TORCH_BOX(&ldp::score_distillation_backward_op));
    m.impl("frozen_conv", TORCH_BOX(&ldp::frozen_conv_op));
    m.impl("fused_adam", TORCH_BOX(&ldp::fused_adam_op));
    m.impl("group_norm_moments", TORCH_BOX(&ldp::group_norm_moments_op));
    m.impl("group_norm_silu", TORCH_BOX(&ldp::group_norm_silu_op));
    m.impl("group_norm_silu_backward", TORCH_BOX(&ldp::group_norm_silu_backward_op));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ldp_fast_native, CPU, m) { implement(m); }
STABLE_TORCH_LIBRARY_IMPL(ldp_fast_native, CUDA, m) { implement(m); }

#include "composite_op.h"

#include "composite.h"

namespace ldp {
namespace {

CompositeParams params_of(const char* op, const Tensor& density, const Tensor& values, const Tensor& distances,
                          const Tensor& steps, const Tensor& ray_offsets, const OptionalTensor& background,
                          double early_stop, double emptiness_scale) {
    check(density.dim() == 1, op, "density", "shape [M]", shape_of(density));
    check(values.dim() == 2, op, "values", "shape [M, C]", shape_of(values));
    check(values.size(1) >= 1 && values.size(1) <= kMaxChannels, op, "values", "1 to 64 channels",
          std::to_string(values.size(1)));
    check(ray_offsets.dim() == 1 && ray_offsets.size(0) >= 1, op, "ray_offsets", "shape [R + 1]",
          shape_of(ray_offsets));
    CompositeParams params{};
    params.samples = density.size(0);
    params.rays = ray_offsets.size(0) - 1;
    params.channels = static_cast<int>(values.size(1));
    params.density = data<float>(op, "density", density, {params.samples}, density);
    params.values = data<float>(op, "values", values, {params.samples, params.channels}, density);
    params.distances = data<float>(op, "distances", distances, {params.samples}, density);
    params.steps = data<float>(op, "steps", steps, {params.samples}, density);
    params.ray_offsets = data<int64_t>(op, "ray_offsets", ray_offsets, {params.rays + 1}, density);
    params.background = data_or_null<float>(op, "background", background, {params.rays, params.channels}, density);
    params.early_stop = static_cast<float>(early_stop);
    params.emptiness_scale = static_cast<float>(emptiness_scale);
    return params;
}

}  // namespace

void composite_op(Tensor composited, Tensor opacity, Tensor depth, Tensor weights, Tensor distortion, Tensor emptiness,
                  Tensor density, Tensor values, Tensor distances, Tensor steps, Tensor ray_offsets,
                  OptionalTensor background, double early_stop, double emptiness_scale) {
    constexpr const char* op = "composite";
    const CompositeParams params =
        params_of(op, density, values, distances, steps, ray_offsets, background, early_stop, emptiness_scale);
    const CompositeOutputs outputs{data<float>(op, "composited", composited, {params.rays, params.channels}, density),
                                   data<float>(op, "opacity", opacity, {params.rays}, density),
                                   data<float>(op, "depth", depth, {params.rays}, density),
                                   data<float>(op, "weights", weights, {params.samples}, density),
                                   data<float>(op, "distortion", distortion, {params.rays}, density),
                                   data<float>(op, "emptiness", emptiness, {params.rays}, density)};
    if (params.rays == 0 && params.samples == 0) return;
    LDP_DISPATCH(op, density, composite_cpu(params, outputs), composite_cuda(params, outputs, stream));
}

void composite_backward_op(Tensor grad_density, Tensor grad_samples, Tensor grad_background,
                           OptionalTensor grad_composited, OptionalTensor grad_opacity, OptionalTensor grad_depth,
                           OptionalTensor grad_weights, OptionalTensor grad_distortion, OptionalTensor grad_emptiness,
                           Tensor density, Tensor values, Tensor distances, Tensor steps, Tensor ray_offsets,
                           OptionalTensor background, Tensor opacity, double early_stop, double emptiness_scale) {
    constexpr const char* op = "composite_backward";
    const CompositeParams params =
        params_of(op, density, values, distances, steps, ray_offsets, background, early_stop, emptiness_scale);
    const int64_t background_rays = background.has_value() ? params.rays : 0;
    float* to_background =
        data<float>(op, "grad_background", grad_background, {background_rays, params.channels}, density);
    const CompositeGradients grads{
        data_or_null<float>(op, "grad_values", grad_composited, {params.rays, params.channels}, density),
        data_or_null<float>(op, "grad_opacity", grad_opacity, {params.rays}, density),
        data_or_null<float>(op, "grad_depth", grad_depth, {params.rays}, density),
        data_or_null<float>(op, "grad_weights", grad_weights, {params.samples}, density),
        data_or_null<float>(op, "grad_distortion", grad_distortion, {params.rays}, density),
        data_or_null<float>(op, "grad_emptiness", grad_emptiness, {params.rays}, density),
        data<float>(op, "opacity", opacity, {params.rays}, density),
        data<float>(op, "grad_density", grad_density, {params.samples}, density),
        data<float>(op, "grad_samples", grad_samples, {params.samples, params.channels}, density),
        background.has_value() ? to_background : nullptr};
    if (params.rays == 0 && params.samples == 0) return;
    LDP_DISPATCH(op, density, composite_backward_cpu(params, grads), composite_backward_cuda(params, grads, stream));
}

}  // namespace ldp

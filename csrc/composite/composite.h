// Compositing of packed samples along rays: the parameters of the kernels and the maths they share.
//
// Letters: M samples, R rays, C channels. Of the samples of a ray, in order:
// alpha_i = 1 - exp(-sigma_i delta_i), T_i = exp(-sum_{j<i} sigma_j delta_j), w_i = T_i alpha_i, up to the first sample
// with T_i < early_stop, which, like all after it, does not count. NaN is not smaller than anything: it never stops.
//
// The distortion (mip-NeRF 360, Eq. 15), sum_ij w_i w_j |t_i - t_j| + 1/3 sum_i w_i^2 delta_i, takes linear time: with
// rising distances A_i = sum_{j<i} w_j (t_i - t_j) is A_{i-1} + (t_i - t_{i-1}) (1 - T_i), because the weights before i
// add up to 1 - T_i. All terms are positive, so nothing cancels, however far away the samples are. The sum over j > i
// runs backwards in the same way.
#pragma once

#include <ldp/host_device.h>

namespace ldp {

struct CompositeParams {
    const float* density;        // [M], sigma, at least 0
    const float* values;         // [M, C]
    const float* distances;      // [M], t along the ray, rising
    const float* steps;          // [M], delta
    const int64_t* ray_offsets;  // [R + 1]; rows outside [offsets[0], offsets[R]) are padding
    const float* background;     // [R, C]; null = zero
    int64_t samples;             // M
    int64_t rays;                // R
    int channels;                // C, 1 to 64
    float early_stop;            // transmittance below which nothing counts; 0 = never
    float emptiness_scale;       // of sum log(1 + scale w)
};

struct CompositeOutputs {
    float* values;      // [R, C], sum w c + (1 - opacity) background
    float* opacity;     // [R], sum w
    float* depth;       // [R], sum w t
    float* weights;     // [M], w; 0 on padding
    float* distortion;  // [R]
    float* emptiness;   // [R]
};

struct CompositeGradients {
    const float* values;      // [R, C], of the outputs; null = zero, here and below
    const float* opacity;     // [R]
    const float* depth;       // [R]
    const float* weights;     // [M]
    const float* distortion;  // [R]
    const float* emptiness;   // [R]
    const float* composited;  // [R], opacity as the forward pass returned it
    float* grad_density;      // [M]; 0 on padding and after the stop
    float* grad_values;       // [M, C]; the same
    float* grad_background;   // [R, C]; null where there is no background
};

constexpr int kMaxChannels = 64;

struct SampleRange {
    int64_t begin, end;
};

// Samples of a ray. Whatever the offsets hold, nothing outside the buffer is touched.
LDP_HOST_DEVICE SampleRange composite_range(const CompositeParams& params, int64_t ray) {
    SampleRange range;
    range.begin = larger<int64_t>(0, smaller(params.ray_offsets[ray], params.samples));
    range.end = larger(range.begin, smaller(params.ray_offsets[ray + 1], params.samples));
    return range;
}

// What the per-ray sums other than the values add to dL/dw_i. Gradients of absent outputs are 0 here.
struct RayGradients {
    float opacity, depth, distortion, emptiness;
};

LDP_HOST_DEVICE RayGradients composite_ray_gradients(const CompositeGradients& grads, int64_t ray) {
    return {grads.opacity != nullptr ? grads.opacity[ray] : 0.0f, grads.depth != nullptr ? grads.depth[ray] : 0.0f,
            grads.distortion != nullptr ? grads.distortion[ray] : 0.0f,
            grads.emptiness != nullptr ? grads.emptiness[ray] : 0.0f};
}

// Real is float on the device and double on the host; `apart` = sum_j w_j |t_i - t_j|.
template <typename Real>
LDP_HOST_DEVICE Real composite_weight_gradient(const RayGradients& grad, Real weight, Real distance, Real step,
                                               Real apart, Real emptiness_scale) {
    const Real distortion = Real(2) * apart + Real(2) / Real(3) * weight * step;
    return grad.opacity + grad.depth * distance + grad.distortion * distortion +
           grad.emptiness * emptiness_scale / (Real(1) + emptiness_scale * weight);
}

// CPU: composite_cpu.cpp; double inside, so that float32 results are rounded once. CUDA: composite_fwd.cu, _bwd.cu.
void composite_cpu(const CompositeParams& params, const CompositeOutputs& outputs);
void composite_backward_cpu(const CompositeParams& params, const CompositeGradients& grads);
void composite_cuda(const CompositeParams& params, const CompositeOutputs& outputs, void* stream);
void composite_backward_cuda(const CompositeParams& params, const CompositeGradients& grads, void* stream);

}  // namespace ldp

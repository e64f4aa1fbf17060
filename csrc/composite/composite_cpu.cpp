#include <ldp/parallel.h>

#include <vector>

#include "composite.h"

namespace ldp {
namespace {

// Rays of a task: enough samples that starting a thread is worth it.
int64_t rays_per_task(const CompositeParams& params) {
    constexpr int64_t kSamples = 16384;
    return larger<int64_t>(1, kSamples * params.rays / larger<int64_t>(1, params.samples));
}

// 1 - exp(-x) from e = exp(-x): the difference keeps float32's digits down to x = 1e-4, the series below.
double opacity_of(double x, double e) { return x < 1e-4 ? x * (1.0 - x * (0.5 - x / 6.0)) : 1.0 - e; }

// Zeroes rows of `width` floats that belong to no ray.
void zero_padding(const CompositeParams& params, float* rows, int64_t width) {
    const int64_t first = smaller(larger<int64_t>(params.ray_offsets[0], 0), params.samples);
    const int64_t last = smaller(larger(params.ray_offsets[params.rays], first), params.samples);
    for (int64_t i = 0; i < first * width; ++i) rows[i] = 0.0f;
    for (int64_t i = last * width; i < params.samples * width; ++i) rows[i] = 0.0f;
}

}  // namespace

void composite_cpu(const CompositeParams& params, const CompositeOutputs& outputs) {
    const int channels = params.channels;
    zero_padding(params, outputs.weights, 1);
    parallel_for(params.rays, rays_per_task(params), [&](int64_t first_ray, int64_t last_ray) {
        for (int64_t ray = first_ray; ray < last_ray; ++ray) {
            const SampleRange range = composite_range(params, ray);
            double values[kMaxChannels] = {};
            double transmittance = 1.0, opacity = 0.0, depth = 0.0, distortion = 0.0, emptiness = 0.0, apart = 0.0;
            int64_t i = range.begin;
            for (; i < range.end && !(transmittance < params.early_stop); ++i) {
                const double x = static_cast<double>(params.density[i]) * params.steps[i];
                const double e = std::exp(-x), step = params.steps[i], distance = params.distances[i];
                const double weight = transmittance * opacity_of(x, e);
                if (i > range.begin) apart += (distance - params.distances[i - 1]) * opacity;
                opacity += weight;
                depth += weight * distance;
                distortion += weight * (2.0 * apart + weight * step / 3.0);
                if (params.emptiness_scale != 0.0f) emptiness += std::log1p(params.emptiness_scale * weight);
                const float* value = params.values + i * channels;
                for (int c = 0; c < channels; ++c) values[c] += weight * value[c];
                outputs.weights[i] = static_cast<float>(weight);
                transmittance *= e;
            }
            for (; i < range.end; ++i) outputs.weights[i] = 0.0f;
            const float* background = params.background != nullptr ? params.background + ray * channels : nullptr;
            for (int c = 0; c < channels; ++c)
                outputs.values[ray * channels + c] =
                    static_cast<float>(background != nullptr ? values[c] + (1.0 - opacity) * background[c] : values[c]);
            outputs.opacity[ray] = static_cast<float>(opacity);
            outputs.depth[ray] = static_cast<float>(depth);
            outputs.distortion[ray] = static_cast<float>(distortion);
            outputs.emptiness[ray] = static_cast<float>(emptiness);
        }
    });
}

void composite_backward_cpu(const CompositeParams& params, const CompositeGradients& grads) {
    const int channels = params.channels;
    zero_padding(params, grads.grad_density, 1);
    zero_padding(params, grads.grad_values, channels);
    struct Sample {
        double transmittance, weight, apart;  // apart: sum_{j<i} w_j (t_i - t_j)
    };
    parallel_for(params.rays, rays_per_task(params), [&](int64_t first_ray, int64_t last_ray) {
        std::vector<Sample> samples;
        for (int64_t ray = first_ray; ray < last_ray; ++ray) {
            const SampleRange range = composite_range(params, ray);
            samples.clear();
            double transmittance = 1.0, opacity = 0.0, before = 0.0;
            for (int64_t i = range.begin; i < range.end && !(transmittance < params.early_stop); ++i) {
                const double x = static_cast<double>(params.density[i]) * params.steps[i], e = std::exp(-x);
                if (i > range.begin)
                    before += (static_cast<double>(params.distances[i]) - params.distances[i - 1]) * opacity;
                samples.push_back({transmittance, transmittance * opacity_of(x, e), before});
                opacity += samples.back().weight;
                transmittance *= e;
            }
            const int64_t stop = range.begin + static_cast<int64_t>(samples.size());
            for (int64_t i = stop; i < range.end; ++i) grads.grad_density[i] = 0.0f;
            for (int64_t i = stop * channels; i < range.end * channels; ++i) grads.grad_values[i] = 0.0f;

            const RayGradients of_ray = composite_ray_gradients(grads, ray);
            const float* background = params.background != nullptr ? params.background + ray * channels : nullptr;
            const float* of_values = grads.values != nullptr ? grads.values + ray * channels : nullptr;
            double after = 0.0;                            // sum_{j>i} w_j dL/dw_j
            double weight_after = 0.0, apart_after = 0.0;  // sum_{j>i} w_j and sum_{j>i} w_j (t_j - t_i)
            double behind = transmittance;                 // T_{i+1}
            for (int64_t i = stop - 1; i >= range.begin; --i) {
                const Sample& sample = samples[i - range.begin];
                if (i + 1 < stop)
                    apart_after += (static_cast<double>(params.distances[i + 1]) - params.distances[i]) * weight_after;
                double grad_weight =
                    composite_weight_gradient<double>(of_ray, sample.weight, params.distances[i], params.steps[i],
                                                      sample.apart + apart_after, params.emptiness_scale);
                if (grads.weights != nullptr) grad_weight += grads.weights[i];
                const float* value = params.values + i * channels;
                float* out = grads.grad_values + i * channels;
                for (int c = 0; c < channels; ++c) {
                    const double g = of_values != nullptr ? of_values[c] : 0.0;
                    grad_weight += g * (static_cast<double>(value[c]) - (background != nullptr ? background[c] : 0.0));
                    out[c] = static_cast<float>(sample.weight * g);
                }
                grads.grad_density[i] = static_cast<float>(params.steps[i] * (grad_weight * behind - after));
                after += grad_weight * sample.weight;
                weight_after += sample.weight;
                behind = sample.transmittance;
            }
            if (grads.grad_background == nullptr) continue;
            for (int c = 0; c < channels; ++c)
                grads.grad_background[ray * channels + c] =
                    of_values != nullptr ? (1.0f - grads.composited[ray]) * of_values[c] : 0.0f;
        }
    });
}

}  // namespace ldp

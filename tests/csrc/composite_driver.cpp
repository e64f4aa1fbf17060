// composite_driver [LANES]: compositing, the kernels against the CPU backend, in every order of threads and blocks.
// With LANES only what the kernels for so many lanes of channels composite.
#include "composite/composite.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "testing.h"

using namespace cuda_on_cpu;

namespace {

struct Scene {
    std::vector<int64_t> counts;  // samples of the rays
    int channels = 4;
    float density = 4.0f;  // the greatest
    float early_stop = 0.0f;
    float emptiness_scale = 10.0f;
    bool background = true;
    int padding = 37;
    int leading = 0;            // rows before the first ray's
    bool short_buffer = false;  // offsets lead beyond it
    int64_t opaque_at = -1;     // a sample that stops its ray
};

struct Results {
    device_buffer<float> values, opacity, depth, weights, distortion, emptiness, grad_density, grad_values,
        grad_background;
    Results(size_t rays, size_t samples, size_t channels)
        : values(rays * channels),
          opacity(rays),
          depth(rays),
          weights(samples),
          distortion(rays),
          emptiness(rays),
          grad_density(samples),
          grad_values(samples * channels),
          grad_background(rays * channels) {}
    ldp::CompositeOutputs outputs() {
        return {values.data(), opacity.data(), depth.data(), weights.data(), distortion.data(), emptiness.data()};
    }
};

double largest(const device_buffer<float>& x) {
    double found = 0.0;
    for (size_t i = 0; i < x.size(); ++i)
        if (std::isfinite(x[i])) found = std::max(found, std::fabs(static_cast<double>(x[i])));
    return found;
}

// Within a few units in the last place of the largest element, or of `terms` whose difference it is.
void agree(const char* name, const device_buffer<float>& got, const device_buffer<float>& expected,
           double terms = 0.0) {
    compare(name, got, expected, std::max(4e-6 * largest(expected) + 1e-30, 4 * 0x1p-23 * terms), 4e-5);
}

int wanted_lanes = 0;

void run(const Scene& scene) {
    if (wanted_lanes > 0 && (scene.channels <= wanted_lanes / 2 || scene.channels > wanted_lanes)) return;
    const size_t rays = scene.counts.size(), channels = static_cast<size_t>(scene.channels);
    std::vector<int64_t> offsets{scene.leading};
    for (const int64_t count : scene.counts) offsets.push_back(offsets.back() + count);
    size_t size = static_cast<size_t>(offsets.back()) + static_cast<size_t>(scene.padding);
    std::vector<float> density = random_floats(size, 1, 0.0f, scene.density),
                       steps = random_floats(size, 2, 0.01f, 0.05f);
    std::vector<float> distances(size, 0.0f);
    for (size_t ray = 0; ray < rays; ++ray) {
        float t = 3.0f;
        for (int64_t i = offsets[ray]; i < offsets[ray + 1]; ++i) distances[i] = t += steps[i];
    }
    for (size_t i = offsets.back(); i < size; ++i) density[i] = steps[i] = distances[i] = NAN;  // padding
    for (int64_t i = 0; i < scene.leading; ++i) density[i] = steps[i] = distances[i] = NAN;
    if (scene.opaque_at >= 0) density[scene.opaque_at] = HUGE_VALF;
    // What is behind a stop may hold anything.
    if (scene.opaque_at >= 0 && scene.early_stop > 0.0f)
        for (int64_t i = scene.opaque_at + 1; i < offsets[1]; ++i) density[i] = NAN;
    if (scene.short_buffer) size /= 2;
    density.resize(size);
    steps.resize(size);
    distances.resize(size);

    const device_buffer<float> sigma(density), c(random_floats(size * channels, 3)), t(distances), delta(steps);
    const device_buffer<float> behind(random_floats(rays * channels, 4));
    const device_buffer<int64_t> where(offsets);
    ldp::CompositeParams params{};
    params.density = sigma.data();
    params.values = c.data();
    params.distances = t.data();
    params.steps = delta.data();
    params.ray_offsets = where.data();
    params.background = scene.background ? behind.data() : nullptr;
    params.samples = static_cast<int64_t>(size);
    params.rays = static_cast<int64_t>(rays);
    params.channels = scene.channels;
    params.early_stop = scene.early_stop;
    params.emptiness_scale = scene.emptiness_scale;

    const device_buffer<float> g_values(random_floats(rays * channels, 5)), g_opacity(random_floats(rays, 6));
    const device_buffer<float> g_depth(random_floats(rays, 7)), g_weights(random_floats(size, 8));
    const device_buffer<float> g_distortion(random_floats(rays, 9)), g_emptiness(random_floats(rays, 10));
    const auto gradients = [&](Results& results, int which) {
        const auto wanted = [&](const device_buffer<float>& g, int bit) {
            return which >> bit & 1 ? g.data() : nullptr;
        };
        return ldp::CompositeGradients{
            wanted(g_values, 0),        wanted(g_opacity, 1),
            wanted(g_depth, 2),         wanted(g_weights, 3),
            wanted(g_distortion, 4),    wanted(g_emptiness, 5),
            results.opacity.data(),     results.grad_density.data(),
            results.grad_values.data(), scene.background ? results.grad_background.data() : nullptr};
    };
    // All gradients at once, those of values and opacity, that of the distortion alone, none.
    const int selections[] = {63, 3, 16, 0};
    std::vector<std::unique_ptr<Results>> expected;
    for (const int which : selections) {
        expected.push_back(std::make_unique<Results>(rays, size, channels));
        ldp::composite_cpu(params, expected.back()->outputs());
        ldp::composite_backward_cpu(params, gradients(*expected.back(), which));
    }
    for_every_order([&] {
        for (size_t k = 0; k < expected.size(); ++k) {
            const Results& truth = *expected[k];
            Results got(rays, size, channels);
            ldp::composite_cuda(params, got.outputs(), nullptr);
            agree("values", got.values, truth.values);
            agree("opacity", got.opacity, truth.opacity);
            agree("depth", got.depth, truth.depth);
            agree("weights", got.weights, truth.weights);
            agree("distortion", got.distortion, truth.distortion);
            agree("emptiness", got.emptiness, truth.emptiness);
            ldp::composite_backward_cuda(params, gradients(got, selections[k]), nullptr);
            agree("grad_density", got.grad_density, truth.grad_density);
            agree("grad_values", got.grad_values, truth.grad_values);
            // g - opacity g: nothing is left behind an opaque ray, but for opacity's last digit.
            if (scene.background)
                agree("grad_background", got.grad_background, truth.grad_background,
                      selections[k] & 1 ? largest(g_values) : 0.0);
        }
    });
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1) wanted_lanes = std::atoi(argv[1]);
    const std::vector<int64_t> mixed{0, 1, 31, 32, 33, 0, 200, 64, 2, 0};
    for (const int channels : {1, 2, 3, 4, 5, 7, 8, 16, 19, 32, 33, 64}) {
        Scene scene{mixed, channels};
        run(scene);
    }
    for (const bool background : {false, true})
        for (const float early_stop : {1e-4f, 0.3f, 0.97f}) {
            Scene scene{mixed, 4, 60.0f, early_stop};
            scene.background = background;
            run(scene);
        }
    run({{40, 40}, 3, 1.0f, 1e-4f, 10.0f, true, 0, 0, false, 31});  // the stop is on the border of a chunk
    run({{40, 40}, 3, 1.0f, 1e-4f, 10.0f, true, 0, 0, false, 30});
    run({{40, 40}, 3, 1.0f, 1e-4f, 10.0f, true, 0, 0, false, 32});
    run({{40, 40}, 3, 1.0f, 0.0f, 10.0f, true, 0, 0, false, 12});  // and opaque without a stop
    run({{}, 4});                                                  // no rays
    run({{0, 0, 0}, 4, 4.0f, 1e-4f, 10.0f, true, 0});              // no samples
    run({{1}, 1, 4.0f, 1e-4f, 0.0f, true, 0});                     // one sample, full buffer, no emptiness
    run({{5, 40}, 4, 4.0f, 1e-4f, 10.0f, true, 9, 11});            // padding in front too
    run({{30, 30, 30}, 4, 4.0f, 1e-4f, 10.0f, true, 0, 0, true});  // the buffer is too short for the offsets
    run({{1100, 3, 2050}, 4, 0.2f});                               // more than 32 chunks, and more than 64
    // A long ray whose chunk 32, or 64, begins behind the stop: that chunk's lane holds an earlier one's carry.
    run({{1100}, 4, 0.001f, 1e-4f, 10.0f, true, 0, 0, false, 1023});
    run({{2200}, 4, 0.001f, 1e-4f, 10.0f, true, 0, 0, false, 2047});
    return 0;
}

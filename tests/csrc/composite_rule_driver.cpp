// composite_rule_driver IN OUT: compositing on inputs from a file, for the rule that tolerances.py holds it to. Out
// come the outputs, in the order of CompositeOutputs, and grad_density, grad_values, grad_background; what goes in
// stands in `main`.
#include "composite/composite.h"
#include "numbers.h"
#include "testing.h"

using namespace cuda_on_cpu;

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    current_order() = orders().back();
    Reader in(argv[1]);
    ldp::CompositeParams p{};
    p.samples = static_cast<int64_t>(in.next());
    p.rays = static_cast<int64_t>(in.next());
    p.channels = static_cast<int>(in.next());
    p.early_stop = static_cast<float>(in.next());
    p.emptiness_scale = static_cast<float>(in.next());
    const int64_t many = p.samples * p.channels, pixels = p.rays * p.channels;
    const device_buffer<float> density(in.floats(p.samples)), values(in.floats(many)), distances(in.floats(p.samples)),
        steps(in.floats(p.samples));
    const device_buffer<int64_t> offsets(in.numbers<int64_t>(p.rays + 1));
    const device_buffer<float> background(in.floats(pixels));
    const device_buffer<float> of_values(in.floats(pixels)), of_opacity(in.floats(p.rays)),
        of_depth(in.floats(p.rays)), of_weights(in.floats(p.samples)), of_distortion(in.floats(p.rays)),
        of_emptiness(in.floats(p.rays));
    p.density = density.data();
    p.values = values.data();
    p.distances = distances.data();
    p.steps = steps.data();
    p.ray_offsets = offsets.data();
    p.background = background.data();

    device_buffer<float> composited(pixels), opacity(p.rays), depth(p.rays), weights(p.samples), distortion(p.rays),
        emptiness(p.rays), grad_density(p.samples), grad_values(many), grad_background(pixels);
    ldp::composite_cuda(
        p, {composited.data(), opacity.data(), depth.data(), weights.data(), distortion.data(), emptiness.data()},
        nullptr);
    ldp::composite_backward_cuda(p,
                                 {of_values.data(), of_opacity.data(), of_depth.data(), of_weights.data(),
                                  of_distortion.data(), of_emptiness.data(), opacity.data(), grad_density.data(),
                                  grad_values.data(), grad_background.data()},
                                 nullptr);

    Writer out(argv[2]);
    for (const auto* part : {&composited, &opacity, &depth, &weights, &distortion, &emptiness, &grad_density,
                             &grad_values, &grad_background})
        out.write(*part);
    return 0;
}

// The operators on latents on the CPU against plain loops in double, under sanitizers.
#include "latents/latents.h"

#include "arrays.h"

using namespace cuda_on_cpu;

namespace {

void streams(size_t batch, size_t size) {
    const size_t all = batch * size;
    const int64_t b = static_cast<int64_t>(batch), n = static_cast<int64_t>(size);
    Array v(2 * all, 1), noise(all, 2), z(all, 3), a(batch, 4), s(batch, 5), out(3 * all);
    for (size_t i = 0; i < batch; ++i) s[i] += 3.0f;  // sigma is divided by
    std::vector<double> truth(3 * all);
    ldp::perturb_cpu({v.data(), noise.data(), a.data(), s.data(), out.data(), b, n, 3});
    for (size_t i = 0; i < 3 * all; ++i) {
        const size_t at = i % all, sample = at / size;
        truth[i] = double(a[sample]) * double(v[at]) + double(s[sample]) * double(noise[at]);
    }
    compare("perturb", out, truth, 1e-6, 3e-7);

    for (int kind = 0; kind < 5; ++kind)
        for (int guided = 0; guided < 2; ++guided) {
            Array r(all);
            ldp::GuidedResidualParams params{};
            params.start = v.data();
            if (guided) {
                params.uncond = v.data();
                params.text = v.data() + all;
                params.start = params.text;
                params.scale = a.data();
            }
            params.noise = noise.data(), params.noisy = z.data(), params.alpha = a.data(), params.sigma = s.data();
            params.out = r.data(), params.batch = b, params.size = n;
            params.prediction = static_cast<ldp::Prediction>(kind);
            ldp::guided_residual_cpu(params);
            std::vector<double> wanted(all);
            for (size_t i = 0; i < all; ++i) {
                const double al = a[i / size], si = s[i / size];
                double e = v[i];
                if (guided) e = double(v[all + i]) + al * (double(v[all + i]) - e);
                if (kind == 1) e = al * e + si * double(z[i]);
                if (kind == 2) e = (double(z[i]) - al * e) / si;
                if (kind == 3) e = double(z[i]) + al * e;
                if (kind == 4) e = (double(z[i]) - e) / si;
                wanted[i] = e - double(noise[i]);
            }
            compare("guided residual", r, wanted, 4e-6, 3e-7);
        }

    Array sum(all), scaled(all), field(all), value(batch);
    device_buffer<int32_t> count(batch);
    ldp::residual_latents_cpu(v.data(), noise.data(), sum.data(), b * n);
    ldp::residual_latents_backward_cpu(v.data(), a.data(), scaled.data(), b, n);
    Array hurt(all, 2);
    for (size_t sample = 0; sample < batch; ++sample) hurt[sample * size] = sample % 2 ? INFINITY : NAN;
    for (int zero = 0; zero < 2; ++zero) {
        const float* const r = zero ? hurt.data() : noise.data();
        const ldp::ScoreDistillationParams params{r, a.data(), b, n, zero != 0};
        ldp::score_distillation_cpu(params, value.data(), count.data());
        ldp::score_distillation_backward_cpu(params, s.data(), field.data());
        std::vector<double> fields(all), values(batch);
        std::vector<int32_t> counts(batch, zero);
        for (size_t i = 0; i < all; ++i) {
            const double w_r = zero && i % size == 0 ? 0.0 : double(a[i / size]) * double(noise[i]);
            fields[i] = double(s[i / size]) * w_r;
            values[i / size] += w_r * double(noise[i]) * 0.5 / double(size);
        }
        compare("field", field, fields, 1e-6, 3e-7);
        compare("value", value, values, 1e-6, 1e-6);
        compare("count", count, counts);
    }
    std::vector<double> sums(all), gradients(all);
    for (size_t i = 0; i < all; ++i) {
        sums[i] = double(v[i]) + double(noise[i]);
        gradients[i] = (1.0 + double(a[i / size])) * double(v[i]);
    }
    compare("v + r", sum, sums, 0.0, 3e-7);
    compare("(1 + alpha) grad", scaled, gradients, 0.0, 3e-7);
}

}  // namespace

int main() {
    const size_t sizes[] = {1, 15, 16, 17, 256, 511, 4095, 4097, 33000};
    for (const size_t size : sizes) streams(2, size);
    streams(0, 4);
    streams(1, 100000);
    return 0;
}

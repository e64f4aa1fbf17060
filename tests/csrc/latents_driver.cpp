// The operators on latents and feature matching on the CPU against plain loops in double, under sanitizers.
#include "feature_matching/feature_matching.h"
#include "latents/latents.h"

#include "testing.h"

#include <deque>

using namespace cuda_on_cpu;

namespace {

// In memory of exactly its size, at an address that is a multiple of a float alone: vectors may assume no more.
struct Array {
    device_buffer<float> memory;
    size_t count;
    Array(size_t n, uint64_t seed) : memory(n + 1), count(n) {
        const std::vector<float> values = random_floats(n, seed, -2.0f, 2.0f);
        for (size_t i = 0; i < n; ++i) data()[i] = values[i];
    }
    explicit Array(size_t n) : memory(n + 1), count(n) {}
    float* data() { return memory.data() + 1; }
    const float* data() const { return memory.data() + 1; }
    size_t size() const { return count; }
    float& operator[](size_t i) { return data()[i]; }
};

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

// Levels of different sizes, whose rows are further apart than they are long.
void features(int64_t batch, const std::vector<int64_t>& sizes, bool zero, bool save) {
    std::deque<Array> x, x_prime, grad, grad_prime;  // they do not move
    std::vector<ldp::FeatureLevel> levels;
    std::vector<ldp::FeatureGradient> gradients;
    int64_t blocks = 0;
    for (const int64_t size : sizes) {
        const size_t all = static_cast<size_t>(batch * (size + 3));
        x.emplace_back(all, 7 + x.size());
        x_prime.emplace_back(all, 70 + x.size());
        if (all) x.back()[0] = x_prime.back()[0] = 1.0f;
        if (all && size > 2) {
            x.back()[1] = NAN;
            x.back()[2] = -INFINITY;
        }
        grad.emplace_back(static_cast<size_t>(batch * size));
        grad_prime.emplace_back(static_cast<size_t>(batch * size));
        blocks += batch * ((size + ldp::kSignBlock - 1) / ldp::kSignBlock);
    }
    for (size_t l = 0; l < sizes.size(); ++l) {
        const int64_t n = sizes[l], stride = n + 3;
        levels.push_back({x[l].data(), x_prime[l].data(), stride, stride, n, 0.5 / double(n)});
        gradients.push_back({l == 1 ? nullptr : grad[l].data(), l == 2 ? nullptr : grad_prime[l].data(), n, 0.25f});
    }
    Array loss(1), values(sizes.size() * static_cast<size_t>(batch));
    device_buffer<int32_t> counts(values.size()), signs(static_cast<size_t>(blocks * ldp::kSignColumns));
    int32_t* const to = save ? signs.data() : nullptr;
    ldp::feature_matching_cpu(levels, batch, zero, loss.data(), values.data(), counts.data(), to);
    if (save) ldp::feature_matching_backward_cpu(gradients, batch, signs.data());
    double total = 0.0;
    for (size_t l = 0; l < sizes.size(); ++l) {
        const size_t size = static_cast<size_t>(sizes[l]);
        std::vector<double> wanted(static_cast<size_t>(batch) * size), opposite(wanted.size());
        for (size_t row = 0; row < static_cast<size_t>(batch); ++row) {
            double sum = 0.0;
            int32_t bad = 0;
            for (size_t i = 0; i < size; ++i) {
                const size_t at = row * (size + 3) + i;
                double difference = double(x[l][at]) - double(x_prime[l][at]);
                const bool finite = difference - difference == 0.0;
                bad += !finite;
                if (zero && !finite) difference = 0.0;
                sum += std::fabs(difference);
                const double sign = difference != difference ? NAN : difference > 0 ? 1.0 : difference < 0 ? -1.0 : 0.0;
                wanted[row * size + i] = 0.25 * sign;
                opposite[row * size + i] = -0.25 * sign;
            }
            const size_t entry = l * static_cast<size_t>(batch) + row;
            expect(counts[entry] == bad, "counts");
            const std::vector<float> got{values[entry]};
            compare("level value", got, std::vector<double>{sum / double(size)}, 0.0, 2e-6);
            total += sum * 0.5 / double(size);
        }
        if (save && l != 1) compare("gradient of x", grad[l], wanted);
        if (save && l != 2) compare("gradient of x'", grad_prime[l], opposite);
    }
    compare("loss", loss, std::vector<double>{total}, 0.0, 2e-6);
}

}  // namespace

int main() {
    const size_t sizes[] = {1, 15, 16, 17, 256, 511, 4095, 4097, 33000};
    for (const size_t size : sizes) streams(2, size);
    streams(0, 4);
    streams(1, 100000);
    for (int bits = 0; bits < 4; ++bits) {
        features(2, {1, 16, 511, 513, 8191, 8192, 8193, 20001}, bits & 1, bits & 2);
        features(1, {100000, 2}, bits & 1, bits & 2);
        features(0, {5, 6}, bits & 1, bits & 2);
    }
    return 0;
}

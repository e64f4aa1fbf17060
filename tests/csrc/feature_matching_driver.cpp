// Feature matching on the CPU against plain loops in double, under sanitizers.
#include "feature_matching/feature_matching.h"

#include <deque>

#include "arrays.h"

using namespace cuda_on_cpu;

namespace {

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
    for (int bits = 0; bits < 4; ++bits) {
        features(2, {1, 16, 511, 513, 8191, 8192, 8193, 20001}, bits & 1, bits & 2);
        features(1, {100000, 2}, bits & 1, bits & 2);
        features(0, {5, 6}, bits & 1, bits & 2);
    }
    return 0;
}

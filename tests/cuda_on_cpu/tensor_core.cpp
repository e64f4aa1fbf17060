#include "tensor_core.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace cuda_on_cpu {
namespace {

constexpr int kProducts = 4;      // of one sum
constexpr int kFraction = 23;     // bits kept below the largest addend's first one
constexpr int kSmallest = -126;   // exponent of float32's smallest normal number

// floor(log2(|value|)); far below float32 for zero.
int exponent_of(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return static_cast<int>(bits >> 52 & 0x7ffu) - 1023;
}

double power_of_two(int exponent) {
    const uint64_t bits = static_cast<uint64_t>(exponent + 1023) << 52;
    double value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

float towards_zero(double value) {
    const auto nearest = static_cast<float>(value);
    if (std::fabs(static_cast<double>(nearest)) <= std::fabs(value) || std::fabs(value) >= 0x1p128) return nearest;
    return std::nextafterf(nearest, 0.0f);
}

float sum_at_once(const double* products, float accumulator) {
    double plain = accumulator;
    int largest = exponent_of(accumulator);
    for (int i = 0; i < kProducts; ++i) {
        plain += products[i];
        const int exponent = exponent_of(products[i]);
        largest = exponent > largest ? exponent : largest;
    }
    if (!std::isfinite(plain)) return static_cast<float>(plain);
    const int unit = (largest > kSmallest ? largest : kSmallest) - kFraction;
    const double scale = power_of_two(-unit);
    auto units = static_cast<int64_t>(accumulator * scale);
    for (int i = 0; i < kProducts; ++i) units += static_cast<int64_t>(products[i] * scale);
    return towards_zero(static_cast<double>(units) * power_of_two(unit));
}

}  // namespace

void tensor_core(const float* a, const float* b, float* c, int depth) {
    for (int row = 0; row < 16; ++row)
        for (int column = 0; column < 8; ++column) {
            float& sum = c[row * 8 + column];
            for (int k = 0; k < depth; k += kProducts) {
                double products[kProducts];
                for (int i = 0; i < kProducts; ++i)
                    products[i] = static_cast<double>(a[row * depth + k + i]) * b[(k + i) * 8 + column];
                sum = sum_at_once(products, sum);
            }
        }
}

}  // namespace cuda_on_cpu

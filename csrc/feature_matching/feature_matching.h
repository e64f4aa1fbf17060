// Feature matching: the distance of two sets of features, with the signs of their differences packed for the backward.
// CPU, float32; Triton serves CUDA. The formulas and the layout of the signs are those of
// ldp_fast/reference/feature_matching.py: blocks of 8192 elements of a sample, by level, sample and position.
#pragma once

#include <cstdint>
#include <vector>

namespace ldp {

constexpr int64_t kSignBlock = 8192;
constexpr int64_t kSignColumns = 512;  // words of a block; word c has the elements c, 512 + c, ... at two bits each

struct FeatureLevel {
    const float* x;        // B rows of M elements
    const float* x_prime;  // the same
    int64_t stride;        // between rows of x
    int64_t stride_prime;  // between rows of x'
    int64_t size;          // M
    double weight;         // of the sum over the level in the loss
};

struct FeatureGradient {
    float* x;        // [B, M]; null where it is not wanted
    float* x_prime;  // the same
    int64_t size;    // M
    float scale;     // times the sign, for x; minus that for x'
};

// level_values and counts are [L, B]; signs [blocks, kSignColumns] may be null.
void feature_matching_cpu(const std::vector<FeatureLevel>& levels, int64_t batch, bool zero_nonfinite, float* loss,
                          float* level_values, int32_t* counts, int32_t* signs);
void feature_matching_backward_cpu(const std::vector<FeatureGradient>& levels, int64_t batch, const int32_t* signs);

}  // namespace ldp

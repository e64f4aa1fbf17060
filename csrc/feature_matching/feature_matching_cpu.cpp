// One pass over the features, a block at a time; what is summed depends on no number of threads and on no processor.
#include "feature_matching.h"

#include <ldp/columns.h>
#include <ldp/cpu_target.h>
#include <ldp/parallel.h>

#include <cmath>
#include <cstring>
#include <limits>

namespace ldp {
namespace {

static_assert(kSignColumns == kColumns);

constexpr int64_t kGrain = 32768;  // elements that are worth a thread

// The sum of |x - x'| over a block, the differences that are not finite, and the signs. Where all are finite the sum is
// as well, so that a second pass looks for others only where it is not.
template <bool kSave>
struct Forward {
    LDP_INLINE static void run(const float* x, const float* x_prime, bool zero_nonfinite, int64_t count, double* sum,
                               int32_t* bad, uint32_t* words) {
        *sum = added<false>(x, x_prime, count, words);
        *bad = 0;
        if (is_finite(*sum)) return;
        for (int64_t i = 0; i < count; ++i) *bad += is_finite(x[i] - x_prime[i]) ? 0 : 1;
        if (zero_nonfinite && *bad != 0) *sum = added<true>(x, x_prime, count, words);
    }

    template <bool kZero>
    LDP_INLINE static double added(const float* x, const float* x_prime, int64_t count, uint32_t* words) {
        float columns[kColumns];
        for (int64_t i = 0; i < kColumns; ++i) columns[i] = 0.0f;
        if (kSave) memset(words, 0, kColumns * sizeof(uint32_t));
        for (int64_t row = 0; row * kColumns < count; ++row) {
            const float* __restrict a = x + row * kColumns;
            const float* __restrict b = x_prime + row * kColumns;
            uint32_t* __restrict to = words;
            const int shift = static_cast<int>(2 * row);
            const int64_t elements = smaller(kColumns, count - row * kColumns);
            for (int64_t i = 0; i < elements; ++i) {
                float difference = a[i] - b[i];
                if (kZero) difference = is_finite(difference) ? difference : 0.0f;
                columns[i] += std::fabs(difference);
                if (kSave) {
                    const uint32_t above = difference > 0.0f ? 1u : 0u, below = difference < 0.0f ? 3u : 0u;
                    const uint32_t unknown = difference != difference ? 2u : 0u;
                    to[i] |= (above | below | unknown) << shift;
                }
            }
        }
        return sum_of_columns(columns, smaller(kColumns, count));
    }
};

template <bool kX, bool kXPrime>
struct Backward {
    LDP_INLINE static void run(const int32_t* words, float scale, float* x, float* x_prime, int64_t count) {
        for (int64_t row = 0; row * kColumns < count; ++row) {
            const int32_t* __restrict from = words;
            float* __restrict to = x + row * kColumns;
            float* __restrict to_prime = x_prime + row * kColumns;
            const int shift = static_cast<int>(30 - 2 * row);
            const int64_t elements = smaller(kColumns, count - row * kColumns);
            for (int64_t i = 0; i < elements; ++i) {
                const int32_t code = static_cast<int32_t>(static_cast<uint32_t>(from[i]) << shift) >> 30;
                const float scaled = static_cast<float>(code) * scale;
                const float value = code == -2 ? std::numeric_limits<float>::quiet_NaN() : scaled;
                if (kX) to[i] = value;
                if (kXPrime) to_prime[i] = -value;
            }
        }
    }
};

int64_t blocks_of(int64_t size) { return (size + kSignBlock - 1) / kSignBlock; }

// Calls body(level, row, first, block) for every block: the elements from `first` on of a row of a level.
template <typename Levels, typename Body>
void over_blocks(const Levels& levels, int64_t batch, const Body& body) {
    int64_t blocks = 0, elements = 0;
    for (const auto& level : levels) {
        blocks += batch * blocks_of(level.size);
        elements += batch * level.size;
    }
    if (blocks == 0) return;
    // Blocks of small samples are nearly empty.
    const int64_t grain = (kGrain * blocks + elements - 1) / elements;
    parallel_for(blocks, grain, [&](int64_t begin, int64_t end) {
        size_t level = 0;
        int64_t before = 0;
        for (int64_t block = begin; block < end; ++block) {
            int64_t in_level = batch * blocks_of(levels[level].size);
            while (block - before >= in_level) {
                before += in_level;
                in_level = batch * blocks_of(levels[++level].size);
            }
            const int64_t a_row = blocks_of(levels[level].size), at = block - before;
            body(levels[level], at / a_row, at % a_row * kSignBlock, block);
        }
    });
}

}  // namespace

void feature_matching_cpu(const std::vector<FeatureLevel>& levels, int64_t batch, bool zero_nonfinite, float* loss,
                          float* level_values, int32_t* counts, int32_t* signs) {
    int64_t blocks = 0;
    for (const FeatureLevel& level : levels) blocks += batch * blocks_of(level.size);
    std::vector<double> sums(static_cast<size_t>(blocks));
    std::vector<int32_t> bads(sums.size());
    over_blocks(levels, batch, [&](const FeatureLevel& level, int64_t row, int64_t first, int64_t block) {
        const float* const x = level.x + row * level.stride + first;
        const float* const x_prime = level.x_prime + row * level.stride_prime + first;
        const int64_t count = smaller(kSignBlock, level.size - first);
        uint32_t* const words = signs ? reinterpret_cast<uint32_t*>(signs) + block * kSignColumns : nullptr;
        if (signs)
            run_widest<Forward<true>, 16>(x, x_prime, zero_nonfinite, count, &sums[block], &bads[block], words);
        else
            run_widest<Forward<false>, 16>(x, x_prime, zero_nonfinite, count, &sums[block], &bads[block], words);
    });
    size_t block = 0;
    double total = 0.0;
    for (size_t l = 0; l < levels.size(); ++l) {
        const FeatureLevel& level = levels[l];
        double of_level = 0.0;
        for (int64_t row = 0; row < batch; ++row) {
            double sum = 0.0;
            int32_t bad = 0;
            for (int64_t i = 0; i < blocks_of(level.size); ++i, ++block) {
                sum += sums[block];
                bad += bads[block];
            }
            level_values[l * batch + row] = static_cast<float>(sum) / static_cast<float>(level.size);
            counts[l * batch + row] = bad;
            of_level += sum;
        }
        // A sum that float does not hold is infinite, as it is in the reference, however small the level's weight is.
        total += level.weight * static_cast<double>(static_cast<float>(of_level));
    }
    *loss = static_cast<float>(total);
}

void feature_matching_backward_cpu(const std::vector<FeatureGradient>& levels, int64_t batch, const int32_t* signs) {
    over_blocks(levels, batch, [&](const FeatureGradient& level, int64_t row, int64_t first, int64_t block) {
        const int64_t at = row * level.size + first, count = smaller(kSignBlock, level.size - first);
        const int32_t* const words = signs + block * kSignColumns;
        float* const x = level.x ? level.x + at : nullptr;
        float* const x_prime = level.x_prime ? level.x_prime + at : nullptr;
        if (x && x_prime)
            run_widest<Backward<true, true>, 16>(words, level.scale, x, x_prime, count);
        else if (x)
            run_widest<Backward<true, false>, 16>(words, level.scale, x, x, count);
        else if (x_prime)
            run_widest<Backward<false, true>, 16>(words, level.scale, x_prime, x_prime, count);
    });
}

}  // namespace ldp

// Sums that come to the same bits on every processor: float columns, which vectors of any width may add to, and double
// from there. For functions that cpu_target.h compiles.
#pragma once

#include <ldp/cpu_target.h>

#include <cmath>
#include <cstdint>

namespace ldp {

constexpr int64_t kColumns = 512;

LDP_INLINE double sum_of_columns(const float* columns, int64_t count) {
    double sums[4] = {};
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        sums[0] += static_cast<double>(columns[i]);
        sums[1] += static_cast<double>(columns[i + 1]);
        sums[2] += static_cast<double>(columns[i + 2]);
        sums[3] += static_cast<double>(columns[i + 3]);
    }
    for (; i < count; ++i) sums[0] += static_cast<double>(columns[i]);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Of numbers of any kind: the difference to itself is 0 for a finite one alone.
template <typename T>
LDP_INLINE bool is_finite(T x) {
    return x - x == T{0};
}

}  // namespace ldp

// Group norm and SiLU on a run of n numbers, of one channel or, for the moments, of one group; T: float, or BFloat16 or
// Half in memory and float in arithmetic. Sums are float's for 64 vectors at a time, from there double's. Included once for
// each instruction set (ldp/each_isa.h), so no include guard.

#include "formulas.h"

namespace ldp {
namespace LDP_ISA {

// The first `count` numbers at p, behind them what adds nothing.
template <typename T>
LDP_ALWAYS_INLINE Vec load_first(const T* p, int64_t count, float padding) {
    float at[kLanes];
    for (int i = 0; i < kLanes; ++i) at[i] = i < count ? value_of(p[i]) : padding;
    return load(at);
}

template <typename T>
LDP_ALWAYS_INLINE void store_first(T* p, int64_t count, Vec v) {
    float at[kLanes];
    store(at, v);
    for (int64_t i = 0; i < count; ++i) put(at[i], p + i);
}

LDP_ALWAYS_INLINE double sum_of_lanes(Vec v) {
    float at[kLanes];
    store(at, v);
    return sum_of_columns(at, kLanes);
}

template <typename T>
static double sum_of_run(const T* x, int64_t n) {
    double sum = 0.0;
    for (int64_t j = 0; j < n; j += kLanes)
        sum += sum_of_lanes(j + kLanes <= n ? load(x + j) : load_first(x + j, n - j, 0.0f));
    return sum;
}

LDP_ALWAYS_INLINE void add_deviation(Vec x, Vec centre, Vec& total, Vec& square) {
    const Vec deviation = subtract(x, centre);
    total = add(total, deviation);
    square = multiply_add(deviation, deviation, square);
}

// sums[0] += x - centre, sums[1] += (x - centre)^2.
template <typename T>
static void add_up_run_deviations(const T* x, int64_t n, float centre, double* sums) {
    const Vec middle = broadcast(centre);
    for (int64_t first = 0; first < n; first += 64 * kLanes) {
        const int64_t last = n - first < 64 * kLanes ? n : first + 64 * kLanes;
        Vec total = broadcast(0.0f), square = total, other_total = total, other_square = total;
        int64_t j = first;
        for (; j + 2 * kLanes <= last; j += 2 * kLanes) {
            add_deviation(load(x + j), middle, total, square);
            add_deviation(load(x + j + kLanes), middle, other_total, other_square);
        }
        for (; j < last; j += kLanes)
            add_deviation(j + kLanes <= last ? load(x + j) : load_first(x + j, last - j, centre), middle, total, square);
        sums[0] += sum_of_lanes(add(total, other_total));
        sums[1] += sum_of_lanes(add(square, other_square));
    }
}

// A line in every lane.
struct Lines {
    Vec mean, scale, shift, constant, slope;
};

LDP_ALWAYS_INLINE Lines in_every_lane(const Line& line) {
    return {broadcast(line.mean), broadcast(line.scale), broadcast(line.shift), broadcast(line.constant),
            broadcast(line.slope)};
}

template <bool kSilu, typename T>
static void outputs_in_plane(const T* x, int64_t n, const Line& line, T* out) {
    const Lines l = in_every_lane(line);
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes) store(out + j, output_of<kSilu>(load(x + j), l.mean, l.scale, l.shift));
    if (j == n) return;
    store_first(out + j, n - j, output_of<kSilu>(load_first(x + j, n - j, 0.0f), l.mean, l.scale, l.shift));
}

template <typename T>
static void normalise_plane(const T* x, int64_t n, const Line& line, bool silu, T* out) {
    if (silu)
        outputs_in_plane<true>(x, n, line, out);
    else
        outputs_in_plane<false>(x, n, line, out);
}

template <bool kSilu>
LDP_ALWAYS_INLINE void add_gradient(Vec grad, Vec x, const Lines& l, Vec& total, Vec& moment) {
    const Vec deviation = subtract(x, l.mean), inner = inner_gradient<kSilu>(grad, deviation, l.scale, l.shift);
    total = add(total, inner);
    moment = multiply_add(inner, deviation, moment);
}

// sums[0] += dL/dh, sums[1] += dL/dh (x - mean).
template <bool kSilu, typename T>
static void gradient_sums_in_plane(const T* grad, const T* x, int64_t n, const Line& line, double* sums) {
    const Lines l = in_every_lane(line);
    for (int64_t first = 0; first < n; first += 64 * kLanes) {
        const int64_t last = n - first < 64 * kLanes ? n : first + 64 * kLanes;
        Vec total = broadcast(0.0f), moment = total;
        int64_t j = first;
        for (; j + kLanes <= last; j += kLanes) add_gradient<kSilu>(load(grad + j), load(x + j), l, total, moment);
        if (j < last)
            add_gradient<kSilu>(load_first(grad + j, last - j, 0.0f), load_first(x + j, last - j, line.mean), l, total,
                                moment);
        sums[0] += sum_of_lanes(total);
        sums[1] += sum_of_lanes(moment);
    }
}

template <typename T>
static void add_up_plane_gradients(const T* grad, const T* x, int64_t n, const Line& line, bool silu, double* sums) {
    if (silu)
        gradient_sums_in_plane<true>(grad, x, n, line, sums);
    else
        gradient_sums_in_plane<false>(grad, x, n, line, sums);
}

template <bool kSilu>
LDP_ALWAYS_INLINE Vec gradient_in_plane(Vec grad, Vec x, const Lines& l) {
    const Vec deviation = subtract(x, l.mean), inner = inner_gradient<kSilu>(grad, deviation, l.scale, l.shift);
    return gradient_of_x(inner, deviation, l.scale, l.constant, l.slope);
}

template <bool kSilu, bool kAddend, typename T>
static void gradients_in_plane(const T* grad, const T* x, const T* addend, int64_t n, const Line& line, T* out) {
    const Lines l = in_every_lane(line);
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes) {
        const Vec result = gradient_in_plane<kSilu>(load(grad + j), load(x + j), l);
        store(out + j, kAddend ? add(result, load(addend + j)) : result);
    }
    if (j == n) return;
    const int64_t rest = n - j;
    const Vec result = gradient_in_plane<kSilu>(load_first(grad + j, rest, 0.0f), load_first(x + j, rest, 0.0f), l);
    store_first(out + j, rest, kAddend ? add(result, load_first(addend + j, rest, 0.0f)) : result);
}

// out = scale dL/dh + constant + slope (x - mean), and the addend where there is one.
template <typename T>
static void differentiate_plane(const T* grad, const T* x, const T* addend, int64_t n, const Line& line, bool silu,
                                T* out) {
    if (silu && addend != nullptr)
        gradients_in_plane<true, true>(grad, x, addend, n, line, out);
    else if (silu)
        gradients_in_plane<true, false>(grad, x, addend, n, line, out);
    else if (addend != nullptr)
        gradients_in_plane<false, true>(grad, x, addend, n, line, out);
    else
        gradients_in_plane<false, false>(grad, x, addend, n, line, out);
}

}  // namespace LDP_ISA
}  // namespace ldp

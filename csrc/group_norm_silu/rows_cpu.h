// Group norm and SiLU on rows of `width` numbers, T: float, or BFloat16 or Half in memory and float in arithmetic.
// Included once for each instruction set (ldp/each_isa.h), so no include guard. `width` is a multiple of 16; column j
// of every row has the same channel, so that what depends on the channel alone is an array [width].
//
// Sums take four rows at a time: what belongs to a column is then loaded, and a sum stored, once for four numbers. What
// writes an image goes through memory as it lies: four rows at a time took up to twice as long once out of the cache.

#include "formulas.h"

namespace ldp {
namespace LDP_ISA {

// Asks for rows some way ahead: processors do not see that four short runs side by side will go on. Never an error.
template <typename T>
LDP_ALWAYS_INLINE void fetch_ahead(const T* at, int rows, int64_t width) {
#if defined(__GNUC__)
    const int64_t ahead = rows * width > 4096 ? rows * width : 4096;
    for (int r = 0; r < rows; ++r) __builtin_prefetch(at + r * width + ahead);
#else
    (void)at, (void)rows, (void)width;
#endif
}

template <int kRows, typename T>
LDP_ALWAYS_INLINE void sum_of(const T* x, int64_t width, float* sums) {
    for (int64_t j = 0; j < width; j += kLanes) {
        Vec total = load(x + j);
        for (int r = 1; r < kRows; ++r) total = add(total, load(x + r * width + j));
        store(sums + j, add(load(sums + j), total));
    }
}

// sums += x, column by column.
template <typename T>
static void add_up(const T* x, int64_t rows, int64_t width, float* sums) {
    for (; rows >= 4; rows -= 4, x += 4 * width) sum_of<4>(x, width, sums);
    for (; rows > 0; --rows, x += width) sum_of<1>(x, width, sums);
}

template <int kRows, typename T>
LDP_ALWAYS_INLINE void deviations_of(const T* x, int64_t width, const float* centre, float* sums, float* squares) {
    for (int64_t j = 0; j < width; j += kLanes) {
        if (kRows > 1) fetch_ahead(x + j, kRows, width);
        const Vec middle = load(centre + j);
        Vec deviation = subtract(load(x + j), middle);
        Vec total = deviation, square = multiply(deviation, deviation);
        for (int r = 1; r < kRows; ++r) {
            deviation = subtract(load(x + r * width + j), middle);
            total = add(total, deviation);
            square = multiply_add(deviation, deviation, square);
        }
        store(sums + j, add(load(sums + j), total));
        store(squares + j, add(load(squares + j), square));
    }
}

// sums += x - centre, squares += (x - centre)^2.
template <typename T>
static void add_up_deviations(const T* x, int64_t rows, int64_t width, const float* centre, float* sums,
                              float* squares) {
    for (; rows >= 4; rows -= 4, x += 4 * width) deviations_of<4>(x, width, centre, sums, squares);
    for (; rows > 0; --rows, x += width) deviations_of<1>(x, width, centre, sums, squares);
}

template <bool kSilu, typename T>
static void outputs_of(const T* x, int64_t rows, int64_t width, const Columns& columns, T* out) {
    for (; rows > 0; --rows, x += width, out += width)
        for (int64_t j = 0; j < width; j += kLanes) {
            const Vec mean = load(columns.mean + j), scale = load(columns.scale + j);
            store(out + j, output_of<kSilu>(load(x + j), mean, scale, load(columns.shift + j)));
        }
}

template <typename T>
static void normalise(const T* x, int64_t rows, int64_t width, const Columns& columns, bool silu, T* out) {
    if (silu)
        outputs_of<true>(x, rows, width, columns, out);
    else
        outputs_of<false>(x, rows, width, columns, out);
}

template <int kRows, bool kSilu, typename T>
LDP_ALWAYS_INLINE void gradient_sums_of(const T* grad, const T* x, int64_t width, const Columns& columns,
                                        float* sums, float* moments) {
    for (int64_t j = 0; j < width; j += kLanes) {
        const Vec mean = load(columns.mean + j), scale = load(columns.scale + j), shift = load(columns.shift + j);
        if (kRows > 1) fetch_ahead(x + j, kRows, width), fetch_ahead(grad + j, kRows, width);
        Vec total = broadcast(0.0f), moment = total;
        for (int r = 0; r < kRows; ++r) {
            const Vec deviation = subtract(load(x + r * width + j), mean);
            const Vec inner = inner_gradient<kSilu>(load(grad + r * width + j), deviation, scale, shift);
            total = add(total, inner);
            moment = multiply_add(inner, deviation, moment);
        }
        store(sums + j, add(load(sums + j), total));
        store(moments + j, add(load(moments + j), moment));
    }
}

template <bool kSilu, typename T>
static void gradient_sums_of_all(const T* grad, const T* x, int64_t rows, int64_t width,
                                 const Columns& columns, float* sums, float* moments) {
    for (; rows >= 4; rows -= 4, grad += 4 * width, x += 4 * width)
        gradient_sums_of<4, kSilu>(grad, x, width, columns, sums, moments);
    for (; rows > 0; --rows, grad += width, x += width)
        gradient_sums_of<1, kSilu>(grad, x, width, columns, sums, moments);
}

// sums += dL/dh, moments += dL/dh (x - mean).
template <typename T>
static void add_up_gradients(const T* grad, const T* x, int64_t rows, int64_t width, const Columns& columns,
                             bool silu, float* sums, float* moments) {
    if (silu)
        gradient_sums_of_all<true>(grad, x, rows, width, columns, sums, moments);
    else
        gradient_sums_of_all<false>(grad, x, rows, width, columns, sums, moments);
}

template <bool kSilu, bool kAddend, typename T, typename Out>
static void gradients_of(const T* grad, const T* x, const T* addend, int64_t rows, int64_t width,
                         const Columns& columns, Out* out) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t j = 0; j < width; j += kLanes) {
            const int64_t at = row * width + j;
            const Vec deviation = subtract(load(x + at), load(columns.mean + j)), scale = load(columns.scale + j);
            const Vec inner = inner_gradient<kSilu>(load(grad + at), deviation, scale, load(columns.shift + j));
            const Vec constant = load(columns.constant + j), slope = load(columns.slope + j);
            const Vec result = gradient_of_x(inner, deviation, scale, constant, slope);
            store(out + at, kAddend ? add(result, load(addend + at)) : result);
        }
}

// out = scale dL/dh + constant + slope (x - mean), and the addend where there is one.
template <typename T, typename Out>
static void differentiate(const T* grad, const T* x, const T* addend, int64_t rows, int64_t width,
                          const Columns& columns, bool silu, Out* out) {
    if (silu && addend != nullptr)
        gradients_of<true, true>(grad, x, addend, rows, width, columns, out);
    else if (silu)
        gradients_of<true, false>(grad, x, addend, rows, width, columns, out);
    else if (addend != nullptr)
        gradients_of<false, true>(grad, x, addend, rows, width, columns, out);
    else
        gradients_of<false, false>(grad, x, addend, rows, width, columns, out);
}

// out += weight * sign, for the elements of a sample from `first` on; `words` are the sample's packed signs, words of
// two or four bytes.
template <typename Word>
static void add_signs(const Word* words, int64_t first, int64_t count, float weight, float* out) {
    constexpr int64_t columns = kSignBytes / sizeof(Word);
    for (int64_t done = 0; done < count;) {
        const int64_t at = first + done, row = at % kSignBlock / columns, column = at % columns;
        const int64_t run = columns - column < count - done ? columns - column : count - done;
        const Word* const word = words + at / kSignBlock * columns + column;
        const int shift = static_cast<int>(30 - 2 * row);
        float* const to = out + done;
        for (int64_t i = 0; i < run; ++i) {
            // Without a branch, or the loop stays scalar: the bits of NaN where the code is -2.
            const int32_t code = static_cast<int32_t>(static_cast<uint32_t>(word[i]) << shift) >> 30;
            const int32_t nan = (code >> 1 & ~code & 1) * 0x7fc00000;
            float value = weight * static_cast<float>(code);
            int32_t bits;
            memcpy(&bits, &value, sizeof(bits));
            bits |= nan;
            memcpy(&value, &bits, sizeof(bits));
            to[i] += value;
        }
        done += run;
    }
}

template <typename T>
static void round_to(const float* x, int64_t width, T* out) {
    for (int64_t j = 0; j < width; j += kLanes) store(out + j, load(x + j));
}

}  // namespace LDP_ISA
}  // namespace ldp

// The idea. A sample [P, C] in memory is one run of P * C numbers in which the channel comes round every C. It is cut
// into rows of whole pixels, a multiple of 16 numbers wide and at least 128 (C = 4: 32 pixels a row), so that a
// column of rows has one channel: vectors run along the row whatever C and the groups are, and groups are looked at
// once a chunk, when the sums of the columns are added up. What is left of a sample after whole rows is copied to a
// row of its own, of floats whatever T is, padded so that the padding adds nothing.
//
// Images in planes are group_norm_silu_planes_cpu.cpp's.
//
// Chunks of rows (16384 numbers or more) depend on the shape alone, and their sums are combined in their order, in double: the
// same bits for any number of threads.
//
// Reads and writes, in passes over memory: moments 1 read; forward 1 read, 1 write; backward 2 reads for the sums, then
// 2 reads and 1 write, and 1 read of the addend.
#include "group_norm_silu.h"
#include "moments.h"

#include <ldp/host_device.h>
#include <ldp/huge_pages.h>
#include <ldp/parallel.h>

#include <algorithm>
#include <vector>

namespace ldp {
namespace {

// ldp_fast/reference/feature_matching.py has the layout.
constexpr int64_t kSignBlock = 8192, kSignBytes = 2048;  // elements of a block, bytes of its words

// Arrays [width] of one sample.
struct Columns {
    const float* mean;
    const float* scale;     // weight * rstd
    const float* shift;     // bias
    const float* constant;  // of the backward
    const float* slope;
};

}  // namespace
}  // namespace ldp

#define LDP_BODY "../../group_norm_silu/rows_cpu.h"
#include <ldp/each_isa.h>

namespace ldp {
namespace {

template <typename T>
struct Kernels {
    decltype(&portable::add_up<T>) add_up;
    decltype(&portable::add_up_deviations<T>) add_up_deviations;
    decltype(&portable::normalise<T>) normalise;
    decltype(&portable::add_up_gradients<T>) add_up_gradients;
    decltype(&portable::differentiate<T, T>) differentiate;
    decltype(&portable::differentiate<T, float>) differentiate_unrounded;
    decltype(&portable::add_signs<SignWord<T>>) add_signs;
    decltype(&portable::round_to<T>) round_to;
};

template <typename T>
const Kernels<T>& kernels() {
    static const Kernels<T> chosen{LDP_WIDEST(add_up<T>),
                                   LDP_WIDEST(add_up_deviations<T>),
                                   LDP_WIDEST(normalise<T>),
                                   LDP_WIDEST(add_up_gradients<T>),
                                   LDP_WIDEST(differentiate<T, T>),
                                   LDP_WIDEST(differentiate<T, float>),
                                   LDP_WIDEST(add_signs<SignWord<T>>),
                                   LDP_WIDEST(round_to<T>)};
    return chosen;
}

// How a sample is cut.
struct Cut {
    int64_t size;      // numbers of a sample
    int64_t width;     // of a row
    int64_t in_chunk;  // of a chunk
    int64_t chunks;    // of a sample
};

template <typename T>
Cut cut(const GroupNormParams<T>& params) {
    int64_t least = params.channels;
    while (least % 16 != 0) least *= 2;
    Cut cut{};
    cut.size = params.pixels * params.channels;
    cut.width = least * ((128 + least - 1) / least);
    cut.in_chunk = cut.width * larger<int64_t>(32, 16384 / cut.width);
    cut.chunks = (cut.size + cut.in_chunk - 1) / cut.in_chunk;
    return cut;
}

// A chunk of a sample: whole rows, and what is left of the last one.
struct Chunk {
    int64_t sample, number;  // number counts through all samples
    int64_t first, rows, rest;
};

template <typename T, typename Body>
void for_each_chunk(const GroupNormParams<T>& params, const Cut& cut, int arrays, const Body& body) {
    parallel_for(params.batch * cut.chunks, 1, [&](int64_t begin, int64_t end) {
        std::vector<float> scratch(static_cast<size_t>(arrays * cut.width));
        for (int64_t number = begin; number < end; ++number) {
            Chunk chunk{number / cut.chunks, number, number % cut.chunks * cut.in_chunk, 0, 0};
            const int64_t count = smaller(cut.in_chunk, cut.size - chunk.first);
            chunk.rows = count / cut.width;
            chunk.rest = count % cut.width;
            chunk.first += chunk.sample * cut.size;
            body(chunk, scratch.data());
        }
    });
}

// The rest of a chunk as a row of its own, of floats, behind it what `padding` has there, or zeros.
template <typename T>
const float* as_row(const T* rest, int64_t count, int64_t width, const float* padding, float* row) {
    for (int64_t j = 0; j < count; ++j) row[j] = value_of(rest[j]);
    if (padding != nullptr)
        std::copy(padding + count, padding + width, row + count);
    else
        std::fill(row + count, row + width, 0.0f);
    return row;
}

// totals[g] += the sums of the columns of group g, each times the weight of its channel where there is one.
template <typename T>
void gather(const GroupNormParams<T>& params, const float* columns, int64_t width, const float* weight, double* totals) {
    const int64_t in_group = params.channels / params.groups;
    for (int64_t pixel = 0; pixel < width; pixel += params.channels)
        // Groups inside: neighbouring additions do not wait for each other.
        for (int64_t c = 0; c < in_group; ++c)
            for (int64_t g = 0; g < params.groups; ++g) {
                const int64_t channel = g * in_group + c;
                const double sum = columns[pixel + channel];
                totals[g] += weight != nullptr ? sum * weight[channel] : sum;
            }
}

// columns[j] = value(channel, group) of column j.
template <typename T, typename Value>
void spread(const GroupNormParams<T>& params, int64_t width, float* columns, const Value& value) {
    const int64_t in_group = params.channels / params.groups;
    for (int64_t pixel = 0; pixel < width; pixel += params.channels)
        for (int64_t g = 0; g < params.groups; ++g)
            for (int64_t channel = g * in_group; channel < (g + 1) * in_group; ++channel)
                columns[pixel + channel] = value(channel, g);
}

constexpr int kColumnArrays = 5;

// Columns of every sample, [B, 5, width]; constant and slope only where there are any.
template <typename T>
std::vector<float> columns_of(const GroupNormParams<T>& params, int64_t width, const std::vector<float>& constant,
                              const std::vector<float>& slope) {
    std::vector<float> all(static_cast<size_t>(params.batch * kColumnArrays * width));
    for (int64_t b = 0; b < params.batch; ++b) {
        float* const to = all.data() + b * kColumnArrays * width;
        const float* const mean = params.mean + b * params.groups, *const rstd = params.rstd + b * params.groups;
        const auto weight = [&](int64_t c) { return params.weight != nullptr ? params.weight[c] : 1.0f; };
        spread(params, width, to, [&](int64_t, int64_t g) { return mean[g]; });
        spread(params, width, to + width, [&](int64_t c, int64_t g) { return weight(c) * rstd[g]; });
        spread(params, width, to + 2 * width,
               [&](int64_t c, int64_t) { return params.bias != nullptr ? params.bias[c] : 0.0f; });
        if (constant.empty()) continue;
        spread(params, width, to + 3 * width, [&](int64_t, int64_t g) { return constant[b * params.groups + g]; });
        spread(params, width, to + 4 * width, [&](int64_t, int64_t g) { return slope[b * params.groups + g]; });
    }
    return all;
}

Columns of_sample(const std::vector<float>& all, int64_t width, int64_t sample) {
    const float* const at = all.data() + sample * kColumnArrays * width;
    return {at, at + width, at + 2 * width, at + 3 * width, at + 4 * width};
}

}  // namespace

template <typename T>
void group_norm_moments_cpu(const GroupNormParams<T>& params, float eps, float* mean, float* rstd) {
    if (params.planes) return group_norm_moments_planes_cpu(params, eps, mean, rstd);
    const Cut cut = ldp::cut(params);
    const int64_t groups = params.groups, width = cut.width, in_group = params.channels / groups;
    std::vector<Moments> moments(static_cast<size_t>(params.batch * cut.chunks * groups));
    const auto elements = [&](const Chunk& chunk) {
        return static_cast<double>((chunk.rows * width + chunk.rest) / params.channels * in_group);
    };
    for_each_chunk(params, cut, 4, [&](const Chunk& chunk, float* scratch) {
        float* const centre = scratch, *const sums = centre + width, *const squared = sums + width;
        float* const row = squared + width;
        const T* const x = params.x + chunk.first, *const rest = x + chunk.rows * width;
        std::vector<double> first(static_cast<size_t>(groups)), second(first.size());
        std::vector<float> middles(first.size());
        Moments* const of_chunk = moments.data() + chunk.number * groups;
        const double count = elements(chunk);

        // Memory is read once: the centre is the mean of the first rows, and the sum of the deviations leads from it to
        // the mean. Little cancels in that: where the first of n rows are far from the others the variance shows it
        // too, and the squares are at most about n / 4 times what is left.
        const int64_t sampled = chunk.rows > 0 ? smaller<int64_t>(chunk.rows, 4) * width : chunk.rest;
        std::fill_n(sums, 2 * width, 0.0f);
        if (chunk.rows > 0)
            kernels<T>().add_up(x, sampled / width, width, sums);
        else
            kernels<float>().add_up(as_row(rest, chunk.rest, width, nullptr, row), 1, width, sums);
        gather(params, sums, width, nullptr, first.data());
        const double in_sample = static_cast<double>(sampled / params.channels * in_group);
        for (int64_t g = 0; g < groups; ++g) middles[g] = static_cast<float>(first[g] / in_sample);
        spread(params, width, centre, [&](int64_t, int64_t g) { return middles[g]; });

        std::fill_n(sums, width, 0.0f);
        kernels<T>().add_up_deviations(x, chunk.rows, width, centre, sums, squared);
        if (chunk.rest > 0)
            kernels<float>().add_up_deviations(as_row(rest, chunk.rest, width, centre, row), 1, width, centre, sums,
                                               squared);
        std::fill(first.begin(), first.end(), 0.0);
        gather(params, sums, width, nullptr, first.data());
        gather(params, squared, width, nullptr, second.data());
        for (int64_t g = 0; g < groups; ++g) of_chunk[g] = moments_around(middles[g], count, first[g], second[g]);
    });

    for (int64_t b = 0; b < params.batch; ++b)
        for (int64_t g = 0; g < groups; ++g) {
            Moments of_group;
            for (int64_t i = 0; i < cut.chunks; ++i) of_group.add(moments[(b * cut.chunks + i) * groups + g]);
            mean[b * groups + g] = static_cast<float>(of_group.mean);
            rstd[b * groups + g] = of_group.rstd(eps);
        }
}

template <typename T>
void group_norm_silu_cpu(const GroupNormParams<T>& params, T* out) {
    if (params.planes) return group_norm_silu_planes_cpu(params, out);
    const Cut cut = ldp::cut(params);
    const int64_t width = cut.width;
    prefer_huge_pages(out, params.batch * cut.size * int64_t{sizeof(T)});
    const std::vector<float> all = columns_of(params, width, {}, {});
    for_each_chunk(params, cut, 2, [&](const Chunk& chunk, float* scratch) {
        const Columns columns = of_sample(all, width, chunk.sample);
        const int64_t whole = chunk.rows * width;
        const T* const x = params.x + chunk.first;
        T* const to = out + chunk.first;
        kernels<T>().normalise(x, chunk.rows, width, columns, params.silu, to);
        if (chunk.rest == 0) return;
        const float* const row = as_row(x + whole, chunk.rest, width, nullptr, scratch);
        kernels<float>().normalise(row, 1, width, columns, params.silu, scratch + width);
        for (int64_t j = 0; j < chunk.rest; ++j) put(scratch[width + j], to + whole + j);
    });
}

template <typename T>
void group_norm_silu_backward_cpu(const GroupNormParams<T>& params, const GroupNormGradient<T>& gradient, T* grad_x) {
    if (params.planes) return group_norm_silu_planes_backward_cpu(params, gradient, grad_x);
    const Cut cut = ldp::cut(params);
    const int64_t groups = params.groups, width = cut.width;
    prefer_huge_pages(grad_x, params.batch * cut.size * int64_t{sizeof(T)});

    std::vector<double> sums(static_cast<size_t>(params.batch * cut.chunks * groups)), moments(sums.size());
    std::vector<float> all = columns_of(params, width, {}, {});
    for_each_chunk(params, cut, 4, [&](const Chunk& chunk, float* scratch) {
        const Columns columns = of_sample(all, width, chunk.sample);
        const int64_t whole = chunk.rows * width;
        const T* const x = params.x + chunk.first, *const grad = gradient.grad + chunk.first;
        float* const row = scratch + 2 * width, *const grad_row = row + width;
        std::fill_n(scratch, 2 * width, 0.0f);
        kernels<T>().add_up_gradients(grad, x, chunk.rows, width, columns, params.silu, scratch, scratch + width);
        if (chunk.rest > 0)
            kernels<float>().add_up_gradients(as_row(grad + whole, chunk.rest, width, nullptr, grad_row),
                                              as_row(x + whole, chunk.rest, width, columns.mean, row), 1, width,
                                              columns, params.silu, scratch, scratch + width);
        gather(params, scratch, width, params.weight, sums.data() + chunk.number * groups);
        gather(params, scratch + width, width, params.weight, moments.data() + chunk.number * groups);
    });

    const double count = static_cast<double>(cut.size / groups);
    std::vector<float> constant(static_cast<size_t>(params.batch * groups)), slope(constant.size());
    for (int64_t b = 0; b < params.batch; ++b)
        for (int64_t g = 0; g < groups; ++g) {
            double sum = 0.0, moment = 0.0;
            for (int64_t i = 0; i < cut.chunks; ++i) {
                sum += sums[(b * cut.chunks + i) * groups + g];
                moment += moments[(b * cut.chunks + i) * groups + g];
            }
            const double rstd = params.rstd[b * groups + g];
            constant[b * groups + g] = constant_of(rstd, sum, count);
            slope[b * groups + g] = slope_of(rstd, moment, count);
        }

    all = columns_of(params, width, constant, slope);
    const int64_t half = params.batch / 2;
    const int64_t words = (cut.size + kSignBlock - 1) / kSignBlock * (kSignBytes / int64_t{sizeof(T)});
    for_each_chunk(params, cut, 4, [&](const Chunk& chunk, float* scratch) {
        const Columns columns = of_sample(all, width, chunk.sample);
        const T* const x = params.x + chunk.first, *const grad = gradient.grad + chunk.first;
        const T* const addend = gradient.addend != nullptr ? gradient.addend + chunk.first : nullptr;
        T* const out = grad_x + chunk.first;
        // What is added to a result is added before it is rounded, once.
        const auto add_signs = [&](int64_t from, int64_t count, float* to) {
            if (gradient.signs == nullptr) return;
            const bool second = chunk.sample >= half;
            const float weight = second ? -gradient.sign_weight : gradient.sign_weight;
            kernels<T>().add_signs(gradient.signs + (chunk.sample - (second ? half : 0)) * words,
                                   chunk.first - chunk.sample * cut.size + from, count, weight, to);
        };
        const int64_t whole = chunk.rows * width;
        if constexpr (std::is_same_v<T, float>) {
            kernels<T>().differentiate(grad, x, addend, chunk.rows, width, columns, params.silu, out);
            add_signs(0, whole, out);
        } else if (gradient.signs == nullptr) {
            kernels<T>().differentiate(grad, x, addend, chunk.rows, width, columns, params.silu, out);
        } else {
            for (int64_t at = 0; at < whole; at += width) {
                const T* const added = addend != nullptr ? addend + at : nullptr;
                kernels<T>().differentiate_unrounded(grad + at, x + at, added, 1, width, columns, params.silu, scratch);
                add_signs(at, width, scratch);
                kernels<T>().round_to(scratch, width, out + at);
            }
        }
        if (chunk.rest == 0) return;
        const float* const row = as_row(x + whole, chunk.rest, width, nullptr, scratch);
        const float* const grad_row = as_row(grad + whole, chunk.rest, width, nullptr, scratch + width);
        const float* added = nullptr;
        if (addend != nullptr) added = as_row(addend + whole, chunk.rest, width, nullptr, scratch + 2 * width);
        float* const result = scratch + 3 * width;
        kernels<float>().differentiate(grad_row, row, added, 1, width, columns, params.silu, result);
        add_signs(whole, chunk.rest, result);
        for (int64_t j = 0; j < chunk.rest; ++j) put(result[j], out + whole + j);
    });
}

#define LDP_FOR_IMAGES_OF(T)                                                                              \
    template void group_norm_moments_cpu<T>(const GroupNormParams<T>&, float, float*, float*);            \
    template void group_norm_silu_cpu<T>(const GroupNormParams<T>&, T*);                                  \
    template void group_norm_silu_backward_cpu<T>(const GroupNormParams<T>&, const GroupNormGradient<T>&, T*);
LDP_FOR_IMAGES_OF(float)
LDP_FOR_IMAGES_OF(BFloat16)
LDP_FOR_IMAGES_OF(Half)
#undef LDP_FOR_IMAGES_OF

}  // namespace ldp

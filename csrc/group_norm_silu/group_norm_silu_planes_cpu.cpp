// Images in planes, as contiguous tensors are. What depends on the channel is then the same for a whole plane, so vectors
// run along it, and nothing is turned: results are in planes as well.
//
// A plane, or for the moments a group, is cut into parts of 16384 numbers, by its size alone; their sums are joined in
// their order, in double: the same bits for any number of threads. Passes over memory are those of group_norm_silu_cpu.cpp.
#include "group_norm_silu.h"
#include "moments.h"

#include <ldp/columns.h>
#include <ldp/host_device.h>
#include <ldp/huge_pages.h>
#include <ldp/parallel.h>

#include <vector>

namespace ldp {
namespace {

// What belongs to one plane.
struct Line {
    float mean;
    float scale;     // weight * rstd
    float shift;     // bias
    float constant;  // of the backward
    float slope;
};

}  // namespace
}  // namespace ldp

#define LDP_BODY "../../group_norm_silu/planes_cpu.h"
#include <ldp/each_isa.h>

namespace ldp {
namespace {

template <typename T>
struct Kernels {
    decltype(&portable::sum_of_run<T>) sum;
    decltype(&portable::add_up_run_deviations<T>) add_up_deviations;
    decltype(&portable::normalise_plane<T>) normalise;
    decltype(&portable::add_up_plane_gradients<T>) add_up_gradients;
    decltype(&portable::differentiate_plane<T>) differentiate;
};

template <typename T>
const Kernels<T>& kernels() {
    static const Kernels<T> chosen{LDP_WIDEST(sum_of_run<T>), LDP_WIDEST(add_up_run_deviations<T>),
                                   LDP_WIDEST(normalise_plane<T>), LDP_WIDEST(add_up_plane_gradients<T>),
                                   LDP_WIDEST(differentiate_plane<T>)};
    return chosen;
}

constexpr int64_t kPart = 16384;
// The centre of a part's deviations is the mean of so many of its first numbers: memory is read once, and little cancels
// (group_norm_silu_cpu.cpp).
constexpr int64_t kSampled = 512;

int64_t parts_of(int64_t size) { return (size + kPart - 1) / kPart; }

// Calls body(number of the part, run, first element of the images, elements) for every part of runs of one size.
template <typename Body>
void for_each_part(int64_t runs, int64_t size, const Body& body) {
    const int64_t parts = parts_of(size), grain = larger<int64_t>(1, kPart / size);
    parallel_for(runs * parts, grain, [&](int64_t begin, int64_t end) {
        for (int64_t number = begin; number < end; ++number) {
            const int64_t run = number / parts, first = number % parts * kPart;
            body(number, run, run * size + first, smaller(kPart, size - first));
        }
    });
}

template <typename T>
Line line_of(const GroupNormParams<T>& params, int64_t plane) {
    const int64_t channel = plane % params.channels, group = plane / (params.channels / params.groups);
    const float weight = params.weight != nullptr ? params.weight[channel] : 1.0f;
    const float shift = params.bias != nullptr ? params.bias[channel] : 0.0f;
    return {params.mean[group], weight * params.rstd[group], shift, 0.0f, 0.0f};
}

}  // namespace

template <typename T>
void group_norm_moments_planes_cpu(const GroupNormParams<T>& params, float eps, float* mean, float* rstd) {
    const int64_t size = params.pixels * (params.channels / params.groups), parts = parts_of(size);
    std::vector<Moments> moments(static_cast<size_t>(params.batch * params.groups * parts));
    for_each_part(params.batch * params.groups, size, [&](int64_t number, int64_t, int64_t first, int64_t count) {
        const T* const x = params.x + first;
        const int64_t sampled = smaller(kSampled, count);
        const auto centre = static_cast<float>(kernels<T>().sum(x, sampled) / static_cast<double>(sampled));
        double sums[2] = {};
        kernels<T>().add_up_deviations(x, count, centre, sums);
        moments[number] = moments_around(centre, static_cast<double>(count), sums[0], sums[1]);
    });
    for (int64_t group = 0; group < params.batch * params.groups; ++group) {
        Moments of_group;
        for (int64_t part = group * parts; part < (group + 1) * parts; ++part) of_group.add(moments[part]);
        mean[group] = static_cast<float>(of_group.mean);
        rstd[group] = of_group.rstd(eps);
    }
}

template <typename T>
void group_norm_silu_planes_cpu(const GroupNormParams<T>& params, T* out) {
    const int64_t planes = params.batch * params.channels;
    prefer_huge_pages(out, planes * params.pixels * int64_t{sizeof(T)});
    for_each_part(planes, params.pixels, [&](int64_t, int64_t plane, int64_t first, int64_t count) {
        kernels<T>().normalise(params.x + first, count, line_of(params, plane), params.silu, out + first);
    });
}

template <typename T>
void group_norm_silu_planes_backward_cpu(const GroupNormParams<T>& params, const GroupNormGradient<T>& gradient,
                                         T* grad_x) {
    const int64_t planes = params.batch * params.channels;
    prefer_huge_pages(grad_x, planes * params.pixels * int64_t{sizeof(T)});
    const int64_t parts = parts_of(params.pixels), in_group = params.channels / params.groups;
    std::vector<double> sums(static_cast<size_t>(2 * planes * parts));
    for_each_part(planes, params.pixels, [&](int64_t number, int64_t plane, int64_t first, int64_t count) {
        kernels<T>().add_up_gradients(gradient.grad + first, params.x + first, count, line_of(params, plane),
                                      params.silu, sums.data() + 2 * number);
    });

    const double count = static_cast<double>(params.pixels * in_group);
    std::vector<float> constant(static_cast<size_t>(params.batch * params.groups)), slope(constant.size());
    for (int64_t group = 0; group < params.batch * params.groups; ++group) {
        double sum = 0.0, moment = 0.0;
        for (int64_t plane = group * in_group; plane < (group + 1) * in_group; ++plane) {
            const double weight = params.weight != nullptr ? params.weight[plane % params.channels] : 1.0f;
            for (int64_t part = plane * parts; part < (plane + 1) * parts; ++part) {
                sum += weight * sums[2 * part];
                moment += weight * sums[2 * part + 1];
            }
        }
        const double rstd = params.rstd[group];
        constant[group] = constant_of(rstd, sum, count);
        slope[group] = slope_of(rstd, moment, count);
    }

    for_each_part(planes, params.pixels, [&](int64_t, int64_t plane, int64_t first, int64_t size) {
        Line line = line_of(params, plane);
        line.constant = constant[plane / in_group];
        line.slope = slope[plane / in_group];
        const T* const addend = gradient.addend != nullptr ? gradient.addend + first : nullptr;
        kernels<T>().differentiate(gradient.grad + first, params.x + first, addend, size, line, params.silu,
                                   grad_x + first);
    });
}

#define LDP_FOR_IMAGES_OF(T)                                                                              \
    template void group_norm_moments_planes_cpu<T>(const GroupNormParams<T>&, float, float*, float*);     \
    template void group_norm_silu_planes_cpu<T>(const GroupNormParams<T>&, T*);                           \
    template void group_norm_silu_planes_backward_cpu<T>(const GroupNormParams<T>&, const GroupNormGradient<T>&, T*);
LDP_FOR_IMAGES_OF(float)
LDP_FOR_IMAGES_OF(BFloat16)
LDP_FOR_IMAGES_OF(Half)
#undef LDP_FOR_IMAGES_OF

}  // namespace ldp

#include "group_norm_silu_op.h"

#include "group_norm_silu.h"

namespace ldp {

template <>
struct ScalarOf<BFloat16> {
    static constexpr ScalarType value = ScalarType::BFloat16;
    static constexpr const char* name = "bfloat16";
};
template <>
struct ScalarOf<Half> {
    static constexpr ScalarType value = ScalarType::Half;
    static constexpr const char* name = "float16";
};
template <>
struct ScalarOf<int16_t> {
    static constexpr ScalarType value = ScalarType::Short;
    static constexpr const char* name = "int16";
};

namespace {

// Calls call(T{}), T being what x consists of.
template <typename Call>
void by_dtype(const char* op, const Tensor& x, const Call& call) {
    const ScalarType dtype = x.scalar_type();
    check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, op, "x",
          "float32, bfloat16 or float16", "another dtype");
    if (dtype == ScalarType::BFloat16)
        call(BFloat16{});
    else if (dtype == ScalarType::Half)
        call(Half{});
    else
        call(float{});
}

// Channels-last or in planes, as its strides say; all other strides are refused.
template <typename T>
Images<T> images(const char* op, const char* argument, const Tensor& tensor, const Tensor& like) {
    check(tensor.scalar_type() == ScalarOf<T>::value, op, argument, ScalarOf<T>::name, "another dtype");
    bool fits = tensor.dim() == 4 && tensor.is_cuda() == like.is_cuda();
    for (int64_t d = 0; fits && d < 4; ++d) fits = tensor.size(d) == like.size(d);
    check(fits, op, argument, "shape " + shape_of(like) + " on x's device", shape_of(tensor));
    const int64_t batch = tensor.size(0), channels = tensor.size(1), height = tensor.size(2), width = tensor.size(3);
    const auto has_strides = [&](int64_t channel, int64_t row, int64_t column) {
        const int64_t sizes[] = {batch, channels, height, width}, strides[] = {channels * height * width, channel, row, column};
        bool has = true;
        for (int64_t d = 0; d < 4; ++d) has = has && (sizes[d] == 1 || tensor.stride(d) == strides[d]);
        return has || tensor.numel() == 0;
    };
    const bool last = has_strides(1, width * channels, channels), planes = has_strides(height * width, width, 1);
    check(last || planes, op, argument, "a contiguous or a channels-last tensor", "other strides");
    return {static_cast<const T*>(tensor.data_ptr()), !last};
}

template <typename T>
Images<T> images_or_null(const char* op, const char* argument, const OptionalTensor& tensor, const Tensor& like) {
    return tensor.has_value() ? images<T>(op, argument, *tensor, like) : Images<T>{nullptr, false};
}

// Of a result, which is channels-last.
template <typename T>
T* result(const char* op, const char* argument, const Tensor& tensor, const Tensor& like) {
    const Images<T> found = images<T>(op, argument, tensor, like);
    check(!found.planes, op, argument, "a channels-last tensor", "a contiguous one");
    return const_cast<T*>(found.data);
}

template <typename T>
GroupNormParams<T> image(const char* op, const Tensor& x, int64_t groups) {
    check(!x.is_cuda(), op, "x", "a CPU tensor (Triton serves CUDA)", "one on a GPU");
    check(x.dim() == 4, op, "x", "shape [B, C, H, W]", shape_of(x));
    GroupNormParams<T> params{};
    params.batch = x.size(0);
    params.pixels = x.size(2) * x.size(3);
    params.channels = x.size(1);
    params.groups = groups;
    check(params.pixels > 0 && params.channels > 0, op, "x", "at least one element a sample", shape_of(x));
    check(groups > 0 && params.channels % groups == 0, op, "groups", "a divisor of the channels",
          std::to_string(groups));
    params.x = images<T>(op, "x", x, x);
    return params;
}

template <typename T>
GroupNormParams<T> params_of(const char* op, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                             const OptionalTensor& weight, const OptionalTensor& bias, bool silu) {
    check(mean.dim() == 2, op, "mean", "shape [B, G]", shape_of(mean));
    GroupNormParams<T> params = image<T>(op, x, mean.size(1));
    params.mean = data<float>(op, "mean", mean, {params.batch, params.groups}, x);
    params.rstd = data<float>(op, "rstd", rstd, {params.batch, params.groups}, x);
    params.weight = data_or_null<float>(op, "weight", weight, {params.channels}, x);
    params.bias = data_or_null<float>(op, "bias", bias, {params.channels}, x);
    params.silu = silu;
    return params;
}

}  // namespace

void group_norm_moments_op(Tensor mean, Tensor rstd, Tensor x, int64_t groups, double eps) {
    constexpr const char* op = "group_norm_moments";
    by_dtype(op, x, [&](auto element) {
        const auto params = image<decltype(element)>(op, x, groups);
        float* const to_mean = data<float>(op, "mean", mean, {params.batch, groups}, x);
        float* const to_rstd = data<float>(op, "rstd", rstd, {params.batch, groups}, x);
        group_norm_moments_cpu(params, static_cast<float>(eps), to_mean, to_rstd);
    });
}

void group_norm_silu_op(Tensor out, Tensor x, Tensor mean, Tensor rstd, OptionalTensor weight, OptionalTensor bias,
                        bool silu) {
    constexpr const char* op = "group_norm_silu";
    by_dtype(op, x, [&](auto element) {
        using T = decltype(element);
        const GroupNormParams<T> params = params_of<T>(op, x, mean, rstd, weight, bias, silu);
        group_norm_silu_cpu(params, result<T>(op, "out", out, x));
    });
}

void group_norm_silu_backward_op(Tensor grad_x, Tensor grad, Tensor x, Tensor mean, Tensor rstd, OptionalTensor weight,
                                 OptionalTensor bias, bool silu, OptionalTensor addend, OptionalTensor signs,
                                 double sign_weight) {
    constexpr const char* op = "group_norm_silu_backward";
    by_dtype(op, x, [&](auto element) {
        using T = decltype(element);
        const GroupNormParams<T> params = params_of<T>(op, x, mean, rstd, weight, bias, silu);
        const int64_t batch = params.batch, pixels = params.pixels, channels = params.channels;
        GroupNormGradient<T> gradient{};
        gradient.grad = images<T>(op, "grad", grad, x);
        gradient.addend = images_or_null<T>(op, "addend", addend, x);
        const int64_t blocks = batch / 2 * ((pixels * channels + 8191) / 8192);
        const int64_t columns = 2048 / static_cast<int64_t>(sizeof(T));
        gradient.signs = data_or_null<SignWord<T>>(op, "signs", signs, {blocks, columns}, x);
        check(gradient.signs == nullptr || batch % 2 == 0, op, "signs", "an even batch", std::to_string(batch));
        gradient.sign_weight = static_cast<float>(sign_weight);
        group_norm_silu_backward_cpu(params, gradient, result<T>(op, "grad_x", grad_x, x));
    });
}

}  // namespace ldp

#include "group_norm_silu_op.h"

#include "group_norm_silu.h"

namespace ldp {

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

// Whether an image lies in planes, or channels-last.
bool lies(const Tensor& image, bool planes) {
    const int64_t batch = image.size(0), channels = image.size(1), height = image.size(2), width = image.size(3);
    const int64_t sizes[] = {batch, channels, height, width}, whole = channels * height * width;
    const int64_t in_planes[] = {whole, height * width, width, 1}, last[] = {whole, 1, width * channels, channels};
    bool has = true;
    for (int64_t d = 0; d < 4; ++d)
        has = has && (sizes[d] == 1 || image.stride(d) == (planes ? in_planes : last)[d]);
    return has || image.numel() == 0;
}

// An image of x's shape that lies as x does.
template <typename T>
T* image(const char* op, const char* argument, const Tensor& tensor, const Tensor& x) {
    check(tensor.scalar_type() == ScalarOf<T>::value, op, argument, ScalarOf<T>::name, "another dtype");
    bool fits = tensor.dim() == 4 && tensor.is_cuda() == x.is_cuda();
    for (int64_t d = 0; fits && d < 4; ++d) fits = tensor.size(d) == x.size(d);
    check(fits, op, argument, "shape " + shape_of(x) + " on x's device", shape_of(tensor));
    const bool planes = !lies(x, false);
    check(lies(tensor, planes), op, argument,
          planes ? "a contiguous tensor, as x is" : "a channels-last tensor, as x is", "other strides");
    return static_cast<T*>(tensor.data_ptr());
}

template <typename T>
GroupNormParams<T> images(const char* op, const Tensor& x, int64_t groups) {
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
    check(lies(x, false) || lies(x, true), op, "x", "a contiguous or a channels-last tensor", "other strides");
    params.x = image<T>(op, "x", x, x);
    params.planes = !lies(x, false);
    return params;
}

template <typename T>
GroupNormParams<T> params_of(const char* op, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                             const OptionalTensor& weight, const OptionalTensor& bias, bool silu) {
    check(mean.dim() == 2, op, "mean", "shape [B, G]", shape_of(mean));
    GroupNormParams<T> params = images<T>(op, x, mean.size(1));
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
        const auto params = images<decltype(element)>(op, x, groups);
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
        group_norm_silu_cpu(params, image<T>(op, "out", out, x));
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
        gradient.grad = image<T>(op, "grad", grad, x);
        gradient.addend = addend.has_value() ? image<T>(op, "addend", *addend, x) : nullptr;
        const int64_t blocks = batch / 2 * ((pixels * channels + 8191) / 8192);
        const int64_t columns = 2048 / static_cast<int64_t>(sizeof(T));
        gradient.signs = data_or_null<SignWord<T>>(op, "signs", signs, {blocks, columns}, x);
        check(gradient.signs == nullptr || !params.planes, op, "signs", "none where x lies in planes", "some");
        check(gradient.signs == nullptr || batch % 2 == 0, op, "signs", "an even batch", std::to_string(batch));
        gradient.sign_weight = static_cast<float>(sign_weight);
        group_norm_silu_backward_cpu(params, gradient, image<T>(op, "grad_x", grad_x, x));
    });
}

}  // namespace ldp

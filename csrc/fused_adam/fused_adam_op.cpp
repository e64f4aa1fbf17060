#include "fused_adam_op.h"

#include <cmath>

#include "fused_adam.h"

namespace ldp {
namespace {

constexpr const char* op = "fused_adam";

void check_kind(const char* argument, const Tensor& tensor, const Tensor& param) {
    check(tensor.scalar_type() == ScalarType::Float, op, argument, "float32", "another dtype");
    const bool same_device =
        tensor.is_cuda() == param.is_cuda() && (!param.is_cuda() || tensor.get_device() == param.get_device());
    check(same_device, op, argument, "a tensor on the device of the parameter", "one elsewhere");
}

// A tensor of any shape with as many elements as the parameter has.
float* array(const char* argument, const Tensor& tensor, const Tensor& param) {
    check_kind(argument, tensor, param);
    check(tensor.numel() == param.numel(), op, argument, "the parameter's shape " + shape_of(param), shape_of(tensor));
    check(tensor.is_contiguous(), op, argument, "a contiguous tensor", "strides");
    return static_cast<float*>(tensor.data_ptr());
}

// One number on the parameter's device: shape [] or [1].
float* scalar(const char* argument, const Tensor& tensor, const Tensor& param) {
    check_kind(argument, tensor, param);
    check(tensor.numel() == 1, op, argument, "one element", shape_of(tensor));
    return static_cast<float*>(tensor.data_ptr());
}

}  // namespace

void fused_adam_op(Tensor param, Tensor grad, Tensor exp_avg, Tensor exp_avg_sq, OptionalTensor shadow, Tensor step,
                   Tensor lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled,
                   OptionalTensor grad_scale, OptionalTensor found_inf, bool zero_grad) {
    FusedAdamParams params{};
    params.size = param.numel();
    params.param = array("param", param, param);
    params.grad = array("grad", grad, param);
    params.exp_avg = array("exp_avg", exp_avg, param);
    params.exp_avg_sq = array("exp_avg_sq", exp_avg_sq, param);
    params.shadow = half_data_or_null(op, "shadow", shadow, {params.size}, param);
    params.step = scalar("step", step, param);
    params.lr = scalar("lr", lr, param);
    params.grad_scale = grad_scale.has_value() ? scalar("grad_scale", *grad_scale, param) : nullptr;
    params.found_inf = found_inf.has_value() ? scalar("found_inf", *found_inf, param) : nullptr;
    params.beta1_rest = static_cast<float>(1.0 - beta1);
    params.beta2 = static_cast<float>(beta2);
    params.beta2_rest = static_cast<float>(1.0 - beta2);
    params.log_beta1 = static_cast<float>(std::log(beta1));
    params.log_beta2 = static_cast<float>(std::log(beta2));
    params.eps = static_cast<float>(eps);
    params.weight_decay = static_cast<float>(weight_decay);
    params.decoupled = decoupled;
    params.zero_grad = zero_grad;
    LDP_DISPATCH(op, param, fused_adam_cpu(params), fused_adam_cuda(params, stream));
}

}  // namespace ldp

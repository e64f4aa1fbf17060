#include "frozen_conv_op.h"

#include "frozen_conv.h"

namespace ldp {
namespace {

constexpr const char* op = "frozen_conv";

}  // namespace

void frozen_conv_op(Tensor out, Tensor workspace, Tensor x, Tensor weight, OptionalTensor bias, OptionalTensor scale,
                    OptionalTensor shift, OptionalTensor addend, int64_t kind, int64_t threads) {
    check(!x.is_cuda(), op, "x", "a tensor on a CPU", "one on a GPU");
    check(kind >= 0 && kind <= 3, op, "kind", "0 to 3", std::to_string(kind));
    check(threads >= 1, op, "threads", "at least 1", std::to_string(threads));
    check(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3, op, "weight", "shape [O, I, 3, 3]", shape_of(weight));
    check(weight.scalar_type() == ScalarType::Float && !weight.is_cuda(), op, "weight", "float32 on a CPU", "another kind");
    check(x.dim() == 4, op, "x", "shape [B, H, W, C]", shape_of(x));
    FrozenConvParams params{};
    params.kind = static_cast<ConvKind>(kind);
    const bool transposed = params.kind == ConvKind::kSameTransposed || params.kind == ConvKind::kUpsampleTransposed;
    params.batch = x.size(0), params.height = x.size(1), params.width = x.size(2), params.in = x.size(3);
    params.out_channels = weight.size(transposed ? 1 : 0);
    check(params.in == weight.size(transposed ? 0 : 1), op, "x", "as many channels as weight takes", shape_of(x));
    check(params.in % 16 == 0 && params.out_channels % 16 == 0, op, "weight", "multiples of 16 channels", shape_of(weight));
    int64_t height = params.height, width = params.width;
    if (params.kind == ConvKind::kUpsample) height *= 2, width *= 2;
    if (params.kind == ConvKind::kUpsampleTransposed) {
        check(height % 2 == 0 && width % 2 == 0, op, "x", "even height and width", shape_of(x));
        height /= 2, width /= 2;
    }
    params.x = data<float>(op, "x", x, {-1, -1, -1, -1}, x);
    params.weight = static_cast<const float*>(weight.data_ptr());
    for (int d = 0; d < 4; ++d) params.strides[d] = weight.stride(d);
    params.bias = data_or_null<float>(op, "bias", bias, {params.out_channels}, x);
    check(scale.has_value() == shift.has_value(), op, "shift", "both of scale and shift or neither", "one");
    params.scale = data_or_null<float>(op, "scale", scale, {params.batch, params.in}, x);
    params.shift = data_or_null<float>(op, "shift", shift, {params.batch, params.in}, x);
    params.addend = data_or_null<float>(op, "addend", addend, {params.batch, height, width, params.out_channels}, x);
    params.out = data<float>(op, "out", out, {params.batch, height, width, params.out_channels}, x);
    params.threads = static_cast<int>(threads);
    params.workspace = data<float>(op, "workspace", workspace, {-1}, x);
    const int64_t needed = frozen_conv_workspace(params);
    check(workspace.size(0) >= needed, op, "workspace", std::to_string(needed) + " elements", shape_of(workspace));
    frozen_conv_cpu(params);
}

}  // namespace ldp

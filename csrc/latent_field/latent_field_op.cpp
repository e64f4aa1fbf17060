#include "latent_field_op.h"

#include "../hash_grid/hash_grid_op.h"
#include "latent_field.h"

namespace ldp {
namespace {

LatentFieldParams params_of(const char* op, const Tensor& positions, const Tensor& weights, const OptionalTensor& count,
                            int64_t encoding, double bound, int64_t hidden, int64_t layers, int64_t channels, bool bias,
                            bool sigmoid, double blob_strength, double blob_std, bool half) {
    check(encoding >= 1 && encoding <= kMaxEncoding, op, "encoding", "1 to 128 columns", std::to_string(encoding));
    check(hidden >= 16 && hidden <= kMaxHidden && hidden % 16 == 0, op, "hidden", "a multiple of 16 from 16 to 128",
          std::to_string(hidden));
    check(layers >= 1 && layers <= kMaxHiddenLayers, op, "layers", "1 to 4", std::to_string(layers));
    check(channels >= 1 && channels <= kMaxChannels, op, "channels", "1 to 15", std::to_string(channels));
    check(bound > 0, op, "bound", "a number above 0", std::to_string(bound));
    check(blob_strength == 0 || blob_std > 0, op, "blob_std", "a number above 0", std::to_string(blob_std));
    check(!half || positions.is_cuda(), op, "half", "false on a CPU", "true");
    LatentFieldParams params{};
    params.size = positions.size(0);
    params.positions = data<float>(op, "positions", positions, {params.size, 3}, positions);
    params.count = data_or_null<int64_t>(op, "count", count, {1}, positions);
    params.encoding = static_cast<int>(encoding);
    params.hidden = static_cast<int>(hidden);
    params.layers = static_cast<int>(layers);
    params.channels = static_cast<int>(channels);
    params.bias = bias;
    params.sigmoid = sigmoid;
    params.half = half;
    params.bound = static_cast<float>(bound);
    params.blob_strength = static_cast<float>(blob_strength);
    params.blob_std = static_cast<float>(blob_std);
    params.weights = data<float>(op, "weights", weights, {field_weights(params)}, positions);
    return params;
}

// Encodings are float16 where the products are.
void* encoding_of(const char* op, const Tensor& encoding, const LatentFieldParams& params, const Tensor& like) {
    if (!params.half) return data<float>(op, "encoding", encoding, {params.size, params.encoding}, like);
    return half_data_or_null(op, "encoding", encoding, {params.size, params.encoding}, like);
}

#ifdef USE_CUDA
FieldWorkspace workspace_of(const char* op, const OptionalTensor& workspace, const Tensor& like) {
    check(workspace.has_value(), op, "workspace", "a tensor on CUDA", "none");
    return {data<float>(op, "workspace", *workspace, {-1}, like), workspace->size(0)};
}
#endif

}  // namespace

void latent_field_op(Tensor density, Tensor latents, Tensor encoding, OptionalTensor workspace, Tensor positions,
                     Tensor table, OptionalTensor shadow, Tensor weights, OptionalTensor count,
                     std::vector<int64_t> offsets, std::vector<int64_t> resolutions, std::vector<double> scales,
                     double shift, int64_t indexing, bool smoothstep, double bound, int64_t hidden, int64_t layers,
                     int64_t channels, bool bias, bool sigmoid, double blob_strength, double blob_std, bool half) {
    constexpr const char* op = "latent_field";
    const HashGridParams grid =
        hash_grid_params(op, positions, table, shadow, count, offsets, resolutions, scales, shift, indexing, smoothstep);
    const LatentFieldParams params =
        params_of(op, positions, weights, count, int64_t{grid.n_levels} * grid.n_features, bound, hidden, layers,
                  channels, bias, sigmoid, blob_strength, blob_std, half);
    float* const out_density = data<float>(op, "density", density, {params.size}, positions);
    float* const out_latents = data<float>(op, "latents", latents, {params.size, params.channels}, positions);
    void* const out_encoding = encoding_of(op, encoding, params, positions);
    (void)workspace;
    if (params.size == 0) return;
    LDP_DISPATCH(op, positions,
                 latent_field_cpu(params, grid, out_density, out_latents, static_cast<float*>(out_encoding)),
                 latent_field_cuda(params, grid, workspace_of(op, workspace, positions), out_density, out_latents,
                                   out_encoding, stream));
}

void latent_field_backward_op(Tensor grad_encoding, Tensor grad_weights, Tensor grad_positions,
                              OptionalTensor workspace, Tensor grad_density, Tensor grad_latents, Tensor positions,
                              Tensor encoding, Tensor weights, OptionalTensor count, int64_t hidden, int64_t layers,
                              int64_t channels, bool bias, bool sigmoid, double blob_strength, double blob_std,
                              bool half) {
    constexpr const char* op = "latent_field_backward";
    const LatentFieldParams params = params_of(op, positions, weights, count, encoding.size(1), 1.0, hidden, layers,
                                               channels, bias, sigmoid, blob_strength, blob_std, half);
    const float* const in_density = data<float>(op, "grad_density", grad_density, {params.size}, positions);
    const float* const in_latents =
        data<float>(op, "grad_latents", grad_latents, {params.size, params.channels}, positions);
    const void* const in_encoding = encoding_of(op, encoding, params, positions);
    float* const out_encoding =
        data<float>(op, "grad_encoding", grad_encoding, {params.size, params.encoding}, positions);
    float* const out_weights = data<float>(op, "grad_weights", grad_weights, {field_weights(params)}, positions);
    float* const out_positions = data<float>(op, "grad_positions", grad_positions, {params.size, 3}, positions);
    (void)workspace;
    LDP_DISPATCH(op, positions,
                 latent_field_backward_cpu(params, in_density, in_latents, static_cast<const float*>(in_encoding),
                                           out_encoding, out_weights, out_positions),
                 latent_field_backward_cuda(params, workspace_of(op, workspace, positions), in_density, in_latents,
                                            in_encoding, out_encoding, out_weights, out_positions, stream));
}

}  // namespace ldp

#include "hash_grid_op.h"

#include "hash_grid.h"

namespace ldp {
namespace {

// The layout and the positions; `entries` and `features` are those of the table, or of its gradient.
HashGridParams params_of(const char* op, const Tensor& positions, const OptionalTensor& count, int64_t entries,
                         int64_t features, const std::vector<int64_t>& offsets, const std::vector<int64_t>& resolutions,
                         const std::vector<double>& scales, double shift, int64_t indexing, bool smoothstep) {
    const auto levels = static_cast<int64_t>(resolutions.size());
    check(levels >= 1 && levels <= kMaxLevels, op, "resolutions", "1 to 32 levels", std::to_string(levels));
    check(offsets.size() == resolutions.size() + 1, op, "offsets", "one more than resolutions",
          std::to_string(offsets.size()));
    check(scales.size() == resolutions.size(), op, "scales", "one a level", std::to_string(scales.size()));
    check(offsets[0] == 0, op, "offsets", "0 for the first level", std::to_string(offsets[0]));
    check(offsets.back() == entries, op, "offsets",
          "the " + std::to_string(entries) + " entries of the table as the last", std::to_string(offsets.back()));
    check(features >= 1 && features <= kMaxFeatures, op, "table", "1 to 16 features", std::to_string(features));
    HashGridParams params{};
    params.size = positions.dim() == 2 ? positions.size(0) : -1;
    params.positions = data<float>(op, "positions", positions, {params.size, 3}, positions);
    params.n_features = static_cast<int>(features);
    params.count = data_or_null<int64_t>(op, "count", count, {1}, positions);
    params.n_levels = static_cast<int>(levels);
    params.shift = static_cast<float>(shift);
    check(indexing >= 0 && indexing <= 2, op, "indexing", "0 (wrapped), 1 (hashed) or 2 (tiled)",
          std::to_string(indexing));
    params.indexing = static_cast<GridIndexing>(indexing);
    params.smoothstep = smoothstep;
    for (int64_t l = 0; l < levels; ++l) {
        const int64_t size = offsets[l + 1] - offsets[l];
        check(size > 0 && size <= int64_t{1} << 31, op, "offsets", "a step of 1 to 2^31 from level to level",
              std::to_string(size));
        check(resolutions[l] > 0 && resolutions[l] < int64_t{1} << 31, op, "resolutions", "1 to 2^31 - 1",
              std::to_string(resolutions[l]));
        params.levels[l] = {offsets[l], static_cast<uint32_t>(size), static_cast<uint32_t>(resolutions[l]),
                            static_cast<float>(scales[l])};
    }
    return params;
}

const float* gradient(const char* op, const HashGridParams& params, const Tensor& grad, const Tensor& positions) {
    return data<float>(op, "grad", grad, {params.size, params.n_levels * params.n_features}, positions);
}

}  // namespace

HashGridParams hash_grid_params(const char* op, const Tensor& positions, const Tensor& table,
                                const OptionalTensor& shadow, const OptionalTensor& count,
                                const std::vector<int64_t>& offsets, const std::vector<int64_t>& resolutions,
                                const std::vector<double>& scales, double shift, int64_t indexing, bool smoothstep) {
    check(table.dim() == 2, op, "table", "shape [entries, F]", shape_of(table));
    const int64_t entries = table.size(0), features = table.size(1);
    HashGridParams params =
        params_of(op, positions, count, entries, features, offsets, resolutions, scales, shift, indexing, smoothstep);
    params.table = data<float>(op, "table", table, {entries, features}, positions);
    params.shadow = half_data_or_null(op, "shadow", shadow, {entries, features}, positions);
    check(params.shadow == nullptr || positions.is_cuda(), op, "shadow", "none on a CPU", "one");
    return params;
}

void hash_grid_op(Tensor encoding, Tensor positions, Tensor table, OptionalTensor shadow, OptionalTensor count,
                  std::vector<int64_t> offsets, std::vector<int64_t> resolutions, std::vector<double> scales,
                  double shift, int64_t indexing, bool smoothstep) {
    constexpr const char* op = "hash_grid";
    const HashGridParams params =
        hash_grid_params(op, positions, table, shadow, count, offsets, resolutions, scales, shift, indexing, smoothstep);
    float* out = data<float>(op, "encoding", encoding, {params.size, params.n_levels * params.n_features}, positions);
    if (params.size == 0) return;
    LDP_DISPATCH(op, positions, hash_grid_cpu(params, out), hash_grid_cuda(params, out, stream));
}

void hash_grid_backward_table_op(Tensor grad_table, OptionalTensor workspace, Tensor grad, Tensor positions,
                                 OptionalTensor count, std::vector<int64_t> offsets, std::vector<int64_t> resolutions,
                                 std::vector<double> scales, double shift, int64_t indexing, bool smoothstep) {
    constexpr const char* op = "hash_grid_backward_table";
    check(grad_table.dim() == 2, op, "grad_table", "shape [entries, F]", shape_of(grad_table));
    const int64_t entries = grad_table.size(0), features = grad_table.size(1);
    const HashGridParams params =
        params_of(op, positions, count, entries, features, offsets, resolutions, scales, shift, indexing, smoothstep);
    float* out = data<float>(op, "grad_table", grad_table, {entries, features}, positions);
    int64_t* fixed =
        data_or_null<int64_t>(op, "workspace", workspace, {hash_grid_workspace(entries * features)}, positions);
    const float* g = gradient(op, params, grad, positions);
    (void)fixed;  // a CPU needs none
    LDP_DISPATCH(op, positions, hash_grid_backward_table_cpu(params, g, out),
                 hash_grid_backward_table_cuda(params, g, out, fixed, stream));
}

void hash_grid_backward_positions_op(Tensor grad_positions, Tensor grad, Tensor positions, Tensor table,
                                     OptionalTensor shadow, OptionalTensor count, std::vector<int64_t> offsets,
                                     std::vector<int64_t> resolutions, std::vector<double> scales, double shift,
                                     int64_t indexing, bool smoothstep) {
    constexpr const char* op = "hash_grid_backward_positions";
    const HashGridParams params =
        hash_grid_params(op, positions, table, shadow, count, offsets, resolutions, scales, shift, indexing, smoothstep);
    float* out = data<float>(op, "grad_positions", grad_positions, {params.size, 3}, positions);
    const float* g = gradient(op, params, grad, positions);
    if (params.size == 0) return;
    LDP_DISPATCH(op, positions, hash_grid_backward_positions_cpu(params, g, out),
                 hash_grid_backward_positions_cuda(params, g, out, stream));
}

}  // namespace ldp

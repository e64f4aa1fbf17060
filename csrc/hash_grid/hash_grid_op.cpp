#include "hash_grid_op.h"

#include "hash_grid.h"

namespace ldp {

HashGridParams hash_grid_params(const char* op, const Tensor& positions, const Tensor& table, const OptionalTensor& shadow,
                         const OptionalTensor& count, const std::vector<int64_t>& offsets,
                         const std::vector<int64_t>& resolutions, const std::vector<double>& scales, double shift,
                         bool hashed, bool smoothstep) {
    const auto levels = static_cast<int64_t>(resolutions.size());
    check(levels >= 1 && levels <= kMaxLevels, op, "resolutions", "1 to 32 levels", std::to_string(levels));
    check(offsets.size() == resolutions.size() + 1, op, "offsets", "one more than resolutions", std::to_string(offsets.size()));
    check(scales.size() == resolutions.size(), op, "scales", "one a level", std::to_string(scales.size()));
    HashGridParams params{};
    params.size = positions.size(0);
    params.positions = data<float>(op, "positions", positions, {params.size, 3}, positions);
    params.n_features = static_cast<int>(table.size(1));
    params.table = data<float>(op, "table", table, {offsets.back(), params.n_features}, positions);
    params.shadow = half_data_or_null(op, "shadow", shadow, {offsets.back(), params.n_features}, positions);
    params.count = data_or_null<int64_t>(op, "count", count, {1}, positions);
    params.n_levels = static_cast<int>(levels);
    params.shift = static_cast<float>(shift);
    params.hashed = hashed;
    params.smoothstep = smoothstep;
    for (int64_t l = 0; l < levels; ++l) {
        const int64_t entries = offsets[l + 1] - offsets[l];
        check(entries > 0 && entries <= (int64_t{1} << 31), op, "offsets", "growing", std::to_string(entries));
        params.levels[l] = {offsets[l], static_cast<uint32_t>(entries), static_cast<uint32_t>(resolutions[l]),
                            static_cast<float>(scales[l])};
    }
    return params;
}

void hash_grid_op(Tensor encoding, Tensor positions, Tensor table, OptionalTensor shadow, OptionalTensor count,
                  std::vector<int64_t> offsets, std::vector<int64_t> resolutions, std::vector<double> scales, double shift,
                  bool hashed, bool smoothstep) {
    constexpr const char* op = "hash_grid";
    const HashGridParams params = hash_grid_params(op, positions, table, shadow, count, offsets, resolutions, scales, shift, hashed, smoothstep);
    float* out = data<float>(op, "encoding", encoding, {params.size, params.n_levels * params.n_features}, positions);
    if (params.size == 0) return;
    LDP_DISPATCH(op, positions, hash_grid_cpu(params, out), throw std::runtime_error("hash_grid: to come"));
}

}  // namespace ldp

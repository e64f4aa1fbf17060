#include "feature_matching_op.h"

#include "feature_matching.h"

namespace ldp {
namespace {

double weight_of(int64_t size, int64_t batch, bool mean, bool batch_mean) {
    const double per_batch = batch_mean ? 1.0 / static_cast<double>(batch > 1 ? batch : 1) : 1.0;
    return mean ? per_batch / static_cast<double>(size > 1 ? size : 1) : per_batch;
}

// M of [B, ...].
int64_t row_size(const Tensor& tensor) {
    int64_t size = 1;
    for (int64_t d = 1; d < tensor.dim(); ++d) size *= tensor.size(d);
    return size;
}

// Between rows, in elements.
int64_t stride_of(const Tensor& tensor) { return tensor.dim() == 2 ? tensor.stride(0) : row_size(tensor); }

// [B, M] of stride 1, at any distance, or contiguous [B, ...].
const float* rows_of(const char* op, const char* argument, const Tensor& tensor, int64_t rows, int64_t size) {
    check(!tensor.is_cuda(), op, argument, "CPU tensors (Triton serves CUDA)", "one on a GPU");
    check(tensor.scalar_type() == ScalarType::Float, op, argument, "float32", "another dtype");
    if (tensor.dim() < 2 || tensor.size(0) != rows || row_size(tensor) != size)
        check(false, op, argument, std::to_string(rows) + " rows of " + std::to_string(size) + " elements",
              shape_of(tensor));
    const bool dense = tensor.dim() == 2 ? size == 1 || tensor.stride(1) == 1 : tensor.is_contiguous();
    check(dense, op, argument, "rows of stride 1", "others");
    return static_cast<const float*>(tensor.data_ptr());
}

int64_t blocks_of(int64_t batch, int64_t size) { return batch * ((size + kSignBlock - 1) / kSignBlock); }

}  // namespace

void feature_matching_op(Tensor loss, Tensor level_values, Tensor counts, Tensor signs, std::vector<Tensor> features,
                         std::vector<Tensor> features_prime, bool mean, bool batch_mean, bool zero_nonfinite,
                         bool save_signs) {
    constexpr const char* op = "feature_matching";
    const int64_t levels = static_cast<int64_t>(features.size());
    check(levels > 0, op, "features", "at least one level", "none");
    check(features_prime.empty() || features_prime.size() == features.size(), op, "features_prime",
          "as many levels as features", std::to_string(features_prime.size()));
    const bool halves = features_prime.empty();
    check(features[0].dim() >= 2, op, "features", "rows [B, M]", shape_of(features[0]));
    const int64_t rows = features[0].size(0), batch = halves ? rows / 2 : rows;
    check(!halves || rows % 2 == 0, op, "features", "an even number of rows, x above x'", shape_of(features[0]));
    std::vector<FeatureLevel> params;
    params.reserve(features.size());
    int64_t blocks = 0;
    for (size_t l = 0; l < features.size(); ++l) {
        const Tensor& x = features[l];
        FeatureLevel level{};
        level.size = row_size(x);
        level.x = rows_of(op, "features", x, rows, level.size);
        level.stride = level.stride_prime = stride_of(x);
        level.x_prime = level.x + batch * level.stride;
        if (!halves) {
            level.x_prime = rows_of(op, "features_prime", features_prime[l], rows, level.size);
            level.stride_prime = stride_of(features_prime[l]);
        }
        level.weight = weight_of(level.size, batch, mean, batch_mean);
        blocks += blocks_of(batch, level.size);
        params.push_back(level);
    }
    const Tensor& first = features[0];
    float* const to_loss = data<float>(op, "loss", loss, {}, first);
    float* const to_values = data<float>(op, "level_values", level_values, {levels, batch}, first);
    int32_t* const to_counts = data<int32_t>(op, "counts", counts, {levels, batch}, first);
    int32_t* const to_signs = data<int32_t>(op, "signs", signs, {save_signs ? blocks : 0, kSignColumns}, first);
    feature_matching_cpu(params, batch, zero_nonfinite, to_loss, to_values, to_counts, save_signs ? to_signs : nullptr);
}

void feature_matching_backward_op(std::vector<Tensor> grads, Tensor grad, Tensor signs, std::vector<int64_t> sizes,
                                  int64_t batch, bool mean, bool batch_mean, bool halves, bool needs_features,
                                  bool needs_features_prime) {
    constexpr const char* op = "feature_matching_backward";
    const size_t levels = sizes.size(), lists = halves ? 1 : (needs_features ? 1 : 0) + (needs_features_prime ? 1 : 0);
    check(grads.size() == lists * levels, op, "grads", std::to_string(lists * levels) + " tensors",
          std::to_string(grads.size()));
    if (grads.empty()) return;
    check(!grads[0].is_cuda(), op, "grads", "CPU tensors (Triton serves CUDA)", "one on a GPU");
    const float upstream = *data<float>(op, "grad", grad, {}, grads[0]);
    std::vector<FeatureGradient> params;
    params.reserve(levels);
    int64_t blocks = 0;
    for (size_t l = 0; l < levels; ++l) {
        FeatureGradient level{};
        level.size = sizes[l];
        level.scale = upstream * static_cast<float>(weight_of(level.size, batch, mean, batch_mean));
        if (halves) {
            level.x = data<float>(op, "grads", grads[l], {2 * batch, level.size}, grads[0]);
            level.x_prime = level.x + batch * level.size;
        } else {
            if (needs_features) level.x = data<float>(op, "grads", grads[l], {batch, level.size}, grads[0]);
            if (needs_features_prime)
                level.x_prime =
                    data<float>(op, "grads", grads[grads.size() - levels + l], {batch, level.size}, grads[0]);
        }
        blocks += blocks_of(batch, level.size);
        params.push_back(level);
    }
    feature_matching_backward_cpu(params, batch, data<int32_t>(op, "signs", signs, {blocks, kSignColumns}, grads[0]));
}

}  // namespace ldp

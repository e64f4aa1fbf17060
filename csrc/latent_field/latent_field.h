// The latent field: a hash grid encoding, a small ReLU network, a density and latents. Parameters and shared maths.
//
// Letters: S samples, E = L*F columns of the encoding, H hidden units, C channels of the latents, P weights.
//   e = hash_grid((x + bound) / (2 bound));  a_0 = e;  a_l = relu(W_l a_(l-1) + b_l);  h = W_out a_n + b_out
//   density = exp(min(h_0 + blob(x), 80));   latents = h_1.. or their sigmoid
//   blob(x) = strength exp(-|x|^2 / (2 std^2))
// The flat weights hold, layer by layer, W [out, in] row-major and then its bias [out] if there is one.
#pragma once

#include <ldp/host_device.h>

#include "../hash_grid/hash_grid.h"

namespace ldp {

constexpr int kMaxHidden = 128;
constexpr int kMaxHiddenLayers = 4;
constexpr int kMaxFieldLayers = kMaxHiddenLayers + 1;
constexpr int kMaxChannels = 15;
constexpr int kMaxEncoding = 128;

struct LatentFieldParams {
    const float* positions;  // [S, 3] in the box [-bound, bound]^3
    const float* weights;    // [P]
    const int64_t* count;    // device: samples that are there, rows from *count on are padding; null = all S
    int64_t size;            // S
    int encoding;            // E
    int hidden;              // H, a multiple of 16
    int layers;              // hidden layers, 1 to 4
    int channels;            // C
    bool bias;               // whether every layer has one
    bool sigmoid;            // of the latents
    bool half;               // CUDA: products of float16 numbers, else of float32 ones; sums are float32
    float bound;             // half the box's edge
    float blob_strength;     // 0: no blob
    float blob_std;          // in the units of the positions
};

// One layer's place in the flat weights.
struct FieldLayer {
    int in, out;
    int64_t weight, bias;  // offsets; bias only where there is one
};

LDP_HOST_DEVICE FieldLayer field_layer(const LatentFieldParams& params, int index) {
    FieldLayer layer;
    layer.in = index == 0 ? params.encoding : params.hidden;
    layer.out = index == params.layers ? 1 + params.channels : params.hidden;
    const int64_t first = int64_t{params.hidden} * (params.encoding + (params.bias ? 1 : 0));
    const int64_t middle = int64_t{params.hidden} * (params.hidden + (params.bias ? 1 : 0));
    layer.weight = index == 0 ? 0 : first + (index - 1) * middle;
    layer.bias = layer.weight + int64_t{layer.in} * layer.out;
    return layer;
}

LDP_HOST_DEVICE int64_t field_weights(const LatentFieldParams& params) {
    const FieldLayer last = field_layer(params, params.layers);
    return last.bias + (params.bias ? last.out : 0);
}

// World coordinates to [0, 1]: one rounding each, so that every backend finds the same cell.
LDP_HOST_DEVICE float field_unit(float x, float bound) { return div_rn(add_rn(x, bound), 2.0f * bound); }

LDP_HOST_DEVICE float field_blob(const LatentFieldParams& params, float x, float y, float z) {
    if (params.blob_strength == 0.0f) return 0.0f;
    return params.blob_strength * expf(-(x * x + y * y + z * z) / (2.0f * params.blob_std * params.blob_std));
}

// Truncated exponential. Forward: the exponent stops at 80, where float32 is still finite. Backward: at 15 on both
// sides, as in torch-ngp, so that a density that ran away can come back. Comparisons let NaN through.
LDP_HOST_DEVICE float field_density(float exponent) { return expf(exponent > 80.0f ? 80.0f : exponent); }

LDP_HOST_DEVICE float field_density_slope(float exponent) {
    return expf(exponent > 15.0f ? 15.0f : exponent < -15.0f ? -15.0f : exponent);
}

LDP_HOST_DEVICE float field_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

LDP_HOST_DEVICE float field_relu(float x) { return x < 0.0f ? 0.0f : x; }

// Forward, CPU: latent_field_cpu.cpp. `grid` is that of the encoding; its positions and count are taken from params.
void latent_field_cpu(const LatentFieldParams& params, const HashGridParams& grid,
                      float* density,    // [S]
                      float* latents,    // [S, C]
                      float* encoding);  // [S, E]

void latent_field_backward_cpu(const LatentFieldParams& params, const float* grad_density, const float* grad_latents,
                               const float* encoding,
                               float* grad_encoding,    // [S, E]
                               float* grad_weights,     // [P]
                               float* grad_positions);  // [S, 3], through the blob only

// CUDA: latent_field_fwd.cu, latent_field_bwd.cu. Beside the outputs they need the weights in another layout, and the
// backward sums of their gradients, one for each block: as many blocks run as there is room for.
struct FieldWorkspace {
    float* data;
    int64_t floats;
};

#if defined(USE_CUDA) || defined(LDP_CUDA_ON_CPU)
void latent_field_cuda(const LatentFieldParams& params, const HashGridParams& grid, const FieldWorkspace& workspace,
                       float* density, float* latents,
                       void* encoding,  // [S, E] float, or half if params.half
                       cudaStream_t stream);

void latent_field_backward_cuda(const LatentFieldParams& params, const FieldWorkspace& workspace,
                                const float* grad_density, const float* grad_latents, const void* encoding,
                                float* grad_encoding, float* grad_weights, float* grad_positions, cudaStream_t stream);

// Floats that either needs on the current device; of params encoding, hidden, layers, channels, bias and size are read.
int64_t latent_field_workspace_cuda(const LatentFieldParams& params, bool backward);
#endif

}  // namespace ldp

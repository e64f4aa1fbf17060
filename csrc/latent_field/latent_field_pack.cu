// Lays the flat weights out as the field's kernels read them (FieldPack). Reads P floats, writes the pack; a few
// kilobytes.
#include <ldp/launch.h>

#include "latent_field_cuda.h"

namespace ldp {
namespace {

constexpr int kThreads = 256;

template <bool kHalfWeights>
__global__ void __launch_bounds__(kThreads) field_pack_kernel(LatentFieldParams params, FieldPack pack, float* packed) {
    const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
    if (i >= pack.floats()) return;
    const bool is_bias = i >= pack.weights();
    int l = 0;
    while (l < pack.layers && i >= (is_bias ? pack.weights() + pack.bias(l + 1) : pack.weight(l + 1))) ++l;
    const FieldLayer layer = field_layer(params, l);
    if (is_bias) {
        const int unit = i - pack.weights() - pack.bias(l);
        const bool there = unit < layer.out;
        float* const biases = kHalfWeights ? packed + pack.weights() / 2 : packed + pack.weights();
        biases[i - pack.weights()] = there ? params.weights[layer.bias + unit] : 0.0f;
        return;
    }
    const int out = (i - pack.weight(l)) / pack.stride(l), in = (i - pack.weight(l)) % pack.stride(l);
    const bool there = out < layer.out && in < layer.in;
    const float weight = there ? params.weights[layer.weight + int64_t{out} * layer.in + in] : 0.0f;
    if (kHalfWeights)
        reinterpret_cast<half*>(packed)[i] = to_half(weight);
    else
        packed[i] = params.half ? to_float(to_half(weight)) : weight;
}

}  // namespace

void field_pack_cuda(const LatentFieldParams& params, const FieldPack& pack, bool half_weights, float* packed,
                     cudaStream_t stream) {
    const int blocks = ceil_div(pack.floats(), kThreads);
    if (half_weights)
        LDP_LAUNCH((field_pack_kernel<true>), blocks, kThreads, 0, stream, params, pack, packed);
    else
        LDP_LAUNCH((field_pack_kernel<false>), blocks, kThreads, 0, stream, params, pack, packed);
}

}  // namespace ldp

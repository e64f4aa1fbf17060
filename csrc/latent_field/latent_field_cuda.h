// What the field's CUDA kernels share: how weights are packed for them, and products of tiles.
//
// A product is A B^T on a warp's tile of 16 samples. The two neighbouring columns 2j, 2j + 1 of a row that a lane holds
// of a result are also what it feeds to the next layer's product: the sum over k may be taken in any order, so k runs
// through the columns in the order in which results lie in the lanes, and activations need not change lanes.
#pragma once

#include <ldp/launch.h>
#include <ldp/warp.h>

#include "latent_field.h"

namespace ldp {

// Weights as the kernels read them: layer by layer W [out, in + 8], both padded with zeros (in to a multiple of 16; the
// 8 make rows begin in different banks), then all the biases, float32, if there are any.
struct FieldPack {
    int layers;   // hidden ones
    int inputs;   // E, to a multiple of 16
    int units;    // H, to 16, 32, 64 or 128
    int outputs;  // 1 + C, to a multiple of 8
    bool biased;  // whether there are biases

    LDP_HOST_DEVICE int in(int l) const { return l == 0 ? inputs : units; }
    LDP_HOST_DEVICE int out(int l) const { return l == layers ? outputs : units; }
    LDP_HOST_DEVICE int stride(int l) const { return in(l) + 8; }
    LDP_HOST_DEVICE int weight(int l) const {
        return l == 0 ? 0 : units * (inputs + 8) + (l - 1) * units * (units + 8);
    }
    LDP_HOST_DEVICE int bias(int l) const { return l * units; }  // from the start of the biases
    LDP_HOST_DEVICE int weights() const { return weight(layers) + outputs * (units + 8); }
    LDP_HOST_DEVICE int biases() const { return biased ? layers * units + outputs : 0; }
    LDP_HOST_DEVICE int floats() const { return weights() + biases(); }
    LDP_HOST_DEVICE int bytes(bool half_weights) const { return weights() * (half_weights ? 2 : 4) + biases() * 4; }
};

inline FieldPack field_pack(const LatentFieldParams& params) {
    FieldPack pack{};
    pack.layers = params.layers;
    pack.inputs = ceil_div(params.encoding, 16) * 16;
    pack.units = 16;
    while (pack.units < params.hidden) pack.units *= 2;
    pack.outputs = ceil_div(1 + params.channels, 8) * 8;
    pack.biased = params.bias;
    return pack;
}

__device__ __forceinline__ int64_t field_count(const LatentFieldParams& params) {
    return params.count != nullptr ? smaller(*params.count, params.size) : params.size;
}

// The three kinds of product. A and B are a lane's fragments for one step of kDepth along k.

template <typename FloatA, typename FloatB>
struct FloatOperands {
    using Weight = float;
    using A = FloatA;
    using B = FloatB;
    static constexpr int kDepth = 8;

    // Columns 2j, 2j + 1 of the lane's upper and lower row.
    static __device__ __forceinline__ void set(A& a, int /*pair*/, float2 upper, float2 lower) {
        a.set(0, upper.x);
        a.set(1, lower.x);
        a.set(2, upper.y);
        a.set(3, lower.y);
    }
    static __device__ __forceinline__ B load(const float* weights) {
        const float2 pair = load_as<float2>(weights);
        B b;
        b.set(0, pair.x);
        b.set(1, pair.y);
        return b;
    }
};

// Float32 numbers, as three products of tf32 parts.
struct FloatProducts : FloatOperands<SplitA, SplitB> {
    static constexpr bool kHalf = false;

    template <int n>
    static __device__ __forceinline__ void multiply(FragmentC* c, const A& a, const B (&b)[n]) {
        mma_m16n8k8(c, a, b);
    }
};

// Float16 numbers.
struct HalfProducts {
    using Weight = half;
    using A = FragmentA<half>;
    using B = FragmentB<half>;
    static constexpr int kDepth = 16;
    static constexpr bool kHalf = true;

    static __device__ __forceinline__ void set(A& a, int pair, float2 upper, float2 lower) {
        a.pairs[2 * pair] = to_half2(upper.x, upper.y);
        a.pairs[2 * pair + 1] = to_half2(lower.x, lower.y);
    }
    static __device__ __forceinline__ B load(const half* weights) {
        B b;
        b.pairs[0] = load_as<half2>(weights);
        b.pairs[1] = load_as<half2>(weights + 8);
        return b;
    }
    template <int n>
    static __device__ __forceinline__ void multiply(FragmentC* c, const A& a, const B (&b)[n]) {
#pragma unroll
        for (int i = 0; i < n; ++i) mma_m16n8k16(c[i], a, b[i]);
    }
};

template <typename Fragment>
struct Rounded {
    Fragment fragment;

    __device__ __forceinline__ void set(int i, float value) { fragment.elements[i] = to_tf32(value); }
};

// Gradients of half products: float16 numbers are tf32 numbers, and gradients, rounded to tf32, have as many bits but
// float32's range. So nothing underflows, and no loss has to be scaled.
struct TensorFloatProducts : FloatOperands<Rounded<FragmentA<float>>, Rounded<FragmentB<float>>> {
    static constexpr bool kHalf = true;

    template <int n>
    static __device__ __forceinline__ void multiply(FragmentC* c, const A& a, const B (&b)[n]) {
#pragma unroll
        for (int i = 0; i < n; ++i) mma_m16n8k8(c[i], a.fragment, b[i].fragment);
    }
};

// The biases of 8 * kTiles units, as a result's start; zeros without.
template <int kTiles>
__device__ __forceinline__ void field_start(FragmentC (&sums)[kTiles], const float* bias) {
    const int column = FragmentC::col(lane_id(), 0);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        const float2 start = bias != nullptr ? load_as<float2>(bias + t * 8 + column) : make_float2(0.0f, 0.0f);
        sums[t].elements[0] = sums[t].elements[2] = start.x;
        sums[t].elements[1] = sums[t].elements[3] = start.y;
    }
}

// Of so many tiles, those whose products are taken side by side.
LDP_HOST_DEVICE constexpr int field_group(int tiles) { return tiles % 4 == 0 ? 4 : tiles % 2 == 0 ? 2 : 1; }

// One step along k, for 8 * kTiles units: `weights` is row 0 of those at column 0 of the step.
template <typename P, int kTiles>
__device__ __forceinline__ void field_step(FragmentC (&sums)[kTiles], const typename P::A& a,
                                           const typename P::Weight* weights, int stride) {
    const int lane = lane_id();
    const typename P::Weight* const own = weights + FragmentB<float>::col(lane, 0) * stride + FragmentC::col(lane, 0);
    constexpr int kGroup = field_group(kTiles);
#pragma unroll
    for (int t = 0; t < kTiles; t += kGroup) {
        typename P::B b[kGroup];
#pragma unroll
        for (int i = 0; i < kGroup; ++i) b[i] = P::load(own + (t + i) * 8 * stride);
        P::multiply(sums + t, a, b);
    }
}

// Copies 16-byte words with all threads of the block. The caller synchronises.
__device__ __forceinline__ void field_stage(float* to, const float* from, int bytes) {
    for (int i = static_cast<int>(threadIdx.x); i < bytes / 16; i += static_cast<int>(blockDim.x))
        store_as(to + i * 4, load_as<float4>(from + i * 4));
}

// Writes the pack: half weights for HalfProducts, float ones else (rounded to float16 where params.half).
// latent_field_pack.cu
void field_pack_cuda(const LatentFieldParams& params, const FieldPack& pack, bool half_weights, float* packed,
                     cudaStream_t stream);

}  // namespace ldp

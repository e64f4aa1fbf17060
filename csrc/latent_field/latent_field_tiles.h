// Products of the field's backward: on tiles of activations and gradients in shared memory, one row a sample.
#pragma once

#include "latent_field_cuda.h"

namespace ldp {

// Results of 8 * kTiles units of this warp's samples, from their inputs in a tile.
template <typename P, int kTiles>
__device__ __forceinline__ void forward_units(FragmentC (&sums)[kTiles], const float* input, int stride, int depth,
                                              const float* weights, const float* bias) {
    const int lane = lane_id();
    const float* const upper = input + FragmentC::row(lane, 0) * stride + FragmentC::col(lane, 0);
    field_start(sums, bias);
    for (int k = 0; k < depth; k += 8) {
        typename P::A a;
        P::set(a, 0, load_as<float2>(upper + k), load_as<float2>(upper + 8 * stride + k));
        field_step<P>(sums, a, weights + k, stride);
    }
}

// The same with W instead of W^T: gradients of 8 * kTiles inputs. `weights` is at the first of them in row 0.
template <typename P, int kTiles>
__device__ __forceinline__ void backward_units(FragmentC (&sums)[kTiles], const float* grad, int grad_stride, int depth,
                                               const float* weights, int stride) {
    const int lane = lane_id(), pair = FragmentC::col(lane, 0);
    const float* const upper = grad + FragmentC::row(lane, 0) * grad_stride + pair;
    const float* const own = weights + pair * stride + FragmentB<float>::col(lane, 0);
    field_start(sums, nullptr);
    for (int k = 0; k < depth; k += 8) {
        typename P::A a;
        P::set(a, 0, load_as<float2>(upper + k), load_as<float2>(upper + 8 * grad_stride + k));
        constexpr int kGroup = field_group(kTiles);
#pragma unroll
        for (int t = 0; t < kTiles; t += kGroup) {
            typename P::B b[kGroup];
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
                b[i].set(0, own[k * stride + (t + i) * 8]);
                b[i].set(1, own[(k + 1) * stride + (t + i) * 8]);
            }
            P::multiply(sums + t, a, b);
        }
    }
}

// Adds grad^T activation over the block's samples to a 16 x 8 kTiles part of the weight gradient.
template <typename P, int kTiles>
__device__ __forceinline__ void weight_gradient(const float* grad, int grad_stride, const float* activation, int stride,
                                                int rows, float* to, int out_rows) {
    const int lane = lane_id();
    FragmentC sums[kTiles];
    field_start(sums, nullptr);
    for (int k = 0; k < rows; k += 8) {
        typename P::A a;
#pragma unroll
        for (int i = 0; i < FragmentA<float>::kElements; ++i)
            a.set(i, grad[(k + FragmentA<float>::col(lane, i)) * grad_stride + FragmentA<float>::row(lane, i)]);
        constexpr int kGroup = field_group(kTiles);
#pragma unroll
        for (int t = 0; t < kTiles; t += kGroup) {
            typename P::B b[kGroup];
#pragma unroll
            for (int j = 0; j < kGroup; ++j)
#pragma unroll
                for (int i = 0; i < FragmentB<float>::kElements; ++i)
                    b[j].set(i, activation[(k + FragmentB<float>::row(lane, i)) * stride + (t + j) * 8 +
                                           FragmentB<float>::col(lane, i)]);
            P::multiply(sums + t, a, b);
        }
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int i = 0; i < FragmentC::kElements; i += 2) {
            const int row = FragmentC::row(lane, i);
            if (row >= out_rows) continue;
            float* const at = to + row * stride + t * 8 + FragmentC::col(lane, i);
            const float2 before = load_as<float2>(at);
            store_as(at, make_float2(before.x + sums[t].elements[i], before.y + sums[t].elements[i + 1]));
        }
}

// One chunk of 8 * kTiles hidden units of this warp, forward.
template <typename P, int kTiles>
__device__ __forceinline__ void hidden_chunk(const float* input, int stride, int depth, const float* weights,
                                             const float* bias, float* out, int out_stride) {
    const int lane = lane_id();
    FragmentC sums[kTiles];
    forward_units<P>(sums, input, stride, depth, weights, bias);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int i = 0; i < FragmentC::kElements; i += 2) {
            float2 pair = make_float2(field_relu(sums[t].elements[i]), field_relu(sums[t].elements[i + 1]));
            if (P::kHalf) pair = to_float2(to_half2(pair.x, pair.y));
            store_as(out + FragmentC::row(lane, i) * out_stride + t * 8 + FragmentC::col(lane, i), pair);
        }
}

// One chunk of the gradient of a hidden layer's activations, which give way to it.
template <typename P, int kTiles>
__device__ __forceinline__ void masked_chunk(const float* grad, int grad_stride, int depth, const float* weights,
                                             int stride, float* activation) {
    const int lane = lane_id();
    FragmentC sums[kTiles];
    backward_units<P>(sums, grad, grad_stride, depth, weights, stride);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int i = 0; i < FragmentC::kElements; i += 2) {
            float* const at = activation + FragmentC::row(lane, i) * stride + t * 8 + FragmentC::col(lane, i);
            const float2 value = load_as<float2>(at);
            store_as(at, make_float2(value.x <= 0.0f ? 0.0f : sums[t].elements[i],
                                     value.y <= 0.0f ? 0.0f : sums[t].elements[i + 1]));
        }
}

}  // namespace ldp

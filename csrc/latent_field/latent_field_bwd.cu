// The field's backward. A block takes 16 samples a warp, computes the network again from the saved encodings and keeps
// every activation of these samples in a tile of shared memory; then, layer by layer from the last, the block's warps
// share out the weight gradient (a product over samples, so across warps), and each warp replaces its own samples'
// activations by their gradients. Reads the encodings, writes their gradient: 8 E bytes a sample.
//
// Weight gradients: each element belongs to one lane of the block, which adds to the block's sum in shared memory (in
// global memory where that is full), tile after tile; a second kernel adds the blocks' sums in a fixed order. No
// atomics: the same bits from run to run on the same device.
#include <ldp/launch.h>

#include "latent_field_cuda.h"
#include "latent_field_plan.h"
#include "latent_field_tiles.h"

namespace ldp {
namespace {

constexpr int kWarpRows = kFieldWarpRows, kOutputStride = kFieldOutputStride;

struct Inputs {
    const float* density;  // gradients: [S]
    const float* latents;  // [S, C]
    const void* encoding;  // [S, E]
};

struct Gradients {
    float* encoding;   // [S, E]
    float* positions;  // [S, 3]
    float* sums;       // [blocks, pack.floats()]
};

LDP_HOST_DEVICE int tile_stride(const FieldPack& pack, int l) {
    return l > pack.layers ? kOutputStride : pack.stride(l);
}

// Loads this warp's encodings into its rows of tile 0; padding is zero.
template <bool kHalf>
__device__ __forceinline__ void load_encodings(const LatentFieldParams& params, const FieldPack& pack,
                                               const void* encoding, int64_t first, int64_t count, float* tile) {
    for (int i = lane_id(); i < kWarpRows * pack.inputs; i += kWarp) {
        const int row = i / pack.inputs, column = i % pack.inputs;
        const int64_t at = (first + row) * params.encoding + column;
        const bool there = first + row < count && column < params.encoding;
        float value = 0.0f;
        if (there)
            value = kHalf ? to_float(static_cast<const half*>(encoding)[at]) : static_cast<const float*>(encoding)[at];
        tile[row * pack.stride(0) + column] = value;
    }
}

// Replaces the outputs h of tile number t by their gradients; the blob's gradient goes out.
__device__ __forceinline__ void differentiate(const LatentFieldParams& params, const Inputs& in, FragmentC& h,
                                              int64_t first, int64_t count, int tile, float* grad_positions) {
    const int lane = lane_id();
#pragma unroll
    for (int i = 0; i < FragmentC::kElements; ++i) {
        const int64_t row = first + FragmentC::row(lane, i);
        const int column = tile * 8 + FragmentC::col(lane, i);
        const float value = h.elements[i];
        float grad = 0.0f;
        if (row < count && column == 0) {
            const float* const x = params.positions + row * 3;
            const float blob = field_blob(params, x[0], x[1], x[2]);
            grad = in.density[row] * field_density_slope(value + blob);
            const bool none = params.blob_strength == 0.0f;
            const float slope = none ? 0.0f : grad * (-blob / (params.blob_std * params.blob_std));
            for (int d = 0; d < 3; ++d) grad_positions[row * 3 + d] = none ? 0.0f : slope * x[d];
        } else if (row < count && column <= params.channels) {
            grad = in.latents[row * params.channels + column - 1];
            if (params.sigmoid) {
                const float y = field_sigmoid(value);
                grad = grad * y * (1.0f - y);
            }
        } else if (row < params.size && column == 0) {
            for (int d = 0; d < 3; ++d) grad_positions[row * 3 + d] = 0.0f;
        }
        h.elements[i] = grad;
    }
}

// Two tiles of the gradient of the encodings.
template <typename P>
__device__ __forceinline__ void encoding_chunk(const LatentFieldParams& params, const float* grad, int grad_stride,
                                               int depth, const float* weights, int stride, int column, int64_t first,
                                               int64_t count, float* grad_encoding) {
    const int lane = lane_id();
    FragmentC sums[2];
    backward_units<P>(sums, grad, grad_stride, depth, weights, stride);
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
        for (int i = 0; i < FragmentC::kElements; i += 2) {
            const int64_t row = first + FragmentC::row(lane, i);
            const int at = column + t * 8 + FragmentC::col(lane, i);
            if (row >= params.size || at >= params.encoding) continue;
            float2 pair = make_float2(sums[t].elements[i], sums[t].elements[i + 1]);
            if (row >= count) pair = make_float2(0.0f, 0.0f);
            float* const to = grad_encoding + row * params.encoding + at;
            if (params.encoding % 2 == 0) {
                store_as(to, pair);
            } else {
                to[0] = pair.x;
                if (at + 1 < params.encoding) to[1] = pair.y;
            }
        }
}

template <typename P, bool kStaged>
__global__ void __launch_bounds__(kFieldMostWarps* kWarp, 1)
    field_backward_kernel(LatentFieldParams params, FieldPack pack, FieldPlan plan, const float* packed, Inputs in,
                          Gradients out) {
    LDP_DYNAMIC_SHARED(float, shared);
    const int warp = static_cast<int>(threadIdx.x) / 32, threads = static_cast<int>(blockDim.x), rows = plan.rows();
    float* const own_sums = out.sums + int64_t{blockIdx.x} * pack.floats();
    float* const sums = plan.sums < 0 ? own_sums : shared + plan.sums;
    for (int i = static_cast<int>(threadIdx.x); i < pack.floats(); i += threads) sums[i] = 0.0f;
    if (kStaged) field_stage(shared + plan.weights, packed, pack.bytes(false));
    const float* const weights = kStaged ? shared + plan.weights : packed;
    const float* const biases = params.bias ? weights + pack.weights() : nullptr;

    __syncthreads();

    const int64_t count = field_count(params), tiles = ceil_div(params.size, rows);
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int64_t first = tile * rows + warp * kWarpRows;
        load_encodings<P::kHalf>(params, pack, in.encoding, first, count,
                                 shared + plan.tile(pack, 0) + warp * kWarpRows * pack.stride(0));
        __syncwarp();
        for (int l = 0; l < pack.layers; ++l) {
            const float* const input = shared + plan.tile(pack, l) + warp * kWarpRows * pack.stride(l);
            float* const output = shared + plan.tile(pack, l + 1) + warp * kWarpRows * pack.stride(l + 1);
            for (int n = 0; n < pack.units;) {
                const float* const w = weights + pack.weight(l) + n * pack.stride(l);
                const float* const b = biases != nullptr ? biases + pack.bias(l) + n : nullptr;
                const bool wide = pack.units - n >= 32;
                if (wide)
                    hidden_chunk<P, 4>(input, pack.stride(l), pack.in(l), w, b, output + n, pack.stride(l + 1));
                else
                    hidden_chunk<P, 2>(input, pack.stride(l), pack.in(l), w, b, output + n, pack.stride(l + 1));
                n += wide ? 32 : 16;
            }
            __syncwarp();
        }
        {
            const int l = pack.layers, lane = lane_id();
            const float* const input = shared + plan.tile(pack, l) + warp * kWarpRows * pack.stride(l);
            float* const output = shared + plan.tile(pack, l + 1) + warp * kWarpRows * kOutputStride;
            for (int t = 0; t < 2; ++t) {
                FragmentC h[1];
                h[0].fill(0.0f);
                if (t * 8 < pack.outputs) {
                    forward_units<P>(h, input, pack.stride(l), pack.in(l),
                                     weights + pack.weight(l) + t * 8 * pack.stride(l),
                                     biases != nullptr ? biases + pack.bias(l) + t * 8 : nullptr);
                    differentiate(params, in, h[0], first, count, t, out.positions);
                }
                for (int i = 0; i < FragmentC::kElements; ++i)
                    output[FragmentC::row(lane, i) * kOutputStride + t * 8 + FragmentC::col(lane, i)] =
                        h[0].elements[i];
            }
        }
        for (int l = pack.layers; l >= 0; --l) {
            __syncthreads();
            const float* const grad = shared + plan.tile(pack, l + 1);
            float* const activation = shared + plan.tile(pack, l);
            const int grad_stride = tile_stride(pack, l + 1), stride = pack.stride(l);
            const bool wide = pack.in(l) % 32 == 0;
            const int columns = wide ? 32 : 16, across = pack.in(l) / columns,
                      parts = ceil_div(pack.out(l), 16) * across;
            for (int part = warp; part < parts; part += plan.warps) {
                const int m = part / across * 16, n = part % across * columns;
                float* const to = sums + pack.weight(l) + m * stride + n;
                if (wide)
                    weight_gradient<P, 4>(grad + m, grad_stride, activation + n, stride, rows, to, pack.out(l) - m);
                else
                    weight_gradient<P, 2>(grad + m, grad_stride, activation + n, stride, rows, to, pack.out(l) - m);
            }
            if (params.bias)
                for (int n = static_cast<int>(threadIdx.x); n < pack.out(l); n += threads) {
                    float sum = 0.0f;
                    for (int r = 0; r < rows; ++r) sum += grad[r * grad_stride + n];
                    sums[pack.weights() + pack.bias(l) + n] += sum;
                }
            // From here to the next round's weight gradients a warp touches no other's rows.
            __syncthreads();
            const float* const own_grad = grad + warp * kWarpRows * grad_stride;
            float* const own = activation + warp * kWarpRows * stride;
            const float* const w = weights + pack.weight(l);
            if (l == 0) {
                for (int n = 0; n < pack.inputs; n += 16)
                    encoding_chunk<P>(params, own_grad, grad_stride, pack.out(0), w + n, stride, n, first, count,
                                      out.encoding);
            } else if (wide) {
                for (int n = 0; n < pack.units; n += 32)
                    masked_chunk<P, 4>(own_grad, grad_stride, pack.out(l), w + n, stride, own + n);
            } else {
                masked_chunk<P, 2>(own_grad, grad_stride, pack.out(l), w, stride, own);
            }
        }
    }
    if (plan.sums < 0) return;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < pack.floats(); i += threads) own_sums[i] = sums[i];
}

constexpr int kWeights = 32, kSlices = 8;

// Adds the blocks' sums: slices of the blocks side by side, then the slices, always in the same order.
__global__ void __launch_bounds__(kWeights* kSlices)
    field_sum_kernel(LatentFieldParams params, FieldPack pack, const float* sums, int blocks, float* grad_weights) {
    LDP_SHARED(float, slices, kSlices* kWeights);
    const int lane = static_cast<int>(threadIdx.x) % kWeights, slice = static_cast<int>(threadIdx.x) / kWeights;
    const int64_t p = int64_t{blockIdx.x} * kWeights + lane, total = field_weights(params);
    int l = 0;
    while (l < params.layers && p >= field_layer(params, l + 1).weight) ++l;
    const FieldLayer layer = field_layer(params, l);
    const auto place = static_cast<int>(p - layer.weight);
    const int at = p >= layer.bias ? pack.weights() + pack.bias(l) + static_cast<int>(p - layer.bias)
                                   : pack.weight(l) + place / layer.in * pack.stride(l) + place % layer.in;
    float sum = 0.0f;
    if (p < total)
        for (int b = slice; b < blocks; b += kSlices) sum += sums[int64_t{b} * pack.floats() + at];
    slices[slice * kWeights + lane] = sum;
    __syncthreads();
    if (slice != 0 || p >= total) return;
    for (int s = 1; s < kSlices; ++s) sum += slices[s * kWeights + lane];
    grad_weights[p] = sum;
}

template <typename P, bool kStaged>
int backward_blocks(const LatentFieldParams& params, const FieldPack& pack, const FieldPlan& plan, int64_t room,
                    const float* packed, const Inputs& in, const Gradients& out, cudaStream_t stream) {
    const auto kernel = &field_backward_kernel<P, kStaged>;
    const int threads = plan.warps * kWarp;
    const size_t bytes = size_t{4} * plan.size;
    prefer_shared(kernel);
    const auto blocks =
        blocks_for(smaller<int64_t>(room, ceil_div(params.size, plan.rows())), kernel, threads, bytes, 1);
    LDP_LAUNCH((field_backward_kernel<P, kStaged>), blocks, threads, bytes, stream, params, pack, plan, packed, in,
               out);
    return static_cast<int>(blocks);
}

template <typename P>
void backward(const LatentFieldParams& params, const FieldWorkspace& workspace, const Inputs& in, Gradients out,
              float* grad_weights, cudaStream_t stream) {
    const FieldPack pack = field_pack(params);
    const int64_t room = workspace.floats / pack.floats() - 1;
    if (room < 1)
        throw std::runtime_error("latent_field_backward: workspace: expected " + std::to_string(2 * pack.floats()) +
                                 " floats or more, got " + std::to_string(workspace.floats));
    field_pack_cuda(params, pack, false, workspace.data, stream);
    const FieldPlan plan = field_plan(pack, device_limits());
    out.sums = workspace.data + pack.floats();
    const auto start = plan.weights >= 0 ? &backward_blocks<P, true> : &backward_blocks<P, false>;
    const int blocks = start(params, pack, plan, room, workspace.data, in, out, stream);
    const auto sum_blocks = static_cast<int>(ceil_div(field_weights(params), kWeights));
    LDP_LAUNCH(field_sum_kernel, sum_blocks, kWeights * kSlices, 0, stream, params, pack, out.sums, blocks,
               grad_weights);
}

}  // namespace

void latent_field_backward_cuda(const LatentFieldParams& params, const FieldWorkspace& workspace,
                                const float* grad_density, const float* grad_latents, const void* encoding,
                                float* grad_encoding, float* grad_weights, float* grad_positions, cudaStream_t stream) {
    const Inputs in{grad_density, grad_latents, encoding};
    const Gradients out{grad_encoding, grad_positions, nullptr};
    if (params.half)
        backward<TensorFloatProducts>(params, workspace, in, out, grad_weights, stream);
    else
        backward<FloatProducts>(params, workspace, in, out, grad_weights, stream);
}

int64_t latent_field_workspace_cuda(const LatentFieldParams& params, bool backward) {
    return latent_field_workspace(params, device_limits(), backward);
}

}  // namespace ldp

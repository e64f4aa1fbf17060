// The field's forward in one kernel. A warp takes 16 samples. Each lane gathers, from the table, just those pairs of
// features that the first product wants from it, writes them out for the backward, and multiplies: encodings go from
// the table to the tensor cores, and activations from layer to layer, through registers alone. Weights lie in shared
// memory, all of them or, where they are too many, one layer's at a time. Reads 12 bytes and 8 L entries a sample;
// writes its encoding, density and latents. Persistent blocks stride over all samples; padding is written as zeros.
#include <ldp/launch.h>

#include "latent_field_cuda.h"
#include "latent_field_encode.h"

namespace ldp {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kRows = 16;
constexpr int kLevelBytes = kMaxLevels * static_cast<int>(sizeof(HashGridLevel));

struct Outputs {
    float* density;  // [S]
    float* latents;  // [S, C]
    void* encoding;  // [S, E] float or half
};

template <bool kHalf>
__device__ __forceinline__ void write_pair(void* encoding, int64_t row, int column, int columns, float2 pair) {
    const int64_t at = row * columns + column;
    if (kHalf) {
        half* const to = static_cast<half*>(encoding) + at;
        if (columns % 2 == 0) {
            if (column < columns) store_as(to, to_half2(pair.x, pair.y));
            return;
        }
        if (column < columns) to[0] = to_half(pair.x);
        if (column + 1 < columns) to[1] = to_half(pair.y);
    } else {
        float* const to = static_cast<float*>(encoding) + at;
        if (columns % 2 == 0) {
            if (column < columns) store_as(to, pair);
            return;
        }
        if (column < columns) to[0] = pair.x;
        if (column + 1 < columns) to[1] = pair.y;
    }
}

template <int kTiles>
__device__ __forceinline__ void rectify(FragmentC (&values)[kTiles]) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int i = 0; i < FragmentC::kElements; ++i) values[t].elements[i] = field_relu(values[t].elements[i]);
}

// A lane's part of a step, of activations in registers.
template <typename P, int kTiles>
__device__ __forceinline__ typename P::A operand(const FragmentC (&values)[kTiles], int step) {
    typename P::A a;
#pragma unroll
    for (int pair = 0; pair < P::kDepth / 8; ++pair) {
        const FragmentC& from = values[step * (P::kDepth / 8) + pair];
        P::set(a, pair, make_float2(from.elements[0], from.elements[1]),
               make_float2(from.elements[2], from.elements[3]));
    }
    return a;
}

template <typename P, int kIn, int kOut>
__device__ __forceinline__ void layer(const FragmentC (&in)[kIn], FragmentC (&out)[kOut],
                                      const typename P::Weight* weights, const float* bias, int depth) {
    constexpr int stride = kIn * 8 + 8;  // pack.stride(l), known to the compiler: addresses take no registers
    field_start(out, bias);
#pragma unroll
    for (int step = 0; step < kIn * 8 / P::kDepth; ++step) {
        // Units that only fill up are zero. And the branch keeps the compiler from fetching weights of later steps
        // ahead, into registers that there are not.
        if (step * P::kDepth >= depth) break;
        field_step<P>(out, operand<P>(in, step), weights + step * P::kDepth, stride);
    }
}

template <typename P>
__device__ __forceinline__ void write_outputs(const LatentFieldParams& params, const Outputs& to, const FragmentC& h,
                                              int64_t first, int64_t count, int tile) {
    const int lane = lane_id();
#pragma unroll
    for (int i = 0; i < FragmentC::kElements; ++i) {
        const int64_t row = first + FragmentC::row(lane, i);
        const int column = tile * 8 + FragmentC::col(lane, i);
        if (row >= params.size || column > params.channels) continue;
        float value = 0.0f;
        if (row < count && column == 0) {
            const float* const x = params.positions + row * 3;
            value = field_density(h.elements[i] + field_blob(params, x[0], x[1], x[2]));
        } else if (row < count) {
            value = params.sigmoid ? field_sigmoid(h.elements[i]) : h.elements[i];
        }
        if (column == 0)
            to.density[row] = value;
        else
            to.latents[row * params.channels + column - 1] = value;
    }
}

// A layer's weights in shared memory; kAll: they are there already, else the block fetches them.
template <typename P, bool kAll>
__device__ __forceinline__ const typename P::Weight* layer_weights(const FieldPack& pack, int l, float* shared,
                                                                   const float* packed) {
    using Weight = typename P::Weight;
    const int first = pack.weight(l), size = pack.out(l) * pack.stride(l);
    if (kAll) return reinterpret_cast<const Weight*>(shared) + first;
    __syncthreads();
    field_stage(shared, reinterpret_cast<const float*>(reinterpret_cast<const Weight*>(packed) + first),
                size * static_cast<int>(sizeof(Weight)));
    __syncthreads();
    return reinterpret_cast<const Weight*>(shared);
}

template <typename P, int kUnits, bool kAll>
__global__ void __launch_bounds__(kThreads, kUnits <= 64 ? 2 : 1)
    field_forward_kernel(LatentFieldParams params, HashGridParams grid, bool pairs, FieldPack pack, const float* packed,
                         Outputs to) {
    constexpr int kTiles = kUnits / 8;
    LDP_SHARED(HashGridLevel, levels, kMaxLevels);
    LDP_DYNAMIC_SHARED(float, shared);
    // Lanes of a warp look up different levels: from the constant bank that would be one after another.
    for (int l = static_cast<int>(threadIdx.x); l < grid.n_levels; l += kThreads) levels[l] = grid.levels[l];
    if (kAll) field_stage(shared, packed, pack.bytes(P::kHalf));
    __syncthreads();
    const auto* const first_weight = reinterpret_cast<const typename P::Weight*>(kAll ? shared : packed);
    const float* const biases = params.bias ? reinterpret_cast<const float*>(first_weight + pack.weights()) : nullptr;

    const int lane = lane_id(), pair_column = FragmentC::col(lane, 0);
    const int64_t count = field_count(params), tiles = ceil_div(params.size, kRows * kWarps);
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        // Warps behind the last sample take part in the barriers, and write nothing.
        const int64_t first = (tile * kWarps + threadIdx.x / 32) * kRows;
        float unit[2][3];
        int64_t rows[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            rows[r] = first + FragmentC::row(lane, 2 * r);
#pragma unroll
            for (int d = 0; d < 3; ++d)
                unit[r][d] = rows[r] < count ? field_unit(params.positions[rows[r] * 3 + d], params.bound) : 0.0f;
        }
        const typename P::Weight* weights = layer_weights<P, kAll>(pack, 0, shared, packed);
        FragmentC hidden[kTiles];
        field_start(hidden, biases);
        for (int step = 0; step < pack.inputs / P::kDepth; ++step) {
            typename P::A a;
#pragma unroll
            for (int pair = 0; pair < P::kDepth / 8; ++pair) {
                const int column = step * P::kDepth + pair * 8 + pair_column;
                float2 encoded[2];
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    encoded[r] =
                        rows[r] < count ? field_encode(grid, levels, unit[r], column, pairs) : make_float2(0.0f, 0.0f);
                    if (rows[r] < params.size)
                        write_pair<P::kHalf>(to.encoding, rows[r], column, params.encoding, encoded[r]);
                }
                P::set(a, pair, encoded[0], encoded[1]);
            }
            field_step<P>(hidden, a, weights + step * P::kDepth, pack.stride(0));
        }
        rectify(hidden);
        for (int l = 1; l < pack.layers; ++l) {
            FragmentC next[kTiles];
            weights = layer_weights<P, kAll>(pack, l, shared, packed);
            layer<P>(hidden, next, weights, biases ? biases + pack.bias(l) : nullptr, params.hidden);
            rectify(next);
#pragma unroll
            for (int t = 0; t < kTiles; ++t) hidden[t] = next[t];
        }
        weights = layer_weights<P, kAll>(pack, pack.layers, shared, packed);
        for (int t = 0; t < pack.outputs / 8; ++t) {
            FragmentC h[1];
            layer<P>(hidden, h, weights + t * 8 * pack.stride(pack.layers),
                     biases ? biases + pack.bias(pack.layers) + t * 8 : nullptr, params.hidden);
            write_outputs<P>(params, to, h[0], first, count, t);
        }
    }
}

template <typename P>
void forward(const LatentFieldParams& params, const HashGridParams& grid, float* packed, const Outputs& to,
             cudaStream_t stream) {
    const FieldPack pack = field_pack(params);
    field_pack_cuda(params, pack, P::kHalf, packed, stream);
    const int all = pack.bytes(P::kHalf);
    const bool pairs = field_encodes_pairs(grid);
    const int64_t work = ceil_div(params.size, kRows * kWarps);
    // A block fetches weights before it begins: no more blocks than run at once.
#define LDP_FIELD_FORWARD(units, all_at_once, bytes)                                                                \
    LDP_LAUNCH((field_forward_kernel<P, units, all_at_once>),                                                       \
               blocks_for(work, field_forward_kernel<P, units, all_at_once>, kThreads, bytes, 1), kThreads, bytes, \
               stream, params, grid, pairs, pack, packed, to)
    // Up to 64 units the largest network has room, even on sm_120.
    switch (pack.units) {
        case 16: LDP_FIELD_FORWARD(16, true, all); break;
        case 32: LDP_FIELD_FORWARD(32, true, all); break;
        case 64: LDP_FIELD_FORWARD(64, true, all); break;
        default:
            if (all + kLevelBytes <= device_limits().shared_per_block)
                LDP_FIELD_FORWARD(128, true, all);
            else
                LDP_FIELD_FORWARD(
                    128, false,
                    pack.units * larger(pack.stride(0), pack.stride(1)) * static_cast<int>(sizeof(typename P::Weight)));
    }
#undef LDP_FIELD_FORWARD
}

}  // namespace

void latent_field_cuda(const LatentFieldParams& params, const HashGridParams& grid, const FieldWorkspace& workspace,
                       float* density, float* latents, void* encoding, cudaStream_t stream) {
    const int64_t needed = field_pack(params).floats();
    if (workspace.floats < needed)
        throw std::runtime_error("latent_field: workspace: expected " + std::to_string(needed) +
                                 " floats or more, got " + std::to_string(workspace.floats));
    if (params.size == 0) return;
    const Outputs to{density, latents, encoding};
    if (params.half)
        forward<HalfProducts>(params, grid, workspace.data, to, stream);
    else
        forward<FloatProducts>(params, grid, workspace.data, to, stream);
}

}  // namespace ldp

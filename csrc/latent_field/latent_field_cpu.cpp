#include <ldp/huge_pages.h>
#include <ldp/parallel.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "latent_field.h"

namespace ldp {
namespace {

constexpr int kTile = 64;  // samples that stay in the cache while they pass through the layers

struct PackedLayer {
    const float* plain;       // [out, in]
    const float* transposed;  // [in, out]
    const float* bias;        // [out], null without
    int in, out;              // padded to multiples of 16
    int depth;                // inputs that are there
    int out_depth;            // outputs that are there
    int out_used;             // the same, up to a multiple of 8
    int64_t offset;           // of plain in the pack, and of its gradient in that of the gradients
    int64_t bias_offset;
};

struct PackedField {
    int layers;
    PackedLayer at[kMaxFieldLayers];
    int64_t gradients;  // floats of the pack of gradients
};

// Tiles [kTile, stride]: the input, every hidden layer, the output.
struct FieldTile {
    const float* input;  // activation[0], or the encodings themselves where they are as wide
    float* activation[kMaxFieldLayers + 1];
    int64_t stride[kMaxFieldLayers + 1];
};

// What becomes of a sum.
enum class Finish {
    kStore,  // c = sum
    kRelu,   // c = relu(sum)
    kMask,   // c = sum where the activation in c is positive, else 0
    kAdd,    // c += sum
};

struct Matrix {
    float* data;
    int64_t stride;  // between rows
};

// A(m, k) = data[m * row + k * step].
struct Factor {
    const float* data;
    int64_t row, step;
};

int up_to(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }

}  // namespace
}  // namespace ldp

#define LDP_BODY "../../latent_field/mlp_cpu.h"
#include <ldp/each_isa.h>

namespace ldp {
namespace {

struct Kernels {
    void (*forward)(const PackedField&, const FieldTile&, int rows);
    void (*backward)(const PackedField&, const FieldTile&, int rows, float* grad_packed, Matrix grad_input);
};

const Kernels& kernels() {
    static const Kernels chosen{LDP_WIDEST(forward), LDP_WIDEST(backward)};
    return chosen;
}

// Both orders of every weight matrix, padded with zeros.
PackedField pack(const LatentFieldParams& params, std::vector<float>& memory) {
    PackedField net{};
    net.layers = params.layers;
    int64_t transposed = 0;
    for (int l = 0; l <= params.layers; ++l) {
        const FieldLayer layer = field_layer(params, l);
        PackedLayer& packed = net.at[l];
        packed.in = up_to(layer.in, 16);
        packed.out = up_to(layer.out, 16);
        packed.depth = layer.in;
        packed.out_depth = layer.out;
        packed.out_used = up_to(layer.out, 8);
        packed.offset = net.gradients;
        packed.bias_offset = packed.offset + int64_t{packed.in} * packed.out;
        net.gradients = packed.bias_offset + packed.out;
        transposed += int64_t{packed.in} * packed.out;
    }
    memory.assign(static_cast<size_t>(net.gradients + transposed), 0.0f);
    float* other = memory.data() + net.gradients;
    for (int l = 0; l <= params.layers; ++l) {
        const FieldLayer layer = field_layer(params, l);
        PackedLayer& packed = net.at[l];
        float* const plain = memory.data() + packed.offset;
        for (int o = 0; o < layer.out; ++o)
            for (int i = 0; i < layer.in; ++i) {
                const float w = params.weights[layer.weight + int64_t{o} * layer.in + i];
                plain[o * packed.in + i] = w;
                other[i * packed.out + o] = w;
            }
        packed.plain = plain;
        packed.transposed = other;
        other += int64_t{packed.in} * packed.out;
        if (!params.bias) continue;
        float* const bias = memory.data() + packed.bias_offset;
        std::copy_n(params.weights + layer.bias, layer.out, bias);
        packed.bias = bias;
    }
    return net;
}

FieldTile tile_of(const PackedField& net, std::vector<float>& memory) {
    FieldTile tile{};
    int64_t width = 0;
    for (int l = 0; l <= net.layers + 1; ++l) {
        tile.stride[l] = l == 0 ? net.at[0].in : net.at[l - 1].out;
        width += tile.stride[l];
    }
    memory.assign(static_cast<size_t>(width * kTile), 0.0f);
    float* at = memory.data();
    for (int l = 0; l <= net.layers + 1; ++l) {
        tile.activation[l] = at;
        at += tile.stride[l] * kTile;
    }
    return tile;
}

// Whether rows of the caller's are laid out as a tile is.
bool fits(const FieldTile& tile, int width, int rows) { return width == tile.stride[0] && rows % 8 == 0; }

// Puts encodings into the tile, zeros below the last; returns the rows to compute.
int fill(FieldTile& tile, const float* encoding, int width, int rows) {
    if (fits(tile, width, rows)) {
        tile.input = encoding;
        return rows;
    }
    tile.input = tile.activation[0];
    const int computed = up_to(rows, 8);
    for (int r = 0; r < computed; ++r) {
        float* const to = tile.activation[0] + r * tile.stride[0];
        if (r < rows)
            std::copy_n(encoding + int64_t{r} * width, width, to);
        else
            std::fill_n(to, width, 0.0f);
    }
    return computed;
}

int64_t live(const LatentFieldParams& params) {
    return params.count != nullptr ? larger<int64_t>(0, smaller(*params.count, params.size)) : params.size;
}

// From the network's outputs h of one sample to their gradients, in place; the blob's gradient to the position.
void differentiate(const LatentFieldParams& params, const float* x, float grad_density, const float* grad_latents,
                   float* h, float* grad_position) {
    const float blob = field_blob(params, x[0], x[1], x[2]);
    h[0] = grad_density * field_density_slope(h[0] + blob);
    for (int c = 0; c < params.channels; ++c) {
        const float y = params.sigmoid ? field_sigmoid(h[1 + c]) : 0.0f;
        h[1 + c] = params.sigmoid ? grad_latents[c] * y * (1.0f - y) : grad_latents[c];
    }
    const float slope = params.blob_strength == 0.0f ? 0.0f : -blob / (params.blob_std * params.blob_std);
    for (int d = 0; d < 3; ++d) grad_position[d] = params.blob_strength == 0.0f ? 0.0f : h[0] * slope * x[d];
}

}  // namespace

void latent_field_cpu(const LatentFieldParams& params, const HashGridParams& grid, float* density, float* latents,
                      float* encoding) {
    const int64_t count = live(params);
    {
        const std::unique_ptr<float[]> unit(new float[static_cast<size_t>(count) * 3]);
        parallel_for(count * 3, 16384, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) unit[i] = field_unit(params.positions[i], params.bound);
        });
        HashGridParams there = grid;
        there.positions = unit.get();
        there.size = count;
        there.count = nullptr;
        hash_grid_cpu(there, encoding);
    }
    std::fill(encoding + count * params.encoding, encoding + params.size * params.encoding, 0.0f);
    std::fill(density + count, density + params.size, 0.0f);
    std::fill(latents + count * params.channels, latents + params.size * params.channels, 0.0f);

    std::vector<float> weights;
    const PackedField net = pack(params, weights);
    parallel_for((count + kTile - 1) / kTile, 16, [&](int64_t begin, int64_t end) {
        std::vector<float> memory;
        FieldTile tile = tile_of(net, memory);
        for (int64_t t = begin; t < end; ++t) {
            const int64_t first = t * kTile;
            const int rows = static_cast<int>(smaller<int64_t>(kTile, count - first));
            kernels().forward(net, tile, fill(tile, encoding + first * params.encoding, params.encoding, rows));
            for (int r = 0; r < rows; ++r) {
                const int64_t s = first + r;
                const float* const x = params.positions + s * 3;
                const float* const h = tile.activation[net.layers + 1] + r * tile.stride[net.layers + 1];
                density[s] = field_density(h[0] + field_blob(params, x[0], x[1], x[2]));
                for (int c = 0; c < params.channels; ++c)
                    latents[s * params.channels + c] = params.sigmoid ? field_sigmoid(h[1 + c]) : h[1 + c];
            }
        }
    });
}

void latent_field_backward_cpu(const LatentFieldParams& params, const float* grad_density, const float* grad_latents,
                               const float* encoding, float* grad_encoding, float* grad_weights,
                               float* grad_positions) {
    const int64_t count = live(params), width = params.encoding;
    prefer_huge_pages(grad_encoding, params.size * width * int64_t{sizeof(float)});
    std::fill(grad_encoding + count * width, grad_encoding + params.size * width, 0.0f);
    std::fill(grad_positions + count * 3, grad_positions + params.size * 3, 0.0f);

    // Weight gradients are summed by chunks whose number depends on the number of samples alone, then chunk by chunk:
    // the same bits for any number of threads.
    constexpr int64_t kChunks = 64;
    const int64_t tiles = (count + kTile - 1) / kTile;
    const int64_t in_chunk = larger<int64_t>(1, (tiles + kChunks - 1) / kChunks);
    const int64_t chunks = (tiles + in_chunk - 1) / in_chunk;
    std::vector<float> weights;
    const PackedField net = pack(params, weights);
    std::vector<float> sums(static_cast<size_t>(net.gradients * chunks), 0.0f);
    parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
        std::vector<float> memory;
        FieldTile tile = tile_of(net, memory);
        std::vector<float> grad_input(static_cast<size_t>(kTile * net.at[0].in));
        const int64_t stride = tile.stride[net.layers + 1];
        for (int64_t t = begin * in_chunk; t < smaller(end * in_chunk, tiles); ++t) {
            const int64_t first = t * kTile;
            const int rows = static_cast<int>(smaller<int64_t>(kTile, count - first));
            const int computed = fill(tile, encoding + first * width, params.encoding, rows);
            kernels().forward(net, tile, computed);
            float* const h = tile.activation[net.layers + 1];
            for (int r = 0; r < rows; ++r) {
                const int64_t s = first + r;
                differentiate(params, params.positions + s * 3, grad_density[s], grad_latents + s * params.channels,
                              h + r * stride, grad_positions + s * 3);
            }
            std::fill(h + rows * stride, h + computed * stride, 0.0f);
            const bool direct = fits(tile, params.encoding, rows);
            float* const grad = direct ? grad_encoding + first * width : grad_input.data();
            kernels().backward(net, tile, computed, sums.data() + t / in_chunk * net.gradients, {grad, net.at[0].in});
            if (direct) continue;
            for (int r = 0; r < rows; ++r)
                std::copy_n(grad_input.data() + int64_t{r} * net.at[0].in, width, grad_encoding + (first + r) * width);
        }
    });

    for (int l = 0; l <= params.layers; ++l) {
        const FieldLayer layer = field_layer(params, l);
        const PackedLayer& packed = net.at[l];
        for (int o = 0; o < layer.out; ++o) {
            for (int i = 0; i < layer.in; ++i) {
                float sum = 0.0f;
                for (int64_t c = 0; c < chunks; ++c)
                    sum += sums[c * net.gradients + packed.offset + int64_t{o} * packed.in + i];
                grad_weights[layer.weight + int64_t{o} * layer.in + i] = sum;
            }
            if (!params.bias) continue;
            float sum = 0.0f;
            for (int64_t c = 0; c < chunks; ++c) sum += sums[c * net.gradients + packed.bias_offset + o];
            grad_weights[layer.bias + o] = sum;
        }
    }
}

}  // namespace ldp

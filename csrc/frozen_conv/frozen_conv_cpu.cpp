#include <ldp/host_device.h>
#include <ldp/huge_pages.h>
#include <ldp/parallel.h>

#include <algorithm>
#include <atomic>

#include "frozen_conv.h"

namespace ldp {
namespace {

constexpr int kPanel = 32;  // output channels whose products of every point stay in the second cache
constexpr int kChunk = 16;  // input channels that lie side by side in the transformed tiles
constexpr int kDepth = 32;  // terms of a sum that are added one by one
constexpr int kPad = 16;    // floats between two points, so that one place of all points lies in as many sets of a cache
constexpr int kMostPixels = 36;

// The weights as a matrix product sees them: the transpose has in and out exchanged and its taps in reverse order.
struct WinogradWeights {
    const float* data;
    int64_t stride_out, stride_in;
    int64_t taps[9];
    int64_t in, out;
};

struct WinogradKernels {
    int points, in, step, out;  // in one direction: products, inputs, distance of tiles in the input, outputs
    bool sums;                  // the products of all points add up to the output
    void (*pack_weights)(const WinogradWeights&, int64_t panel, int64_t first, int64_t last, float* packed);
    void (*transform_input)(const float* const* pixels, int64_t channels, int64_t step, float* transformed);
    void (*multiply_point)(const float* transformed, int64_t tiles, int64_t step, const float* packed, int64_t channels,
                           bool add_to, float* products);
    void (*transform_output)(const float* products, int64_t step, int64_t columns, const float* bias, float* const* to,
                             const float* const* addend);
    void (*activate)(const float* x, const float* scale, const float* shift, int64_t pixels, int64_t channels, float* out);
};

}  // namespace
}  // namespace ldp

#define LDP_BODY "../../frozen_conv/winograd_lanes.h"
#include <ldp/each_isa.h>

namespace ldp {
namespace {

WinogradKernels kernels_for(ConvKind kind) {
    if (kind == ConvKind::kUpsample) return LDP_WIDEST(upsample)();
    if (kind == ConvKind::kUpsampleTransposed) return LDP_WIDEST(upsample_transposed)();
    return LDP_WIDEST(same)();
}

WinogradWeights weights_for(const FrozenConvParams& params) {
    const bool transposed = params.kind == ConvKind::kSameTransposed || params.kind == ConvKind::kUpsampleTransposed;
    WinogradWeights weights{params.weight, params.strides[0], params.strides[1], {}, params.in, params.out_channels};
    if (transposed) std::swap(weights.stride_out, weights.stride_in);
    for (int tap = 0; tap < 9; ++tap) {
        // The upsampling's transposed formula has its own order; see winograd_lanes.h.
        const int from = params.kind == ConvKind::kSameTransposed ? 8 - tap : tap;
        weights.taps[tap] = from / 3 * params.strides[2] + from % 3 * params.strides[3];
    }
    return weights;
}

// How the tiles of the batch are dealt out: blocks of whole rows of tiles.
struct Plan {
    int64_t points;                   // in both directions
    int64_t tile_rows, tile_columns;  // of a sample
    int64_t rows;                     // of tiles, in a block
    int64_t blocks_per_sample, blocks;
    int64_t slots;                                    // threads that have a block
    int64_t panels, packed_point;                     // of the transformed weights, and floats from a point to the next
    int64_t activated, transformed, products, zeros;  // floats of a slot's rooms
    int64_t panel() const { return points * packed_point; }
    int64_t packed() const { return panels * panel(); }
    int64_t slot() const { return activated + transformed + products + zeros; }
    int64_t floats() const { return packed() + slots * slot(); }
};

Plan plan_for(const FrozenConvParams& params, const WinogradKernels& kernels) {
    // With so many tiles the transformed weights, read once for each block, cost little, and the tiles are still in the
    // third cache (5 and 7 MB for 512 channels). Twice as many: 20 % slower at 64 x 64 pixels without huge pages.
    const int64_t most_tiles = kernels.points == 6 ? 64 : 384;
    Plan plan{};
    const bool enlarges = params.kind == ConvKind::kUpsample, shrinks = params.kind == ConvKind::kUpsampleTransposed;
    const int64_t height = shrinks ? params.height / 2 : params.height, width = shrinks ? params.width / 2 : params.width;
    const int64_t side = enlarges || shrinks ? 1 : kernels.out;
    plan.tile_rows = (height + side - 1) / side;
    plan.tile_columns = (width + side - 1) / side;
    const int64_t most = std::clamp<int64_t>(most_tiles / std::max<int64_t>(plan.tile_columns, 1), 1, std::max<int64_t>(plan.tile_rows, 1));
    // The number of rows with which the busiest thread has least to do; the most rows among equals.
    int64_t best = -1;
    for (int64_t rows = most; rows >= 1; --rows) {
        const int64_t blocks = params.batch * ((plan.tile_rows + rows - 1) / rows);
        const int64_t work = (blocks + params.threads - 1) / params.threads * rows;
        if (best < 0 || work < best) {
            best = work;
            plan.rows = rows;
        }
    }
    plan.blocks_per_sample = (plan.tile_rows + plan.rows - 1) / plan.rows;
    plan.blocks = params.batch * plan.blocks_per_sample;
    plan.slots = std::min<int64_t>(params.threads, plan.blocks);
    plan.points = int64_t{kernels.points} * kernels.points;
    const int64_t tiles = plan.rows * plan.tile_columns;
    plan.panels = (params.out_channels + kPanel - 1) / kPanel;
    plan.packed_point = params.in * kPanel + kPad;
    const int64_t input_rows = std::min((plan.rows - 1) * kernels.step + kernels.in, params.height);
    plan.activated = params.scale != nullptr ? input_rows * params.width * params.in : 0;
    plan.transformed = params.in / kChunk * plan.points * (tiles * kChunk + kPad);
    plan.products = (kernels.sums ? 1 : plan.points) * (tiles * kPanel + kPad);
    plan.zeros = params.in;
    return plan;
}

// One block: rows of tiles of one sample.
class Block {
public:
    Block(const FrozenConvParams& params, const WinogradKernels& kernels, const Plan& plan, int64_t index, float* room)
        : params_(params),
          kernels_(kernels),
          plan_(plan),
          sample_(index / plan.blocks_per_sample),
          first_row_(index % plan.blocks_per_sample * plan.rows),
          rows_(std::min(plan.rows, plan.tile_rows - first_row_)),
          columns_(plan.tile_columns),
          tiles_(rows_ * plan.tile_columns),
          input_step_(tiles_ * kChunk + kPad),
          output_step_(tiles_ * kPanel + kPad),
          activated_(room),
          transformed_(room + plan.activated),
          products_(transformed_ + plan.transformed),
          zeros_(products_ + plan.products) {
        const bool enlarges = params.kind == ConvKind::kUpsample, shrinks = params.kind == ConvKind::kUpsampleTransposed;
        out_height_ = enlarges ? 2 * params.height : shrinks ? params.height / 2 : params.height;
        out_width_ = enlarges ? 2 * params.width : shrinks ? params.width / 2 : params.width;
    }

    void transform_inputs() {
        const FrozenConvParams& p = params_;
        std::fill_n(zeros_, p.in, 0.0f);
        // Row 0 of `image` is input row `above`, which may lie outside; only rows of the image are read.
        const float* image = p.x + sample_ * p.height * p.width * p.in;
        if (p.scale != nullptr) {
            const int64_t first = std::max<int64_t>(first_row_ * kernels_.step - 1, 0);
            const int64_t last = std::min((first_row_ + rows_ - 1) * kernels_.step - 1 + kernels_.in, p.height);
            kernels_.activate(image + first * p.width * p.in, p.scale + sample_ * p.in, p.shift + sample_ * p.in,
                              (last - first) * p.width, p.in, activated_);
            image = activated_ - first * p.width * p.in;
        }
        const float* pixels[kMostPixels];
        for (int64_t tile = 0; tile < tiles_; ++tile) {
            const int64_t top = (first_row_ + tile / columns_) * kernels_.step - 1;
            const int64_t left = tile % columns_ * kernels_.step - 1;
            for (int i = 0; i < kernels_.in; ++i)
                for (int j = 0; j < kernels_.in; ++j) {
                    const int64_t y = top + i, x = left + j;
                    const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
                    pixels[i * kernels_.in + j] = inside ? image + (y * p.width + x) * p.in : zeros_;
                }
            kernels_.transform_input(pixels, p.in, input_step_, transformed_ + tile * kChunk);
        }
    }

    void make_outputs(int64_t panel) {
        const FrozenConvParams& p = params_;
        const float* packed = p.workspace + panel * plan_.panel();
        for (int64_t point = 0; point < plan_.points; ++point, packed += plan_.packed_point)
            kernels_.multiply_point(transformed_ + point * input_step_, tiles_, plan_.points * input_step_, packed, p.in,
                                    kernels_.sums && point > 0, products_ + (kernels_.sums ? 0 : point * output_step_));
        const int64_t column = panel * kPanel, columns = std::min<int64_t>(kPanel, p.out_channels - column);
        float* to[kMostPixels];
        const float* addend[kMostPixels];
        for (int64_t tile = 0; tile < tiles_; ++tile) {
            const int64_t top = (first_row_ + tile / columns_) * kernels_.out, left = tile % columns_ * kernels_.out;
            for (int i = 0; i < kernels_.out; ++i)
                for (int j = 0; j < kernels_.out; ++j) {
                    const bool inside = top + i < out_height_ && left + j < out_width_;
                    const int64_t at =
                        ((sample_ * out_height_ + top + i) * out_width_ + left + j) * p.out_channels + column;
                    to[i * kernels_.out + j] = inside ? p.out + at : nullptr;
                    addend[i * kernels_.out + j] = inside && p.addend != nullptr ? p.addend + at : nullptr;
                }
            kernels_.transform_output(products_ + tile * kPanel, output_step_, columns,
                                      p.bias != nullptr ? p.bias + column : nullptr, to, addend);
        }
    }

private:
    const FrozenConvParams& params_;
    const WinogradKernels& kernels_;
    const Plan& plan_;
    int64_t sample_, first_row_, rows_, columns_, tiles_;
    int64_t input_step_, output_step_;  // floats from a point to the next
    float *activated_, *transformed_, *products_, *zeros_;
    int64_t out_height_, out_width_;
};

int64_t out_elements(const FrozenConvParams& params) {
    const int64_t elements = params.batch * params.height * params.width * params.out_channels;
    return params.kind == ConvKind::kUpsample ? 4 * elements : params.kind == ConvKind::kUpsampleTransposed ? elements / 4 : elements;
}

}  // namespace

int64_t frozen_conv_workspace(const FrozenConvParams& params) {
    return plan_for(params, kernels_for(params.kind)).floats();
}

void frozen_conv_cpu(const FrozenConvParams& params) {
    const WinogradKernels kernels = kernels_for(params.kind);
    const Plan plan = plan_for(params, kernels);
    if (plan.blocks == 0 || plan.tile_rows * plan.tile_columns == 0) return;
    // 38 MB for 512 channels, in pages of 4 KB, is a TLB miss with every row of weights: a fifth of the whole time.
    prefer_huge_pages(params.workspace, plan.floats() * int64_t{sizeof(float)});
    prefer_huge_pages(params.out, out_elements(params) * int64_t{sizeof(float)});
    const WinogradWeights weights = weights_for(params);
    const int64_t chunks = params.in / kChunk;
    parallel_for(plan.panels * chunks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            kernels.pack_weights(weights, i / chunks, i % chunks * kChunk, (i % chunks + 1) * kChunk,
                                 params.workspace + i / chunks * plan.panel());
    });
    // A thread that is done takes the next block: one that is held up in between takes fewer.
    std::atomic<int64_t> next{0};
    parallel_for(plan.slots, 1, [&](int64_t begin, int64_t end) {
        for (int64_t slot = begin; slot < end; ++slot)
            for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < plan.blocks;) {
                Block block(params, kernels, plan, index, params.workspace + plan.packed() + slot * plan.slot());
                block.transform_inputs();
                for (int64_t panel = 0; panel < plan.panels; ++panel) block.make_outputs(panel);
            }
    });
}

}  // namespace ldp

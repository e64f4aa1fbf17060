// 3x3 convolutions with frozen weights on a CPU, by Winograd's minimal filtering: what the decoder spends its time on.
//
// A tile of outputs is A^T [(G w G^T) . (B^T d B)] A in both directions of the image, d the tile's inputs; summed over
// input channels, the products of one point are a matrix product [tiles, channels in] x [channels in, channels out].
//
//   kSame                 F(4,3): 6 x 6 points for 4 x 4 outputs, 36 products where the definition has 144
//   kSameTransposed       its gradient to the input: kSame with the weights turned around
//   kUpsample             nearest neighbour x 2, then 3 x 3: 3 x 3 points for 2 x 2 outputs, 9 products instead of 36
//   kUpsampleTransposed   its gradient to the input
//
// Points of F(4,3): 0, +-11/16, +-3/2 and infinity. With the usual 0, +-1, +-2 the error of a float32 result is 3.6 times
// that of a direct convolution, with these 1.6 times (measured on 512 channels). The upsampled tile's points are plain
// differences of neighbours (of Winograd's four products for two outputs one is zero, as two inputs are the same), so
// its error is below the direct one's.
//
// What is not finite in the input shows wherever the definition shows it. The products of kSame and its transpose mix the
// whole tile, so there the rest of the 4 x 4 outputs around it may be hit too, 25 outputs at most where the definition
// has 9, and an infinity may become NaN.
//
// Everything is [B, H, W, channels] (channels last). Channels in and out are multiples of 16.
#pragma once

#include <cstdint>

namespace ldp {

enum class ConvKind { kSame = 0, kSameTransposed = 1, kUpsample = 2, kUpsampleTransposed = 3 };

struct FrozenConvParams {
    ConvKind kind;
    const float* x;        // [B, height, width, in]
    const float* weight;   // of the convolution itself, not of its transpose: [O, I, 3, 3] by strides
    int64_t strides[4];    // of weight, in elements: O, I, rows, columns
    const float* bias;     // [out], null without
    const float* scale;    // [B, in], null without: the input is silu(scale x + shift), never written anywhere
    const float* shift;    // [B, in]
    const float* addend;   // as out, null without
    float* out;            // [B, out_height, out_width, out]
    float* workspace;      // frozen_conv_workspace() floats
    int64_t batch, height, width;  // of x
    int64_t in, out_channels;      // of x and of out
    int threads;
};

// Floats of workspace: the transformed weights, and room for the tiles of every thread.
int64_t frozen_conv_workspace(const FrozenConvParams& params);

void frozen_conv_cpu(const FrozenConvParams& params);

}  // namespace ldp

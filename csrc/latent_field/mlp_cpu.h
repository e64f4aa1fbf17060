// The field's network on one tile of samples, float32. Included once for each instruction set (ldp/each_isa.h), so no
// include guard.
//
// Everything is one product C[m][n] = sum_k A(m, k) B[k][n], vectorised over n:
//   forward          C[sample][unit]  A = activations, B = W^T
//   input gradient   C[sample][input] A = gradients,   B = W
//   weight gradient  C[unit][input]   A = gradients,   B = activations, k = sample
// Tiles are row-major, samples in rows, as the encodings are; units are padded with zeros to multiples of 16.

namespace ldp {
namespace LDP_ISA {

// kRows x kVectors vectors of sums in registers.
template <Finish kFinish, int kRows, int kVectors>
LDP_ALWAYS_INLINE void block(Factor a, const float* b, int64_t b_stride, int depth, const float* bias, float* c,
                             int64_t c_stride) {
    Vec sums[kRows][kVectors];
    for (int v = 0; v < kVectors; ++v) {
        const Vec start = bias != nullptr ? load(bias + v * kLanes) : broadcast(0.0f);
        for (int m = 0; m < kRows; ++m) sums[m][v] = start;
    }
    for (int k = 0; k < depth; ++k) {
        Vec right[kVectors];
        for (int v = 0; v < kVectors; ++v) right[v] = load(b + k * b_stride + v * kLanes);
        for (int m = 0; m < kRows; ++m) {
            const Vec left = broadcast(a.data[m * a.row + k * a.step]);
            for (int v = 0; v < kVectors; ++v) sums[m][v] = multiply_add(left, right[v], sums[m][v]);
        }
    }
    for (int m = 0; m < kRows; ++m)
        for (int v = 0; v < kVectors; ++v) {
            float* const to = c + m * c_stride + v * kLanes;
            Vec sum = sums[m][v];
            if (kFinish == Finish::kRelu) sum = zero_where_negative(sum, sum);
            if (kFinish == Finish::kMask) sum = zero_where_not_positive(sum, load(to));
            if (kFinish == Finish::kAdd) sum = add(sum, load(to));
            store(to, sum);
        }
}

template <Finish kFinish, int kRows, int kVectors>
static void panel(Factor a, int rows, const float* b, int64_t b_stride, int depth, const float* bias, Matrix c) {
    for (int m = 0; m < rows; m += kRows)
        block<kFinish, kRows, kVectors>({a.data + m * a.row, a.row, a.step}, b, b_stride, depth, bias,
                                        c.data + m * c.stride, c.stride);
}

// C [rows, columns]; rows and columns multiples of 8. Sixteen sums or so, for as many as the pipelines hold.
template <Finish kFinish>
static void product(Factor a, int rows, const float* b, int64_t b_stride, int depth, const float* bias, Matrix c,
                    int columns) {
    for (int n = 0; n < columns;) {
        const float* const right = b + n;
        const float* const start = bias != nullptr ? bias + n : nullptr;
        const Matrix to{c.data + n, c.stride};
        if (kLanes == 16 && columns - n >= 64) {
            panel<kFinish, 4, 64 / kLanes>(a, rows, right, b_stride, depth, start, to);
            n += 64;
        } else if (kLanes == 16 && columns - n >= 32) {
            panel<kFinish, 8, 32 / kLanes>(a, rows, right, b_stride, depth, start, to);
            n += 32;
        } else if (columns - n >= 16) {
            panel<kFinish, kLanes / 2, 16 / kLanes>(a, rows, right, b_stride, depth, start, to);
            n += 16;
        } else {
#if LDP_LANES == 16
            avx2::panel<kFinish, 8, 1>(a, rows, right, b_stride, depth, start, to);
#else
            panel<kFinish, kLanes == 8 ? 8 : 4, 8 / kLanes>(a, rows, right, b_stride, depth, start, to);
#endif
            n += 8;
        }
    }
}

// Activations of every layer, from those of layer 0; the last product is the output h.
static void forward(const PackedField& net, const FieldTile& tile, int rows) {
    for (int l = 0; l <= net.layers; ++l) {
        const PackedLayer& layer = net.at[l];
        const Factor input{l == 0 ? tile.input : tile.activation[l], tile.stride[l], 1};
        const Matrix out{tile.activation[l + 1], tile.stride[l + 1]};
        if (l < net.layers)
            product<Finish::kRelu>(input, rows, layer.transposed, layer.out, layer.depth, layer.bias, out, layer.out);
        else
            product<Finish::kStore>(input, rows, layer.transposed, layer.out, layer.depth, layer.bias, out, layer.out_used);
    }
}

// The tile's h has been replaced by its gradient. Each activation gives way to its own gradient once both of its uses
// (the next layer's weight gradient, the ReLU's mask) are over; layer 0's goes to grad_input.
static void backward(const PackedField& net, const FieldTile& tile, int rows, float* grad_packed, Matrix grad_input) {
    for (int l = net.layers; l >= 0; --l) {
        const PackedLayer& layer = net.at[l];
        const float* const grad = tile.activation[l + 1];
        const int64_t stride = tile.stride[l + 1];
        product<Finish::kAdd>({grad, 1, stride}, layer.out_used, l == 0 ? tile.input : tile.activation[l],
                              tile.stride[l], rows, nullptr, {grad_packed + layer.offset, layer.in}, layer.in);
        if (layer.bias != nullptr)
            for (int r = 0; r < rows; ++r)
                for (int n = 0; n < layer.out; ++n) grad_packed[layer.bias_offset + n] += grad[r * stride + n];
        if (l > 0)
            product<Finish::kMask>({grad, stride, 1}, rows, layer.plain, layer.in, layer.out_depth, nullptr,
                                   {tile.activation[l], tile.stride[l]}, layer.in);
        else
            product<Finish::kStore>({grad, stride, 1}, rows, layer.plain, layer.in, layer.out_depth, nullptr,
                                    grad_input, layer.in);
    }
}

}  // namespace LDP_ISA
}  // namespace ldp

// The field's network on one tile of samples, float32. Included once for each instruction set: the includer defines
// LDP_ISA (a namespace) and LDP_LANES (16: AVX-512, 8: AVX2 and FMA, 4: what every machine has), so no include guard.
//
// Everything is one product C[m][n] = sum_k A(m, k) B[k][n], vectorised over n:
//   forward          C[sample][unit]  A = activations, B = W^T
//   input gradient   C[sample][input] A = gradients,   B = W
//   weight gradient  C[unit][input]   A = gradients,   B = activations, k = sample
// Tiles are row-major, samples in rows, as the encodings are; units are padded with zeros to multiples of 16.

namespace ldp {
namespace LDP_ISA {

constexpr int kLanes = LDP_LANES;

#if LDP_LANES == 16
using Vec = __m512;
LDP_ALWAYS_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
LDP_ALWAYS_INLINE void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
LDP_ALWAYS_INLINE Vec broadcast(float x) { return _mm512_set1_ps(x); }
LDP_ALWAYS_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
LDP_ALWAYS_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
LDP_ALWAYS_INLINE Vec zero_where_negative(Vec v, Vec of) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(of, _mm512_setzero_ps(), _CMP_NLT_UQ), v);
}
LDP_ALWAYS_INLINE Vec zero_where_not_positive(Vec v, Vec of) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(of, _mm512_setzero_ps(), _CMP_NLE_UQ), v);
}
#elif LDP_LANES == 8
using Vec = __m256;
LDP_ALWAYS_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
LDP_ALWAYS_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
LDP_ALWAYS_INLINE Vec broadcast(float x) { return _mm256_set1_ps(x); }
LDP_ALWAYS_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
LDP_ALWAYS_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
LDP_ALWAYS_INLINE Vec zero_where_negative(Vec v, Vec of) {
    return _mm256_and_ps(v, _mm256_cmp_ps(of, _mm256_setzero_ps(), _CMP_NLT_UQ));
}
LDP_ALWAYS_INLINE Vec zero_where_not_positive(Vec v, Vec of) {
    return _mm256_and_ps(v, _mm256_cmp_ps(of, _mm256_setzero_ps(), _CMP_NLE_UQ));
}
#elif defined(__GNUC__)
// The compilers' own vectors of four: SSE, NEON. Comparisons with NaN are false, and its lanes have to stay.
typedef float Vec __attribute__((vector_size(16)));
typedef int Mask __attribute__((vector_size(16)));
LDP_ALWAYS_INLINE Vec load(const float* p) {
    Vec v;
    memcpy(&v, p, sizeof(v));
    return v;
}
LDP_ALWAYS_INLINE void store(float* p, Vec v) { memcpy(p, &v, sizeof(v)); }
LDP_ALWAYS_INLINE Vec broadcast(float x) { return Vec{x, x, x, x}; }
LDP_ALWAYS_INLINE Vec add(Vec a, Vec b) { return a + b; }
LDP_ALWAYS_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }
LDP_ALWAYS_INLINE Vec zero_where_negative(Vec v, Vec of) { return (Vec)((Mask)v & ~(Mask)(of < broadcast(0.0f))); }
LDP_ALWAYS_INLINE Vec zero_where_not_positive(Vec v, Vec of) { return (Vec)((Mask)v & ~(Mask)(of <= broadcast(0.0f))); }
#else
// Plain loops of four, for compilers without such vectors.
struct Vec {
    float at[4];
};
LDP_ALWAYS_INLINE Vec load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
LDP_ALWAYS_INLINE void store(float* p, Vec v) {
    for (int i = 0; i < 4; ++i) p[i] = v.at[i];
}
LDP_ALWAYS_INLINE Vec broadcast(float x) { return {{x, x, x, x}}; }
LDP_ALWAYS_INLINE Vec add(Vec a, Vec b) {
    for (int i = 0; i < 4; ++i) a.at[i] += b.at[i];
    return a;
}
LDP_ALWAYS_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
    for (int i = 0; i < 4; ++i) c.at[i] += a.at[i] * b.at[i];
    return c;
}
LDP_ALWAYS_INLINE Vec zero_where_negative(Vec v, Vec of) {
    for (int i = 0; i < 4; ++i) v.at[i] = of.at[i] < 0.0f ? 0.0f : v.at[i];
    return v;
}
LDP_ALWAYS_INLINE Vec zero_where_not_positive(Vec v, Vec of) {
    for (int i = 0; i < 4; ++i) v.at[i] = of.at[i] <= 0.0f ? 0.0f : v.at[i];
    return v;
}
#endif

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

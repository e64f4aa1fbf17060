// The parts of a Winograd convolution that are vectorised, for one instruction set (ldp/each_isa.h; no include guard).

namespace ldp {
namespace LDP_ISA {

// Signals are transformed in one direction at a time. Vectors run over channels.
struct Same {
    static constexpr int kPoints = 6, kIn = 6, kStep = 4, kOut = 4;
    static constexpr bool kSums = false;
    static constexpr float kA = 0.6875f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;

    LDP_ALWAYS_INLINE void input(const Vec* d, Vec* v) {
        const Vec both = broadcast(kA2 * kB2), sum = broadcast(-(kA2 + kB2));
        const Vec minus_a2 = broadcast(-kA2), minus_b2 = broadcast(-kB2);
        v[0] = multiply_add(both, d[0], multiply_add(sum, d[2], d[4]));
        v[5] = multiply_add(both, d[1], multiply_add(sum, d[3], d[5]));
        const Vec even_a = multiply_add(minus_b2, d[2], d[4]), odd_a = multiply_add(minus_b2, d[1], d[3]);
        v[1] = multiply_add(broadcast(kA), odd_a, even_a);
        v[2] = multiply_add(broadcast(-kA), odd_a, even_a);
        const Vec even_b = multiply_add(minus_a2, d[2], d[4]), odd_b = multiply_add(minus_a2, d[1], d[3]);
        v[3] = multiply_add(broadcast(kB), odd_b, even_b);
        v[4] = multiply_add(broadcast(-kB), odd_b, even_b);
    }
    LDP_ALWAYS_INLINE void output(const Vec* m, Vec* o) {
        const Vec even_a = add(m[1], m[2]), odd_a = subtract(m[1], m[2]);
        const Vec even_b = add(m[3], m[4]), odd_b = subtract(m[3], m[4]);
        o[0] = add(m[0], add(even_a, even_b));
        o[1] = multiply_add(broadcast(kA), odd_a, multiply(broadcast(kB), odd_b));
        o[2] = multiply_add(broadcast(kA2), even_a, multiply(broadcast(kB2), even_b));
        o[3] = multiply_add(broadcast(kA * kA2), odd_a, multiply_add(broadcast(kB * kB2), odd_b, m[5]));
    }
    LDP_ALWAYS_INLINE void weights(const Vec* g, Vec* u) {
        constexpr double a2 = double{kA} * kA, b2 = double{kB} * kB;
        constexpr double at_a = 1.0 / (2 * a2 * (a2 - b2)), at_b = 1.0 / (2 * b2 * (b2 - a2));
        u[0] = multiply(broadcast(static_cast<float>(1.0 / (a2 * b2))), g[0]);
        pair(g, at_a, kA, u + 1);
        pair(g, at_b, kB, u + 3);
        u[5] = g[2];
    }

private:
    LDP_ALWAYS_INLINE void pair(const Vec* g, double factor, double point, Vec* u) {
        const Vec even = multiply_add(broadcast(static_cast<float>(factor * point * point)), g[2],
                                      multiply(broadcast(static_cast<float>(factor)), g[0]));
        const Vec odd = multiply(broadcast(static_cast<float>(factor * point)), g[1]);
        u[0] = add(even, odd);
        u[1] = subtract(even, odd);
    }
};

// Two outputs from x[y-1], x[y], x[y+1], of which the middle one counts twice:
// w0 x[y-1] + (w1 + w2) x[y] and (w0 + w1) x[y] + w2 x[y+1].
struct Upsample {
    static constexpr int kPoints = 3, kIn = 3, kStep = 1, kOut = 2;
    static constexpr bool kSums = false;

    LDP_ALWAYS_INLINE void input(const Vec* d, Vec* v) {
        v[0] = subtract(d[0], d[1]);
        v[1] = d[1];
        v[2] = subtract(d[1], d[2]);
    }
    LDP_ALWAYS_INLINE void output(const Vec* m, Vec* o) {
        o[0] = add(m[1], m[0]);
        o[1] = subtract(m[1], m[2]);
    }
    LDP_ALWAYS_INLINE void weights(const Vec* g, Vec* u) {
        u[0] = g[0];
        u[1] = add(add(g[0], g[2]), g[1]);
        u[2] = g[2];
    }
};

// The transpose: one input's gradient from the gradients o of the outputs 2y - 1, 2y, 2y + 1, 2y + 2,
// w0 (o[2y+2] - o[2y]) + (w0 + w1 + w2) (o[2y] + o[2y+1]) + w2 (o[2y-1] - o[2y+1]). The products are summed as they are.
struct UpsampleTransposed {
    static constexpr int kPoints = 3, kIn = 4, kStep = 2, kOut = 1;
    static constexpr bool kSums = true;

    LDP_ALWAYS_INLINE void input(const Vec* d, Vec* v) {
        v[0] = subtract(d[3], d[1]);
        v[1] = add(d[1], d[2]);
        v[2] = subtract(d[0], d[2]);
    }
    LDP_ALWAYS_INLINE void output(const Vec*, Vec*) {}
    LDP_ALWAYS_INLINE void weights(const Vec* g, Vec* u) { Upsample::weights(g, u); }
};

// silu(scale x + shift) of `pixels` pixels of one sample.
static void activate(const float* x, const float* scale, const float* shift, int64_t pixels, int64_t channels,
                     float* out) {
    for (int64_t p = 0; p < pixels; ++p)
        for (int64_t c = 0; c < channels; c += kLanes) {
            const Vec u = multiply_add(load(scale + c), load(x + p * channels + c), load(shift + c));
            store(out + p * channels + c, multiply(u, sigmoid(u)));
        }
}

// The weights of one panel of kPanel output channels, rows [first, last) of input channels, at most kChunk, at every point:
// packed[points][in][kPanel], kPad floats after each point; zeros past the last output channel.
template <typename Kind>
static void pack_weights(const WinogradWeights& weights, int64_t panel, int64_t first, int64_t last, float* packed) {
    const int64_t columns = smaller<int64_t>(kPanel, weights.out - panel * kPanel);
    const int64_t step = weights.in * kPanel + kPad;
    // All of them first: a vector read back at once from floats just written would wait for them.
    alignas(64) float taps[kChunk][9][kPanel] = {};
    const bool in_is_near = weights.stride_in < weights.stride_out;
    const int64_t rows = last - first, outer = in_is_near ? columns : rows, inner = in_is_near ? rows : columns;
    for (int64_t i = 0; i < outer; ++i)
        for (int64_t j = 0; j < inner; ++j) {
            const int64_t k = in_is_near ? j : i, n = in_is_near ? i : j;
            const float* const from =
                weights.data + (panel * kPanel + n) * weights.stride_out + (first + k) * weights.stride_in;
            for (int tap = 0; tap < 9; ++tap) taps[k][tap][n] = from[weights.taps[tap]];
        }
    for (int64_t k = first; k < last; ++k) {
        const auto& tap = taps[k - first];
        float* const to = packed + k * kPanel;
        for (int n = 0; n < kPanel; n += kLanes) {
            Vec along[3][Kind::kPoints];
            for (int row = 0; row < 3; ++row) {
                const Vec g[3] = {load(tap[3 * row] + n), load(tap[3 * row + 1] + n), load(tap[3 * row + 2] + n)};
                Kind::weights(g, along[row]);
            }
            for (int j = 0; j < Kind::kPoints; ++j) {
                const Vec g[3] = {along[0][j], along[1][j], along[2][j]};
                Vec u[Kind::kPoints];
                Kind::weights(g, u);
                for (int i = 0; i < Kind::kPoints; ++i)
                    store(to + (i * Kind::kPoints + j) * step + n, u[i]);
            }
        }
    }
}

// The inputs of one tile at every point, as transformed[channels / kChunk][points][tiles][kChunk], `step` from a point to
// the next; `transformed` is the tile's first.
template <typename Kind>
static void transform_input(const float* const* pixels, int64_t channels, int64_t step, float* transformed) {
    constexpr int kIn = Kind::kIn, kPoints = Kind::kPoints;
    for (int64_t c = 0; c < channels; c += kLanes) {
        Vec along[kIn][kPoints];
        for (int i = 0; i < kIn; ++i) {
            Vec d[kIn];
            for (int j = 0; j < kIn; ++j) d[j] = load(pixels[i * kIn + j] + c);
            Kind::input(d, along[i]);
        }
        float* const to = transformed + c / kChunk * (kPoints * kPoints * step) + c % kChunk;
        for (int j = 0; j < kPoints; ++j) {
            Vec d[kIn], v[kPoints];
            for (int i = 0; i < kIn; ++i) d[i] = along[i][j];
            Kind::input(d, v);
            for (int i = 0; i < kPoints; ++i) store(to + (i * kPoints + j) * step, v[i]);
        }
    }
}

constexpr int kVectors = 2;  // of columns that stay in registers
#if LDP_LANES == 16
constexpr int kRows = 14;  // times as many rows: 28 of 32 registers
#elif LDP_LANES == 4 && defined(__aarch64__)
constexpr int kRows = 8;  // 16 of 32; with more GCC 12 keeps factors on the stack
#else
constexpr int kRows = 6;  // 12 of 16
#endif

// C [kHeight, kVectors kLanes] (+)= A B over `chunks` kChunk rows of B. A row's kChunk factors lie side by side, and
// so do the rows: every address is a constant away from one pointer.
template <int kHeight>
LDP_ALWAYS_INLINE void multiply_block(const float* a, int64_t a_step, const float* b, int64_t chunks, bool add_to,
                                      float* c) {
    Vec sums[kHeight][kVectors];
    for (int r = 0; r < kHeight; ++r)
        for (int v = 0; v < kVectors; ++v) sums[r][v] = broadcast(0.0f);
    for (int64_t chunk = 0; chunk < chunks; ++chunk, a += a_step, b += kChunk * kPanel) {
#pragma GCC unroll 4
        for (int k = 0; k < kChunk; ++k) {
            Vec right[kVectors];
            for (int v = 0; v < kVectors; ++v) right[v] = load(b + k * kPanel + v * kLanes);
            for (int r = 0; r < kHeight; ++r) {
                const Vec left = broadcast(a[r * kChunk + k]);
                for (int v = 0; v < kVectors; ++v) sums[r][v] = multiply_add(left, right[v], sums[r][v]);
            }
        }
    }
    for (int r = 0; r < kHeight; ++r)
        for (int v = 0; v < kVectors; ++v) {
            float* const to = c + r * kPanel + v * kLanes;
            store(to, add_to ? add(load(to), sums[r][v]) : sums[r][v]);
        }
}

// For a height known only at run time, at most kHeight.
template <int kHeight>
LDP_ALWAYS_INLINE void multiply_height(int height, const float* a, int64_t a_step, const float* b, int64_t chunks,
                                       bool add_to, float* c) {
    if (height == kHeight) {
        multiply_block<kHeight>(a, a_step, b, chunks, add_to, c);
    } else if constexpr (kHeight > 1) {
        multiply_height<kHeight - 1>(height, a, a_step, b, chunks, add_to, c);
    }
}

// products [tiles, kPanel] (+)= transformed x packed of one point and panel, in blocks of rows that are about equal; the
// step is from kChunk channels to the next.
// Sums of kDepth terms are added up: a sum of 512 terms, one by one, would have twice the error. They are the outer loop,
// so that weights, which all rows use, stay in the first cache, and so do products.
static void multiply_point(const float* transformed, int64_t tiles, int64_t step, const float* packed,
                           int64_t channels, bool add_to, float* products) {
    const int64_t blocks = (tiles + kRows - 1) / kRows;
    for (int64_t k = 0; k < channels; k += kDepth, packed += kDepth * kPanel) {
        const int64_t chunks = smaller<int64_t>(kDepth, channels - k) / kChunk;
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t first = tiles * block / blocks, last = tiles * (block + 1) / blocks;
            for (int n = 0; n < kPanel; n += kVectors * kLanes)
                multiply_height<kRows>(static_cast<int>(last - first), transformed + k / kChunk * step + first * kChunk,
                                       step, packed + n, chunks, add_to || k > 0, products + first * kPanel + n);
        }
    }
}

// The outputs of one tile from products[point][tiles][kPanel], `step` from a point to the next: `to` and `addend` hold the
// tile's pixels, null where a pixel lies outside of the image.
template <typename Kind>
static void transform_output(const float* products, int64_t step, int64_t columns, const float* bias,
                             float* const* to, const float* const* addend) {
    constexpr int kOut = Kind::kOut, kPoints = Kind::kPoints;
    for (int64_t n = 0; n < columns; n += kLanes) {
        Vec out[kOut][kOut];
        if constexpr (Kind::kSums) {
            out[0][0] = load(products + n);
        } else {
            Vec along[kPoints][kOut];
            for (int i = 0; i < kPoints; ++i) {
                Vec m[kPoints];
                for (int j = 0; j < kPoints; ++j) m[j] = load(products + (i * kPoints + j) * step + n);
                Kind::output(m, along[i]);
            }
            for (int j = 0; j < kOut; ++j) {
                Vec m[kPoints], o[kOut];
                for (int i = 0; i < kPoints; ++i) m[i] = along[i][j];
                Kind::output(m, o);
                for (int i = 0; i < kOut; ++i) out[i][j] = o[i];
            }
        }
        const Vec start = bias != nullptr ? load(bias + n) : broadcast(0.0f);
        for (int p = 0; p < kOut * kOut; ++p) {
            if (to[p] == nullptr) continue;
            Vec value = add(out[p / kOut][p % kOut], start);
            if (addend[p] != nullptr) value = add(value, load(addend[p] + n));
            store(to[p] + n, value);
        }
    }
}

template <typename Kind>
static WinogradKernels kernels_of() {
    return {Kind::kPoints, Kind::kIn, Kind::kStep, Kind::kOut, Kind::kSums, pack_weights<Kind>, transform_input<Kind>,
            multiply_point, transform_output<Kind>, activate};
}

static WinogradKernels same() { return kernels_of<Same>(); }
static WinogradKernels upsample() { return kernels_of<Upsample>(); }
static WinogradKernels upsample_transposed() { return kernels_of<UpsampleTransposed>(); }

}  // namespace LDP_ISA
}  // namespace ldp

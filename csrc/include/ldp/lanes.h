// Vectors of floats, one vocabulary for every instruction set. Included by each_isa.h once for each, before the body that
// uses it: LDP_ISA is the namespace, LDP_LANES 16 (AVX-512), 8 (AVX2 and FMA) or 4 (what every machine has). No guard.

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
LDP_ALWAYS_INLINE Vec subtract(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
LDP_ALWAYS_INLINE Vec multiply(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
LDP_ALWAYS_INLINE Vec divide(Vec a, Vec b) { return _mm512_div_ps(a, b); }
// 2^n m for a whole n: subnormal results included.
LDP_ALWAYS_INLINE Vec nearest(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
LDP_ALWAYS_INLINE Vec scale_by_power(Vec m, Vec n) { return _mm512_scalef_ps(m, n); }
LDP_ALWAYS_INLINE Vec clamp(Vec a, float low, float high) {
    return _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), a));
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
LDP_ALWAYS_INLINE Vec subtract(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
LDP_ALWAYS_INLINE Vec multiply(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
LDP_ALWAYS_INLINE Vec divide(Vec a, Vec b) { return _mm256_div_ps(a, b); }
LDP_ALWAYS_INLINE Vec nearest(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
LDP_ALWAYS_INLINE Vec scale_by_power(Vec m, Vec n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(m, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
LDP_ALWAYS_INLINE Vec clamp(Vec a, float low, float high) {
    return _mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), a));
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
#if defined(__aarch64__)
// Every such processor has FMA, and without contraction (each_isa.h) it has to be asked for.
LDP_ALWAYS_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
    return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
#else
LDP_ALWAYS_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }
#endif
LDP_ALWAYS_INLINE Vec subtract(Vec a, Vec b) { return a - b; }
LDP_ALWAYS_INLINE Vec multiply(Vec a, Vec b) { return a * b; }
LDP_ALWAYS_INLINE Vec divide(Vec a, Vec b) { return a / b; }
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
LDP_ALWAYS_INLINE Vec subtract(Vec a, Vec b) {
    for (int i = 0; i < 4; ++i) a.at[i] -= b.at[i];
    return a;
}
LDP_ALWAYS_INLINE Vec multiply(Vec a, Vec b) {
    for (int i = 0; i < 4; ++i) a.at[i] *= b.at[i];
    return a;
}
LDP_ALWAYS_INLINE Vec divide(Vec a, Vec b) {
    for (int i = 0; i < 4; ++i) a.at[i] /= b.at[i];
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

#if LDP_LANES >= 8
// e^x, within 2 units in the last place; x is kept within the normal numbers, so that nothing is subnormal. NaN stays.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the polynomial that Cephes uses for floats.
LDP_ALWAYS_INLINE Vec exponential(Vec x) {
    x = clamp(x, -87.0f, 88.0f);
    const Vec n = nearest(multiply(x, broadcast(1.44269504088896341f)));
    Vec r = multiply_add(n, broadcast(-0.693359375f), x);
    r = multiply_add(n, broadcast(2.12194440e-4f), r);
    // In pairs, so that the terms do not wait for each other.
    const Vec square = multiply(r, r);
    const Vec high = multiply_add(broadcast(1.9875691500e-4f), r, broadcast(1.3981999507e-3f));
    const Vec middle = multiply_add(broadcast(8.3334519073e-3f), r, broadcast(4.1665795894e-2f));
    const Vec low = multiply_add(broadcast(1.6666665459e-1f), r, broadcast(5.0000001201e-1f));
    const Vec p = multiply_add(multiply_add(high, square, middle), square, low);
    return scale_by_power(add(multiply_add(square, p, r), broadcast(1.0f)), n);
}
#else
LDP_ALWAYS_INLINE Vec exponential(Vec x) {
    float at[4];
    store(at, x);
    for (float& value : at) value = expf(value);
    return load(at);
}
#endif

// 1 / (1 + e^-x).
LDP_ALWAYS_INLINE Vec sigmoid(Vec x) {
    const Vec one = broadcast(1.0f);
    return divide(one, add(one, exponential(subtract(broadcast(0.0f), x))));
}

}  // namespace LDP_ISA
}  // namespace ldp

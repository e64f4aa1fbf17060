// load and store of lanes.h for bfloat16 and float16. Included by a body of each_isa.h, once for each instruction set,
// so no guard; the body's file includes <ldp/narrow.h>.
//
// bfloat16 is rounded by integer arithmetic everywhere: AVX512-BF16's own instruction takes subnormal numbers for zero.

namespace ldp {
namespace LDP_ISA {

#if LDP_LANES == 16
LDP_ALWAYS_INLINE Vec load(const BFloat16* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
LDP_ALWAYS_INLINE void store(BFloat16* p, Vec v) {
    const __m512i bits = _mm512_castps_si512(v), one = _mm512_set1_epi32(1);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}
LDP_ALWAYS_INLINE Vec load(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
LDP_ALWAYS_INLINE void store(Half* p, Vec v) {
    const __m256i rounded = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded);
}
#elif LDP_LANES == 8
LDP_ALWAYS_INLINE Vec load(const BFloat16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
LDP_ALWAYS_INLINE void store(BFloat16* p, Vec v) {
    const __m256i bits = _mm256_castps_si256(v), one = _mm256_set1_epi32(1);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}
LDP_ALWAYS_INLINE Vec load(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LDP_ALWAYS_INLINE void store(Half* p, Vec v) {
    const __m128i rounded = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), rounded);
}
#else
template <typename T>
LDP_ALWAYS_INLINE Vec load(const T* p) {
    const float at[4] = {value_of(p[0]), value_of(p[1]), value_of(p[2]), value_of(p[3])};
    return load(at);
}
template <typename T>
LDP_ALWAYS_INLINE void store(T* p, Vec v) {
    float at[4];
    store(at, v);
    for (int i = 0; i < 4; ++i) put(at[i], p + i);
}
#endif

}  // namespace LDP_ISA
}  // namespace ldp

// How wide the vectors are that each_isa.h has code for here and that this machine runs; asked at run time.
#pragma once

// Tests define LDP_MOST_LANES to have the narrower ones run too.
#ifndef LDP_MOST_LANES
#define LDP_MOST_LANES 16
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && LDP_MOST_LANES > 4
#define LDP_HAS_WIDE_LANES 1
#else
#define LDP_HAS_WIDE_LANES 0
#endif

namespace ldp {

// Floats in a vector of the widest instruction set here: 16 (AVX-512), 8 (AVX2 and FMA) or 4.
static inline int widest_lanes() {
#if LDP_HAS_WIDE_LANES
    if (LDP_MOST_LANES >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return 16;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
    return 4;
}

}  // namespace ldp

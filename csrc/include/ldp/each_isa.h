// Includes LDP_BODY, a quoted file name, once for each instruction set, after the vocabulary of lanes.h: as namespaces
// ldp::portable, ldp::avx2 and ldp::avx512. LDP_WIDEST(name) is then the one of the widest that this machine has; which
// that is is asked at run time.
//
// FMA is written out as intrinsics, for the extension is compiled without contraction. What the body defines has to be
// static, so that two files' kernels of one name are two.
#pragma once

#include <ldp/widest_lanes.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__GNUC__) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__GNUC__)
#define LDP_ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define LDP_ALWAYS_INLINE static inline
#endif

#define LDP_ISA portable
#define LDP_LANES 4
#include <ldp/lanes.h>
#include LDP_BODY
#undef LDP_ISA
#undef LDP_LANES

#if LDP_HAS_WIDE_LANES
// GCC 12 takes the undefined vectors of its own header for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define LDP_ISA avx2
#define LDP_LANES 8
#include <ldp/lanes.h>
#include LDP_BODY
#undef LDP_ISA
#undef LDP_LANES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#define LDP_ISA avx512
#define LDP_LANES 16
#include <ldp/lanes.h>
#include LDP_BODY
#undef LDP_ISA
#undef LDP_LANES
#pragma GCC pop_options

#define LDP_WIDEST(...)                                       \
    (::ldp::widest_lanes() == 16  ? ::ldp::avx512::__VA_ARGS__ \
     : ::ldp::widest_lanes() == 8 ? ::ldp::avx2::__VA_ARGS__   \
                                  : ::ldp::portable::__VA_ARGS__)
#else
#define LDP_WIDEST(...) ::ldp::portable::__VA_ARGS__
#endif

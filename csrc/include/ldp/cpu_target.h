// Compiles a body of code for any processor, for one with AVX2 and FMA and, where it is asked for, one with AVX-512,
// and chooses at run time (widest_lanes.h).
//
// All give the same bits: every fused multiply-add is written as fmaf, nothing else is contracted (-ffp-contract=off),
// and vectors run across samples, never across the terms of a sum.
#pragma once

#include <ldp/host_device.h>
#include <ldp/widest_lanes.h>

#define LDP_INLINE inline __attribute__((always_inline))

namespace ldp {

template <typename Kernel, typename... Arguments>
void run_anywhere(Arguments... arguments) {
    Kernel::run(arguments...);
}

#if defined(__x86_64__) && defined(__GNUC__)

template <typename Kernel, typename... Arguments>
__attribute__((target("avx2,fma"))) void run_avx2(Arguments... arguments) {
    Kernel::run(arguments...);
}

template <typename Kernel, typename... Arguments>
__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"))) void run_avx512(Arguments... arguments) {
    Kernel::run(arguments...);
}

// Calls Kernel::run, which has to be always_inline with all that it calls: only so does it become AVX2 code. kMost: 16
// has it compiled for AVX-512 as well.
template <typename Kernel, int kMost = 8, typename... Arguments>
void run_widest(Arguments... arguments) {
    const int lanes = usable_lanes();
    if constexpr (kMost == 16) {
        if (lanes == 16) return run_avx512<Kernel>(arguments...);
    }
    if (lanes >= 8)
        run_avx2<Kernel>(arguments...);
    else
        run_anywhere<Kernel>(arguments...);
}

#else

template <typename Kernel, int kMost = 8, typename... Arguments>
void run_widest(Arguments... arguments) {
    run_anywhere<Kernel>(arguments...);
}

#endif

}  // namespace ldp

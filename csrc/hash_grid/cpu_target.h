// Compiles a body of code twice, for any processor and for one with AVX2 and FMA, and chooses at run time.
//
// Both give the same bits: every fused multiply-add is written as fmaf, nothing else is contracted (-ffp-contract=off),
// and vectors run across samples, never across the terms of a sum.
#pragma once

#include <ldp/host_device.h>

#define LDP_INLINE inline __attribute__((always_inline))

namespace ldp {

#if defined(__x86_64__) && defined(__GNUC__)

template <typename Kernel, typename... Arguments>
__attribute__((target("avx2,fma"))) void run_avx2(Arguments... arguments) {
    Kernel::run(arguments...);
}

template <typename Kernel, typename... Arguments>
void run_anywhere(Arguments... arguments) {
    Kernel::run(arguments...);
}

// Calls Kernel::run, which has to be always_inline with all that it calls: only so does it become AVX2 code.
template <typename Kernel, typename... Arguments>
void run_widest(Arguments... arguments) {
    const bool wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    wide ? run_avx2<Kernel>(arguments...) : run_anywhere<Kernel>(arguments...);
}

#else

template <typename Kernel, typename... Arguments>
void run_widest(Arguments... arguments) {
    Kernel::run(arguments...);
}

#endif

}  // namespace ldp

// How wide the vectors are that this machine has instructions for, asked at run time; LDP_FAST_LANES asks for less, so
// that one machine can do as lesser ones do.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

// Where each_isa.h has code for wider vectors than the plain ones.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define LDP_HAS_WIDE_LANES 1
#else
#define LDP_HAS_WIDE_LANES 0
#endif

namespace ldp {

// What LDP_FAST_LANES allows. A value it cannot have counts as none; ldp_fast/_settings.py refuses it with a sentence.
inline int allowed_lanes() {
    const char* value = std::getenv("LDP_FAST_LANES");
    if (value == nullptr) return 16;
    return std::strcmp(value, "4") == 0 ? 4 : std::strcmp(value, "8") == 0 ? 8 : 16;
}

#if defined(__x86_64__) && defined(__GNUC__)
// float16 to float and back, in every processor with AVX2. Older compilers do not know its name.
inline bool has_f16c() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

// Floats in a vector of the widest instruction set here: 16 (AVX-512), 8 (AVX2, FMA and F16C) or 4; found out once.
inline int usable_lanes() {
    // Initialised by a constant: another initialiser has a guard, and that asks ThreadSanitizer where there is one.
    static std::atomic<int> known{0};
    int lanes = known.load(std::memory_order_relaxed);
    if (lanes != 0) return lanes;
    lanes = 4;
#if defined(__x86_64__) && defined(__GNUC__)
    const int allowed = allowed_lanes();
    if (allowed >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) lanes = 8;
    if (allowed >= 16 && lanes == 8 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        lanes = 16;
#endif
    known.store(lanes, std::memory_order_relaxed);
    return lanes;
}

// Those of them that each_isa.h has code for.
inline int widest_lanes() { return LDP_HAS_WIDE_LANES ? usable_lanes() : 4; }

}  // namespace ldp

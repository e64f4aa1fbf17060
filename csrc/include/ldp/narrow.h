// Two-byte floats as they lie in memory. They are read and written, never computed with: arithmetic is float's.
#pragma once

#include <ldp/half_bits.h>

#include <cstdint>
#include <cstring>

namespace ldp {

struct BFloat16 {
    uint16_t bits;
};

struct Half {
    uint16_t bits;
};

// All exact.
inline float value_of(float number) { return number; }
inline float value_of(Half number) { return half_value(number.bits); }
inline float value_of(BFloat16 number) {
    const uint32_t bits = static_cast<uint32_t>(number.bits) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// To the nearest, ties to even; every NaN becomes 0x7fc0, as torch has it.
inline uint16_t bfloat16_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return 0x7fc0u;
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline void put(float value, float* to) { *to = value; }
inline void put(float value, Half* to) { to->bits = half_bits(value); }
inline void put(float value, BFloat16* to) { to->bits = bfloat16_bits(value); }

}  // namespace ldp

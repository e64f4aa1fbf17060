// IEEE half precision by its bits, for hosts whose compilers have no type for it (and for a CPU that casts weights).
#pragma once

#include <cstdint>
#include <cstring>

#include <ldp/host_device.h>

namespace ldp {

// Rounds to the nearest half, ties to even; overflow gives infinity, NaN stays NaN: what cvt.rn.f16.f32 does.
LDP_HOST_DEVICE uint16_t half_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fffu;
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more
    uint32_t rest, kept, half;
    if (magnitude >= 0x38800000u) {
        rest = magnitude & 0x1fffu;
        kept = (magnitude - 0x38000000u) >> 13;
        half = 0x1000u;
    } else if (magnitude > 0x33000000u) {  // subnormal: units of 2^-24
        const uint32_t shift = 126u - (magnitude >> 23), significand = (magnitude & 0x7fffffu) | 0x800000u;
        rest = significand & ((1u << shift) - 1u);
        kept = significand >> shift;
        half = 1u << (shift - 1u);
    } else {
        return sign;
    }
    if (rest > half || (rest == half && (kept & 1u))) ++kept;
    return static_cast<uint16_t>(sign | kept);
}

// Exact.
LDP_HOST_DEVICE float half_value(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    uint32_t out;
    if (magnitude >= 0x7c00u) {
        out = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
    } else if (magnitude >= 0x400u) {
        out = sign | ((magnitude << 13) + 0x38000000u);
    } else {
        const float subnormal = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
        memcpy(&out, &subnormal, 4);
        out |= sign;
    }
    float value;
    memcpy(&value, &out, 4);
    return value;
}

}  // namespace ldp

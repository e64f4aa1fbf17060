// PTX's comparisons and conversions.
#pragma once

namespace ptx {

// ---- comparisons: those with u are true of NaN

#define PTX_COMPARE(name, symbol)       \
    template <typename T>               \
    bool op_setp_##name(T a, T b) {     \
        return a symbol b;              \
    }                                   \
    template <typename T>               \
    bool op_setp_##name##u(T a, T b) {  \
        return a != a || b != b || a symbol b; \
    }
PTX_COMPARE(eq, ==)
PTX_COMPARE(lt, <)
PTX_COMPARE(le, <=)
PTX_COMPARE(gt, >)
PTX_COMPARE(ge, >=)
#undef PTX_COMPARE
template <typename T>
bool op_setp_ne(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
        return a == a && b == b && a != b;
    else
        return a != b;
}
template <typename T>
bool op_setp_neu(T a, T b) {
    return a != b;
}
template <typename T>
bool op_setp_nan(T a, T b) {
    return a != a || b != b;
}
template <typename T>
bool op_setp_num(T a, T b) {
    return a == a && b == b;
}

// ---- conversions

template <typename To, typename From>
To op_cvt(From a) {
    if constexpr (std::is_same_v<From, Half>) {
        static_assert(std::is_same_v<To, float>);
        return ldp::half_value(a.bits);
    } else {
        static_assert(std::is_integral_v<To> == std::is_integral_v<From>);
        static_assert(std::is_integral_v<To> || sizeof(To) >= sizeof(From));
        return static_cast<To>(a);
    }
}
template <typename To, typename From>
To op_cvt_rn(From a) {
    if constexpr (std::is_same_v<To, Half>)
        return {ldp::half_bits(a)};
    else
        return static_cast<To>(a);
}
template <typename To, typename From>
To whole_number(From rounded_to) {
    if constexpr (std::is_integral_v<To>)
        return ::cuda_on_cpu::saturated<To>(rounded_to);
    else
        return rounded_to;
}
template <typename To, typename From>
To op_cvt_rzi(From a) {
    return whole_number<To>(std::trunc(a));
}
template <typename To, typename From>
To op_cvt_rmi(From a) {
    return whole_number<To>(std::floor(a));
}
template <typename To, typename From>
To op_cvt_rpi(From a) {
    return whole_number<To>(std::ceil(a));
}
template <typename To, typename From>
To op_cvt_rni(From a) {
    return whole_number<To>(std::nearbyint(a));
}
template <typename To, typename From>
To op_cvt_sat(From a) {
    return a > 0 ? (a < 1 ? a : To(1)) : To(0);
}
// To the nearest number with 10 bits of fraction, ties away from zero.
template <typename To, typename From>
To op_cvt_rna(From a) {
    static_assert(std::is_same_v<To, Tf32> && std::is_same_v<From, float>);
    const auto bits = same_bits<uint32_t>(a);
    return {((bits & 0x7f800000u) == 0x7f800000u ? bits : bits + 0x1000u) & ~0x1fffu};
}

}  // namespace ptx

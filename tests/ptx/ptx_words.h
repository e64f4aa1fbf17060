// What PTX's instructions mean (PTX ISA 9.0), one template for each mnemonic without types: add.s32 is op_add<int32_t>.
// Whole numbers wrap, floats are rounded once, shifts are clamped, a misaligned access ends the process. What an
// instruction leaves open is the plainest choice: ex2.approx is exact up to rounding, atomics are done at once.
#pragma once

#include <array>
#include <bitset>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <type_traits>

#include "cuda_on_cpu.h"
#include "ptx_launch.h"

namespace ptx {

struct Half {
    uint16_t bits;
};
struct Tf32 {
    uint32_t bits;
};

template <size_t kBytes>
using Bits = std::conditional_t<kBytes <= 2, std::conditional_t<kBytes == 1, uint8_t, uint16_t>,
                                std::conditional_t<kBytes == 4, uint32_t, uint64_t>>;

template <typename To, typename From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

// A register read as a type: its bits, the low ones where the type is narrower.
template <typename T, typename Register>
T get(Register value) {
    static_assert(sizeof(T) <= sizeof(Register) && std::is_same_v<T, bool> == std::is_same_v<Register, bool>);
    return same_bits<T>(static_cast<Bits<sizeof(T)>>(same_bits<Bits<sizeof(Register)>>(value)));
}

// A wider register gets the sign or zeros.
template <typename Register, typename T>
void put(Register& to, T value) {
    static_assert(sizeof(T) <= sizeof(Register) && std::is_same_v<T, bool> == std::is_same_v<Register, bool>);
    using Wide = Bits<sizeof(Register)>;
    if constexpr (std::is_integral_v<T> && std::is_signed_v<T>)
        to = same_bits<Register>(static_cast<Wide>(static_cast<int64_t>(value)));
    else
        to = same_bits<Register>(static_cast<Wide>(same_bits<Bits<sizeof(T)>>(value)));
}

template <typename T, typename Low, typename High>
T pack(Low low, High high) {
    using Wide = Bits<sizeof(T)>;
    static_assert(sizeof(Low) * 2 == sizeof(T) && sizeof(High) == sizeof(Low));
    return same_bits<T>(static_cast<Wide>(static_cast<Wide>(same_bits<Bits<sizeof(Low)>>(low)) |
                                          static_cast<Wide>(same_bits<Bits<sizeof(High)>>(high)) << 8 * sizeof(Low)));
}

template <typename T, typename Part>
void unpack(T value, Part& low, Part& high) {
    static_assert(sizeof(Part) * 2 == sizeof(T));
    const auto bits = same_bits<Bits<sizeof(T)>>(value);
    low = same_bits<Part>(static_cast<Bits<sizeof(Part)>>(bits));
    high = same_bits<Part>(static_cast<Bits<sizeof(Part)>>(bits >> 8 * sizeof(Part)));
}

// ---- memory

// An address in the shared state space is the number of an array, 24 bits up, and a place in it.
inline unsigned char* in_shared(void* const* windows, size_t count, uint64_t address) {
    const uint64_t window = address >> 24;
    if (window == 0 || window >= count)
        ::cuda_on_cpu::fail("shared address %llx", static_cast<unsigned long long>(address));
    return static_cast<unsigned char*>(windows[window]) + (address & 0xffffffu);
}

inline void check_aligned(const unsigned char* address, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
        ::cuda_on_cpu::fail("an access of %zu bytes to the address %p", bytes, static_cast<const void*>(address));
}

template <typename T, size_t kCount>
std::array<T, kCount> load(const unsigned char* address) {
    check_aligned(address, sizeof(T) * kCount);
    return *reinterpret_cast<const std::array<T, kCount>*>(address);
}

template <typename T, size_t kCount>
void store(unsigned char* address, const std::array<T, kCount>& values) {
    check_aligned(address, sizeof(T) * kCount);
    *reinterpret_cast<std::array<T, kCount>*>(address) = values;
}

template <typename T>
T load(const unsigned char* address) {
    check_aligned(address, sizeof(T));
    return *reinterpret_cast<const T*>(address);
}
template <typename T>
void store(unsigned char* address, T value) {
    check_aligned(address, sizeof(T));
    *reinterpret_cast<T*>(address) = value;
}

template <typename T, size_t kCount, typename Change>
std::array<T, kCount> atomic(unsigned char* address, const std::array<T, kCount>& values, Change change) {
    const std::array<T, kCount> old = load<T, kCount>(address);
    std::array<T, kCount> changed = old;
    for (size_t i = 0; i < kCount; ++i) changed[i] = change(old[i], values[i]);
    store<T, kCount>(address, changed);
    return old;
}

// ---- arithmetic

template <typename T>
using Unsigned = std::make_unsigned_t<T>;

#define PTX_WRAPPING(name, symbol)                                                                      \
    template <typename T>                                                                               \
    T op_##name(T a, T b) {                                                                             \
        if constexpr (std::is_integral_v<T>)                                                            \
            return static_cast<T>(static_cast<uint64_t>(a) symbol static_cast<uint64_t>(b));            \
        else                                                                                            \
            return a symbol b;                                                                          \
    }
PTX_WRAPPING(add, +)
PTX_WRAPPING(sub, -)
PTX_WRAPPING(mul, *)
#undef PTX_WRAPPING

template <typename T>
T op_mul_lo(T a, T b) {
    static_assert(std::is_integral_v<T>);
    return op_mul(a, b);
}
template <typename T>
T op_mad_lo(T a, T b, T c) {
    return op_add(op_mul_lo(a, b), c);
}
template <typename T>
auto op_mul_wide(T a, T b) {
    using Wide = std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>;
    const Wide product = static_cast<Wide>(a) * static_cast<Wide>(b);
    if constexpr (sizeof(T) == 2)
        return static_cast<std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>>(product);
    else
        return product;
}
template <typename T, typename Wide>
auto op_mad_wide(T a, T b, Wide c) {
    return op_add<Wide>(op_mul_wide<T>(a, b), c);
}
template <typename T>
T op_mul_hi(T a, T b) {
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return static_cast<T>(static_cast<Wide>(a) * static_cast<Wide>(b) >> 8 * sizeof(T));
}

// A GPU gives all ones where the divisor is zero; here that is a fault of the kernel.
template <typename T>
void check_divisor(T a, T b) {
    if (b == 0) ::cuda_on_cpu::fail("a division by zero");
    if (std::is_signed_v<T> && a == std::numeric_limits<T>::min() && b == static_cast<T>(-1))
        ::cuda_on_cpu::fail("a quotient beyond the type");
}
template <typename T>
T op_div(T a, T b) {
    static_assert(std::is_integral_v<T>);
    check_divisor(a, b);
    return static_cast<T>(a / b);
}
template <typename T>
T op_rem(T a, T b) {
    check_divisor(a, b);
    return static_cast<T>(a % b);
}

// The number where the other is NaN; -0 < +0.
template <typename T>
T op_min(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
        return a == b ? (std::signbit(a) ? a : b) : std::fmin(a, b);
    else
        return b < a ? b : a;
}
template <typename T>
T op_max(T a, T b) {
    if constexpr (std::is_floating_point_v<T>)
        return a == b ? (std::signbit(a) ? b : a) : std::fmax(a, b);
    else
        return a < b ? b : a;
}
template <typename T>
T op_neg(T a) {
    if constexpr (std::is_integral_v<T>)
        return static_cast<T>(uint64_t{0} - static_cast<uint64_t>(a));
    else
        return -a;
}
template <typename T>
T op_abs(T a) {
    if constexpr (std::is_integral_v<T>)
        return a < 0 ? op_neg(a) : a;
    else
        return std::fabs(a);
}

#define PTX_NEAREST(name, expression)                          \
    template <typename T, typename... Ts>                      \
    T op_##name(T a, Ts... rest) {                             \
        static_assert(std::is_floating_point_v<T>);            \
        return [](auto x, auto... y) -> T { return expression; }(a, rest...); \
    }
PTX_NEAREST(add_rn, (x + ... + y))
PTX_NEAREST(mul_rn, (x * ... * y))
PTX_NEAREST(sqrt_rn, std::sqrt(x))
PTX_NEAREST(rcp_rn, 1 / x)
#undef PTX_NEAREST
template <typename T>
T op_sub_rn(T a, T b) {
    return a - b;
}
template <typename T>
T op_div_rn(T a, T b) {
    static_assert(std::is_floating_point_v<T>);
    return a / b;
}
template <typename T>
T op_fma_rn(T a, T b, T c) {
    return std::fma(a, b, c);
}

// Under another rounding; `volatile` keeps the compiler from moving the arithmetic out of it.
template <typename T, typename Operation>
__attribute__((noinline)) T rounded(int mode, T a, T b, T c, Operation operation) {
    volatile T x = a, y = b, z = c;
    const int before = std::fegetround();
    std::fesetround(mode);
    volatile T result = operation(x, y, z);
    std::fesetround(before);
    return result;
}
template <typename T>
T op_fma_rm(T a, T b, T c) {
    return rounded(FE_DOWNWARD, a, b, c, [](T x, T y, T z) { return std::fma(x, y, z); });
}
template <typename T>
T op_add_rz(T a, T b) {
    return rounded(FE_TOWARDZERO, a, b, T(0), [](T x, T y, T) { return x + y; });
}
template <typename T>
T op_ex2_approx(T a) {
    return static_cast<T>(std::exp2(static_cast<double>(a)));
}
template <typename T>
T flushed(T a) {
    return std::fabs(a) < std::numeric_limits<T>::min() ? std::copysign(T(0), a) : a;
}
template <typename T>
T op_ex2_approx_ftz(T a) {
    return flushed(op_ex2_approx(flushed(a)));
}

// ---- bits

#define PTX_BITWISE(name, symbol)                \
    template <typename T>                        \
    T op_##name(T a, T b) {                      \
        return static_cast<T>(a symbol b);       \
    }
PTX_BITWISE(and, &)
PTX_BITWISE(or, |)
PTX_BITWISE(xor, ^)
#undef PTX_BITWISE
template <typename T>
T op_not(T a) {
    if constexpr (std::is_same_v<T, bool>)
        return !a;
    else
        return static_cast<T>(~a);
}
template <typename T>
T op_shl(T a, uint32_t by) {
    return by >= 8 * sizeof(T) ? T(0) : static_cast<T>(static_cast<uint64_t>(a) << by);
}
template <typename T>
T op_shr(T a, uint32_t by) {
    constexpr uint32_t kMost = 8 * sizeof(T);
    if (by >= kMost) return std::is_signed_v<T> && a < 0 ? static_cast<T>(-1) : T(0);
    return static_cast<T>(a >> by);
}
template <typename T>
uint32_t op_popc(T a) {
    return static_cast<uint32_t>(std::bitset<64>(a).count());
}
template <typename T>
uint32_t op_clz(T a) {
    uint32_t zeros = 0;
    for (uint32_t i = 8 * sizeof(T); i-- > 0 && !(a >> i & 1u);) ++zeros;
    return zeros;
}
template <typename T>
T op_brev(T a) {
    T reversed = 0;
    for (uint32_t i = 0; i < 8 * sizeof(T); ++i) reversed |= static_cast<T>((a >> i & 1u) << (8 * sizeof(T) - 1 - i));
    return reversed;
}
// How far the highest bit is from the top; all ones where there is none.
template <typename T>
uint32_t op_bfind_shiftamt(T a) {
    static_assert(std::is_unsigned_v<T>);
    return a == 0 ? 0xffffffffu : op_clz(a);
}
template <typename T>
T op_bfi(T a, T b, uint32_t position, uint32_t length) {
    position &= 0xffu;
    length &= 0xffu;
    T result = b;
    for (uint32_t i = 0; i < length && position + i < 8 * sizeof(T); ++i) {
        const T bit = static_cast<T>(T(1) << (position + i));
        result = static_cast<T>((result & ~bit) | ((a >> i & 1u) ? bit : T(0)));
    }
    return result;
}
template <typename T>
T op_selp(T a, T b, bool which) {
    return which ? a : b;
}

}  // namespace ptx

#include "ptx_compare.h"
#include "ptx_warp.h"

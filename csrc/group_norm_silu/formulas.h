// The formulas of group norm and SiLU on vectors, for rows_cpu.h and planes_cpu.h. Included once for each instruction set
// (ldp/each_isa.h), so no include guard.

#include <ldp/narrow_lanes.h>

namespace ldp {
namespace LDP_ISA {

// h = scale (x - mean) + shift, or silu(h).
template <bool kSilu>
LDP_ALWAYS_INLINE Vec output_of(Vec x, Vec mean, Vec scale, Vec shift) {
    const Vec h = multiply_add(subtract(x, mean), scale, shift);
    return kSilu ? multiply(h, sigmoid(h)) : h;
}

// From the gradient of silu(h), or of h, to that of h = scale * deviation + shift.
template <bool kSilu>
LDP_ALWAYS_INLINE Vec inner_gradient(Vec grad, Vec deviation, Vec scale, Vec shift) {
    if (!kSilu) return grad;
    const Vec one = broadcast(1.0f), h = multiply_add(deviation, scale, shift), s = sigmoid(h);
    return multiply(grad, multiply(s, multiply_add(h, subtract(one, s), one)));
}

// scale dL/dh + constant + slope (x - mean).
LDP_ALWAYS_INLINE Vec gradient_of_x(Vec inner, Vec deviation, Vec scale, Vec constant, Vec slope) {
    return multiply_add(inner, scale, multiply_add(deviation, slope, constant));
}

}  // namespace LDP_ISA
}  // namespace ldp

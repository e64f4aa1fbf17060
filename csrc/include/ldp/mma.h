// Tensor cores: C += A B on a warp's tiles, float32 sums. Inputs half (16 x 8 x 16) or tf32 (16 x 8 x 8).
//
// A tile is spread over the 32 lanes: element i of a lane's fragment is the tile's (row(lane, i), col(lane, i)). A is
// [16 rows m, K], B [K, 8 columns n], C [16, 8]; K is 16 for half and 8 for float. These positions are PTX's (ISA,
// "Matrix Fragments for mma.m16n8k16" and "...k8"); kernels, the host meaning and the tests all ask the functions here.
#pragma once

#include <ldp/device.h>

namespace ldp {

template <typename T>
struct FragmentA;
template <typename T>
struct FragmentB;

// Columns 2j and 2j + 1 of a row lie in one lane: elements (0, 1) and (2, 3) can be stored as float2.
struct FragmentC {
    static constexpr int kElements = 4;
    float elements[kElements];

    LDP_HOST_DEVICE static int row(int lane, int i) { return lane / 4 + (i / 2) * 8; }
    LDP_HOST_DEVICE static int col(int lane, int i) { return lane % 4 * 2 + i % 2; }
    __device__ __forceinline__ void fill(float value) {
#pragma unroll
        for (int i = 0; i < kElements; ++i) elements[i] = value;
    }
};

// Elements 2j and 2j + 1 are pairs[j]: neighbours along K, for A in a row of row-major memory.
template <>
struct FragmentA<half> {
    static constexpr int kDepth = 16, kElements = 8;
    half2 pairs[4];

    LDP_HOST_DEVICE static int row(int lane, int i) { return lane / 4 + (i / 2 % 2) * 8; }
    LDP_HOST_DEVICE static int col(int lane, int i) { return lane % 4 * 2 + i % 2 + (i / 4) * 8; }
};

template <>
struct FragmentB<half> {
    static constexpr int kDepth = 16, kElements = 4;
    half2 pairs[2];

    LDP_HOST_DEVICE static int row(int lane, int i) { return lane % 4 * 2 + i % 2 + (i / 2) * 8; }
    LDP_HOST_DEVICE static int col(int lane, int /*i*/) { return lane / 4; }
};

// The low 13 bits of tf32 inputs do not count: round with to_tf32, or split (below).
template <>
struct FragmentA<float> {
    static constexpr int kDepth = 8, kElements = 4;
    float elements[kElements];

    LDP_HOST_DEVICE static int row(int lane, int i) { return lane / 4 + (i % 2) * 8; }
    LDP_HOST_DEVICE static int col(int lane, int i) { return lane % 4 + (i / 2) * 4; }
};

template <>
struct FragmentB<float> {
    static constexpr int kDepth = 8, kElements = 2;
    float elements[kElements];

    LDP_HOST_DEVICE static int row(int lane, int i) { return lane % 4 + i * 4; }
    LDP_HOST_DEVICE static int col(int lane, int /*i*/) { return lane / 4; }
};

__device__ __forceinline__ half element(const FragmentA<half>& a, int i) {
    return i % 2 ? a.pairs[i / 2].y : a.pairs[i / 2].x;
}
__device__ __forceinline__ half element(const FragmentB<half>& b, int i) {
    return i % 2 ? b.pairs[i / 2].y : b.pairs[i / 2].x;
}

#ifdef LDP_CUDA_ON_CPU

// To the nearest number with 10 bits of fraction, ties away from zero.
inline float to_tf32(float value) {
    const unsigned bits = __float_as_uint(value);
    const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
    return __uint_as_float((finite ? bits + 0x1000u : bits) & ~0x1fffu);
}

namespace host_meaning {

inline float operand(const FragmentA<half>& a, int i) { return to_float(element(a, i)); }
inline float operand(const FragmentB<half>& b, int i) { return to_float(element(b, i)); }
inline float truncated(float value) { return __uint_as_float(__float_as_uint(value) & ~0x1fffu); }
inline float operand(const FragmentA<float>& a, int i) { return truncated(a.elements[i]); }
inline float operand(const FragmentB<float>& b, int i) { return truncated(b.elements[i]); }

template <typename T>
struct Mma {
    const FragmentA<T>* a;
    const FragmentB<T>* b;
    FragmentC* c;

    static void complete(void* const* requests, unsigned /*mask*/) {
        constexpr int K = FragmentA<T>::kDepth;
        float a[16][K], b[K][8], c[16][8];
        for (int lane = 0; lane < 32; ++lane) {
            const Mma& own = *static_cast<const Mma*>(requests[lane]);
            for (int i = 0; i < FragmentA<T>::kElements; ++i)
                a[FragmentA<T>::row(lane, i)][FragmentA<T>::col(lane, i)] = operand(*own.a, i);
            for (int i = 0; i < FragmentB<T>::kElements; ++i)
                b[FragmentB<T>::row(lane, i)][FragmentB<T>::col(lane, i)] = operand(*own.b, i);
            for (int i = 0; i < FragmentC::kElements; ++i)
                c[FragmentC::row(lane, i)][FragmentC::col(lane, i)] = own.c->elements[i];
        }
        ::cuda_on_cpu::tensor_core(a[0], b[0], c[0], K);
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < FragmentC::kElements; ++i)
                static_cast<const Mma*>(requests[lane])->c->elements[i] =
                    c[FragmentC::row(lane, i)][FragmentC::col(lane, i)];
    }
};

template <typename T>
void mma(const char* name, FragmentC& c, const FragmentA<T>& a, const FragmentB<T>& b) {
    Mma<T> request{&a, &b, &c};
    ::cuda_on_cpu::collective(name, 0xffffffffu, &request, &Mma<T>::complete);
}

}  // namespace host_meaning

inline void mma_m16n8k16(FragmentC& c, const FragmentA<half>& a, const FragmentB<half>& b) {
    host_meaning::mma("mma_m16n8k16", c, a, b);
}

inline void mma_m16n8k8(FragmentC& c, const FragmentA<float>& a, const FragmentB<float>& b) {
    host_meaning::mma("mma_m16n8k8", c, a, b);
}

#else

__device__ __forceinline__ float to_tf32(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return __uint_as_float(bits);
}

__device__ __forceinline__ unsigned register_of(half2 pair) { return *reinterpret_cast<const unsigned*>(&pair); }

__device__ __forceinline__ void mma_m16n8k16(FragmentC& c, const FragmentA<half>& a, const FragmentB<half>& b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c.elements[0]), "+f"(c.elements[1]), "+f"(c.elements[2]), "+f"(c.elements[3])
        : "r"(register_of(a.pairs[0])), "r"(register_of(a.pairs[1])), "r"(register_of(a.pairs[2])),
          "r"(register_of(a.pairs[3])), "r"(register_of(b.pairs[0])), "r"(register_of(b.pairs[1])));
}

__device__ __forceinline__ void mma_m16n8k8(FragmentC& c, const FragmentA<float>& a, const FragmentB<float>& b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c.elements[0]), "+f"(c.elements[1]), "+f"(c.elements[2]), "+f"(c.elements[3])
        : "r"(__float_as_uint(a.elements[0])), "r"(__float_as_uint(a.elements[1])), "r"(__float_as_uint(a.elements[2])),
          "r"(__float_as_uint(a.elements[3])), "r"(__float_as_uint(b.elements[0])),
          "r"(__float_as_uint(b.elements[1])));
}

#endif

// "3xTF32": x = high + low up to 2^-22 of x, and A B = A_low B_high + A_high B_low + A_high B_high except the product
// of the low parts: nearly float32's accuracy from three tf32 products. An infinite x gives NaN, as its low part does.
template <typename Fragment>
struct Split {
    Fragment high, low;

    __device__ __forceinline__ void set(int i, float value) {
        high.elements[i] = to_tf32(value);
        low.elements[i] = to_tf32(value - high.elements[i]);
    }
};

using SplitA = Split<FragmentA<float>>;
using SplitB = Split<FragmentB<float>>;

// n products with the same A. The small parts first. They start from zero and are added to the sums by the ordinary
// adder: a tensor core cuts off what it shifts out instead of rounding, so a sum that stays in its accumulator from step
// to step loses up to a unit in the last place each time, always towards zero (Ootomo and Yokota, "Recovering single
// precision accuracy from Tensor Cores", IJHPCA 2022). Side by side, so that three mma that wait for each other have
// others between them; not more than are asked for, because each takes eight registers.
template <int n>
__device__ __forceinline__ void mma_m16n8k8(FragmentC* c, const SplitA& a, const SplitB (&b)[n]) {
    FragmentC step[n];
#pragma unroll
    for (int i = 0; i < n; ++i) {
        step[i].fill(0.0f);
        mma_m16n8k8(step[i], a.low, b[i].high);
    }
#pragma unroll
    for (int i = 0; i < n; ++i) mma_m16n8k8(step[i], a.high, b[i].low);
#pragma unroll
    for (int i = 0; i < n; ++i) mma_m16n8k8(step[i], a.high, b[i].high);
#pragma unroll
    for (int i = 0; i < n; ++i)
#pragma unroll
        for (int j = 0; j < FragmentC::kElements; ++j) c[i].elements[j] += step[i].elements[j];
}

__device__ __forceinline__ void mma_m16n8k8(FragmentC& c, const SplitA& a, const SplitB& b) {
    const SplitB one[1] = {b};
    mma_m16n8k8(&c, a, one);
}

}  // namespace ldp

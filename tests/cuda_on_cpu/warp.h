// Kernels that show what <ldp/warp.h> and <ldp/mma.h> compute (warp.cu); warp_driver.cpp knows what is right.
#pragma once

#include <ldp/device.h>

#include <cstdint>

namespace ldp {

struct WarpOut {
    float *sum, *largest, *inclusive, *exclusive, *suffix, *exclusive_suffix, *product, *run_sum;  // [size]
    unsigned *heads, *votes;                                                                       // [size]
    int *run_start, *run_end, *reversed;                                                           // [size]
};

// 32 values a warp, whole warps; a block has two. keys: a run is a stretch of equal ones.
void warp(const float* values, const int* keys, const WarpOut& out, int size, cudaStream_t stream);

struct AtomicOut {
    float *one, *pair, *quad;   // [1], [2], [4]: sums of value i, (i, 2i), (i, 2i, 3i, 4i)
    unsigned long long* whole;  // [1]
    float* largest;             // [1]
};

void atomics(const float* values, const AtomicOut& out, int size, cudaStream_t stream);

// C [16, 8] += A [16, 16] B [16, 8]
void mma_half(const half* a, const half* b, float* c, cudaStream_t stream);
// C [16, 8] += A [16, 8] B [8, 8], rounded to tf32, or split into two parts
void mma_tf32(const float* a, const float* b, float* c, bool split, cudaStream_t stream);

}  // namespace ldp

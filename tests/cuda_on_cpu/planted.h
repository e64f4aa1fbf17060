// Kernels with and without faults (planted.cu): `excess` and `fault` are, correctly, 0, the bools true.
#pragma once

#include <ldp/device.h>

namespace ldp {

void reduce(const float* values, float* sums, int size, bool barrier, cudaStream_t stream);  // sums: one a block of 128
void reverse_warp(const float* values, float* reversed, bool barrier, cudaStream_t stream);  // 32 elements
void copy(const float* values, float* out, int size, int excess, cudaStream_t stream);
void static_shared(float* out, int excess, cudaStream_t stream);   // out: 64 times 1
void dynamic_shared(float* out, int excess, cudaStream_t stream);  // out: 64 times 1
void sum_shared(float* out, int written, cudaStream_t stream);     // correct: 32
void sum_global(const float* values, float* out, int size, cudaStream_t stream);
void local(float* out, int at, cudaStream_t stream);                 // 64 elements; correct: 0 to 3
void divergent_shuffle(float* out, int fault, cudaStream_t stream);  // 32 elements
void partial_warp_shuffle(float* out, cudaStream_t stream);
void total(const float* values, float* sum, int size, bool atomic, cudaStream_t stream);  // sum: added to
void neighbour(float* places, float* out, int blocks, cudaStream_t stream);               // out: 0; always a race
void divergent_barrier(float* out, cudaStream_t stream);

}  // namespace ldp

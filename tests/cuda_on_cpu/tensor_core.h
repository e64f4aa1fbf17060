// The arithmetic of a tensor core: what mma.sync adds up, and how it rounds. For ldp/mma.h.
#pragma once

namespace cuda_on_cpu {

// c [16, 8] += a [16, depth] b [depth, 8], all row-major. The factors have 11 significant bits (half or tf32), so that
// products are exact in any wider format.
//
// NVIDIA documents none of it. The model is what Fasi, Higham, Mikaitis and Pranesh measured ("Numerical behavior of
// NVIDIA tensor cores", PeerJ Computer Science 7:e330, 2021): a sum of a few exact products and the accumulator is
// taken at once; all are shifted to the exponent of the largest one; what is shifted out is cut off, not rounded; the
// sum is not normalised in between, and is cut off to float32 at the end, towards zero. Architectures differ in how
// many products one sum takes (4 on V100 and for tf32 on A100, more later) and in the bits they keep below float32's
// last one (none on V100, one or more later: Khattak and Mikaitis, "Accurate models of NVIDIA tensor cores",
// arXiv:2512.07004, 2025). Taken here are the least accurate of both, 4 and none: what holds here has no less accurate
// hardware to fear.
void tensor_core(const float* a, const float* b, float* c, int depth);

}  // namespace cuda_on_cpu

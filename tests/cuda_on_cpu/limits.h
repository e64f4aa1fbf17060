// What a multiprocessor has room for. For cuda_on_cpu.h and <ldp/launch.h>.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

constexpr int kMultiprocessors = 3;
constexpr int kReservedShared = 1024;

struct Limits {
    const char* name;
    int shared_per_block, shared_per_multiprocessor;  // bytes
    int threads;                                      // of a multiprocessor
};

// Of the architecture that LDP_CUDA_DEVICE names: sm_80, sm_90 or sm_120, which has the least and is the default. CUDA
// C++ Programming Guide, "Technical Specifications per Compute Capability".
const Limits& limits();

// Blocks that a multiprocessor holds at once. What registers a kernel takes is not known here: 128 a thread.
int resident_blocks(int threads, size_t shared_bytes);

}  // namespace cuda_on_cpu

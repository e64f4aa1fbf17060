// Finds data races, in programmes built with LDP_RACES: two threads touch a byte, at least one writes, not both by an
// atomic, and no barrier lies between.
//
// The compiler announces each access (-fsanitize=thread, whose runtime races.cpp replaces). What orders two accesses is
// __syncthreads within a block and __syncwarp within a warp; shuffles and ballots do not order memory in CUDA, and two
// blocks of a launch are never ordered. So also found: `x += y` where an atomic is needed, values that different blocks
// write to one place (be they equal), and blocks that read what others write. A kernel whose blocks meet through
// atomics and fences (the last one to finish does the rest) is reported although it may be right.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_on_cpu {

// Where a thread is in the order that barriers make.
struct Position {
    uint64_t block = 0;
    uint32_t thread = 0, block_phase = 0, warp_phase = 0;
};

#ifdef LDP_RACES

bool in_kernel();
Position position();
bool is_stack(const void* address);  // a thread's own memory

void note_access(const void* address, size_t bytes, bool writes, bool atomic, const void* where);
void note_launch();                                   // what came before is ordered before what comes
void note_memory(const void* address, size_t bytes);  // it is new

#else

inline void note_launch() {}
inline void note_memory(const void*, size_t) {}

#endif

}  // namespace cuda_on_cpu

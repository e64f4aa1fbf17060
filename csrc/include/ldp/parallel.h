// Work on torch's own threads; serial where the file is compiled without torch (the test harness).
#pragma once

#include <cstdint>

#ifndef LDP_NO_TORCH
#include <torch/csrc/stable/ops.h>
#endif

namespace ldp {

// Calls body(begin, end) on ranges that cover [0, size), each of at least `grain`, on several threads.
template <typename Body>
void parallel_for(int64_t size, int64_t grain, const Body& body) {
    if (size <= 0) return;
#ifdef LDP_NO_TORCH
    (void)grain;
    body(int64_t{0}, size);
#else
    torch::stable::parallel_for(0, size, grain, body);
#endif
}

// Threads that parallel_for may use.
inline int thread_count() {
#ifdef LDP_NO_TORCH
    return 1;
#else
    return static_cast<int>(torch::stable::get_num_threads());
#endif
}

}  // namespace ldp

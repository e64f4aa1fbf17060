// A CUDA runtime without a GPU, for host code that nvcc compiled: it answers what <ldp/launch.h> may ask, notes what
// was asked, and starts nothing. Whatever else a launcher calls, a synchronisation or an allocation, does not link.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace fake_runtime {

struct Launch {
    int device;
    const void* kernel;
    unsigned grid, block;
    size_t shared;
};

struct Runtime {
    int device = 0;
    std::vector<int> optin{232448, 101376};                    // bytes, device by device
    std::map<std::string, int> calls;                          // how often each function was called
    std::map<std::pair<int, const void*>, int> allowed, hint;  // what a kernel may have, and its carveout, by device
    std::vector<Launch> launches;
    cudaError_t last = cudaSuccess;
    int static_shared = 768;
    int resident = 3;
};

Runtime& runtime();

}  // namespace fake_runtime

#include "limits.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {
namespace {

constexpr int kKiB = 1024, kRegisters = 65536, kRegistersOfThread = 128;
constexpr Limits kKnown[] = {
    {"sm_120", 99 * kKiB, 100 * kKiB, 1536},
    {"sm_90", 227 * kKiB, 228 * kKiB, 2048},
    {"sm_80", 163 * kKiB, 164 * kKiB, 2048},
};

const Limits& chosen() {
    const char* const name = std::getenv("LDP_CUDA_DEVICE");
    if (name == nullptr || *name == 0) return kKnown[0];
    for (const Limits& known : kKnown)
        if (std::strcmp(known.name, name) == 0) return known;
    fail("LDP_CUDA_DEVICE: expected sm_80, sm_90 or sm_120, got %s", name);
}

}  // namespace

const Limits& limits() {
    static const Limits& once = chosen();
    return once;
}

int resident_blocks(int threads, size_t shared_bytes) {
    const int by_threads = std::min(limits().threads, kRegisters / kRegistersOfThread) / threads;
    const int by_shared = limits().shared_per_multiprocessor / (static_cast<int>(shared_bytes) + kReservedShared);
    return std::max(1, std::min(by_threads, by_shared));
}

}  // namespace cuda_on_cpu

// Fresh memory of a large output, in pages of 2 MiB where the system leaves the choice to the program.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ldp {

// Called before the first write. An output of 50 MB is otherwise 12000 page faults, which take longer than the hash
// grid's gradient itself, and scattered writes to it miss the TLB. Does nothing to memory that is already there, nor
// where the system knows no such pages.
inline void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t kPage = uintptr_t{1} << 21;
    const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
    const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kPage * kPage;
    // Only advice: a refusal changes nothing.
    if (first < last) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
    (void)data, (void)bytes;
#endif
}

}  // namespace ldp

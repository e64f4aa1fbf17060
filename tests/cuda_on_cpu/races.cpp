#include "races.h"

#include <unordered_map>
#include <vector>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {
namespace {

struct Access {
    uint64_t launch = 0;
    Position by;
    const void* where = nullptr;
    bool atomic = false;
};

// A write ends the reads before it; of these two by different threads are kept, so that one is not the writer's own.
struct Byte {
    Access write, reads[2];
};

constexpr uintptr_t kPage = 1024;
using Page = std::vector<Byte>;

std::unordered_map<uintptr_t, Page> pages;
uint64_t launches = 1;

Byte& byte_at(uintptr_t address) {
    static uintptr_t last_number = 0;
    static Byte* last = nullptr;
    const uintptr_t number = address / kPage;
    if (last == nullptr || number != last_number) {
        auto& page = pages[number];
        if (page.empty()) page.resize(kPage);
        last = page.data();
        last_number = number;
    }
    return last[address % kPage];
}

bool same_thread(const Position& a, const Position& b) { return a.block == b.block && a.thread == b.thread; }

bool ordered(const Position& a, const Position& b) {
    if (a.block != b.block) return false;
    if (a.thread == b.thread || a.block_phase != b.block_phase) return true;
    return a.thread / 32 == b.thread / 32 && a.warp_phase != b.warp_phase;
}

void against(const Access& old, const Access& now, const void* address, bool old_writes, bool now_writes) {
    if (old.launch != now.launch || (old.atomic && now.atomic) || ordered(old.by, now.by)) return;
    const char* does = now.atomic ? "changes" : now_writes ? "writes" : "reads";
    const char* did = old.atomic ? "changed" : old_writes ? "wrote" : "read";
    fail("race at %p: this thread %s it (pc %p), and no barrier is between that and thread %u of block %llu (counted "
         "linearly), which %s it (pc %p)",
         address, does, now.where, old.by.thread, static_cast<unsigned long long>(old.by.block), did, old.where);
}

}  // namespace

void note_launch() { ++launches; }

void note_memory(const void* address, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) byte_at(reinterpret_cast<uintptr_t>(address) + i) = Byte();
}

void note_access(const void* address, size_t bytes, bool writes, bool atomic, const void* where) {
    if (!in_kernel() || is_stack(address)) return;
    const Access now{launches, position(), where, atomic};
    for (size_t i = 0; i < bytes; ++i) {
        Byte& byte = byte_at(reinterpret_cast<uintptr_t>(address) + i);
        against(byte.write, now, address, true, writes);
        if (writes) {
            for (Access& read : byte.reads) {
                against(read, now, address, false, true);
                read = Access();
            }
            byte.write = now;
        } else {
            if (byte.reads[0].launch == launches && !same_thread(byte.reads[0].by, now.by))
                byte.reads[1] = byte.reads[0];
            byte.reads[0] = now;
        }
    }
}

}  // namespace cuda_on_cpu

// What the compiler calls. The names are those of the ThreadSanitizer runtime, which is not linked.
#define LDP_ACCESS(name, bytes, writes)                                                         \
    extern "C" void __tsan_##name(void* address) {                                              \
        ::cuda_on_cpu::note_access(address, bytes, writes, false, __builtin_return_address(0)); \
    }
#define LDP_ACCESSES(bytes)                                  \
    LDP_ACCESS(read##bytes, bytes, false)                    \
    LDP_ACCESS(write##bytes, bytes, true)                    \
    LDP_ACCESS(unaligned_read##bytes, bytes, false)          \
    LDP_ACCESS(unaligned_write##bytes, bytes, true)          \
    LDP_ACCESS(volatile_read##bytes, bytes, false)           \
    LDP_ACCESS(volatile_write##bytes, bytes, true)           \
    LDP_ACCESS(unaligned_volatile_read##bytes, bytes, false) \
    LDP_ACCESS(unaligned_volatile_write##bytes, bytes, true)
LDP_ACCESSES(1)
LDP_ACCESSES(2)
LDP_ACCESSES(4)
LDP_ACCESSES(8)
LDP_ACCESSES(16)

extern "C" void __tsan_read_range(void* address, unsigned long bytes) {
    ::cuda_on_cpu::note_access(address, bytes, false, false, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* address, unsigned long bytes) {
    ::cuda_on_cpu::note_access(address, bytes, true, false, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}

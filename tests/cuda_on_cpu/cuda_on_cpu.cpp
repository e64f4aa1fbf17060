// Fibers, barriers and collectives behind cuda_on_cpu.h, orders and comparisons behind testing.h.
#include "cuda_on_cpu.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "races.h"
#include "stack_switch.h"
#include "testing.h"

#if defined(LDP_RACES) || defined(LDP_NO_SANITIZERS)
// Without AddressSanitizer nobody has to know which stack is in use.
#define __sanitizer_start_switch_fiber(...)
#define __sanitizer_finish_switch_fiber(...)
#else
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_cpu {
namespace {

constexpr size_t kStackBytes = 256 * 1024, kFibers = 1024;
constexpr size_t kStaticLimit = 48 * 1024;

size_t shared_limit() { return static_cast<size_t>(limits().shared_per_block); }

struct Fiber {
    char* stack = nullptr;
    StackPointer pointer{};
};

struct Thread {
    enum State { kFresh, kReady, kBarrier, kCollective, kDone } state = kFresh;
    uint3 index{};
    Fiber* fiber = nullptr;
    const char* at = "";  // the name of what it waits for
    int predicate = 0, count = 0;
    unsigned mask = 0;
    void* request = nullptr;
    Complete complete = nullptr;
    uint32_t warp_phase = 0;
};

struct Warp {
    unsigned lanes = 0, left = 0, waiting = 0;  // one bit a lane: there at all, left the kernel, in a collective
};

struct Device {
    const char* kernel = "";
    void (*body)(void*) = nullptr;
    void* context = nullptr;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<int> sequence;
    int running = -1, alive = 0, at_barrier = 0;
    uint64_t block_serial = 0;
    std::vector<void*> shared;
    size_t static_bytes = 0, dynamic_bytes = 0;
    void* dynamic = nullptr;
    uint64_t block = 0;
    uint32_t block_phase = 0;
    char* stacks = nullptr;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber*> idle;
    StackPointer scheduler{};
};

Device device;
bool inside = false;  // of a thread of a kernel; valid before `device` is constructed

void to_scheduler() { switch_stack(device.threads[device.running].fiber->pointer, device.scheduler); }

void leave() {
    Thread& own = device.threads[device.running];
    own.state = Thread::kDone;
    --device.alive;
    const int first = device.running / 32 * 32;
    Warp& warp = device.warps[first / 32];
    warp.left |= 1u << (device.running - first);
    for (int i = 0; i < 32 && warp.waiting != 0; ++i)
        if ((warp.waiting >> i & 1u) && (device.threads[first + i].mask & warp.left))
            fail("a lane has left the kernel while lane %d waits for it in %s with mask %08x", i,
                 device.threads[first + i].at, device.threads[first + i].mask);
    if (device.at_barrier) fail("a thread has left the kernel while others wait for it at a barrier");
    device.idle.push_back(own.fiber);
}

// One thread after another lives on a fiber.
void fiber_main() {
    for (;;) {
        device.body(device.context);
        leave();
        to_scheduler();
    }
}

char* stacks() {
    if (device.stacks == nullptr) {
        void* memory = mmap(nullptr, kFibers * kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) fail("no memory for the threads' stacks");
        device.stacks = static_cast<char*>(memory);
    }
    return device.stacks;
}

// While it lives, AddressSanitizer takes all fibers' stacks for the one in use. It wants to know only for its reports;
// told of every switch, it would take a third of the time that kernels take.
class OnFibers {
public:
    OnFibers() { announce(stacks(), kFibers * kStackBytes); }
    ~OnFibers() { announce(stack_, bytes_); }
    OnFibers(const OnFibers&) = delete;
    OnFibers& operator=(const OnFibers&) = delete;

private:
    void announce([[maybe_unused]] const void* stack, [[maybe_unused]] size_t bytes) {
        __sanitizer_start_switch_fiber(nullptr, stack, bytes);
        __sanitizer_finish_switch_fiber(nullptr, &stack_, &bytes_);
    }
    const void* stack_ = nullptr;
    size_t bytes_ = 0;
};

Fiber* take_fiber() {
    if (device.idle.empty()) {
        auto fiber = std::make_unique<Fiber>();
        fiber->stack = stacks() + device.fibers.size() * kStackBytes;
        // The lowest page is a wall, so that a stack that overflows ends the process.
        if (mprotect(fiber->stack, static_cast<size_t>(sysconf(_SC_PAGESIZE)), PROT_NONE) != 0)
            fail("no wall below a stack");
        prepare_stack(fiber->pointer, fiber->stack, kStackBytes, &fiber_main);
        device.idle.push_back(fiber.get());
        device.fibers.push_back(std::move(fiber));
    }
    Fiber* const fiber = device.idle.back();
    device.idle.pop_back();
    return fiber;
}

void resume(int index) {
    Thread& thread = device.threads[index];
    device.running = index;
    threadIdx = thread.index;
    if (thread.state == Thread::kFresh) thread.fiber = take_fiber();
    thread.state = Thread::kReady;
    inside = true;
    switch_stack(device.scheduler, thread.fiber->pointer);
    inside = false;
    device.running = -1;
}

uint64_t next_random(uint64_t& state) {
    state += 0x9e3779b97f4a7c15ull;
    uint64_t z = (state ^ state >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

template <typename T>
void arrange(std::vector<T>& sequence, Arrangement arrangement, uint64_t& state) {
    std::iota(sequence.begin(), sequence.end(), T(0));
    if (arrangement == Arrangement::kReverse) std::reverse(sequence.begin(), sequence.end());
    if (arrangement == Arrangement::kRandom)
        for (size_t i = sequence.size(); i > 1; --i) std::swap(sequence[i - 1], sequence[next_random(state) % i]);
}

[[noreturn]] void deadlock() {
    std::string waiting;
    int named = 0;
    for (const Thread& thread : device.threads)
        if (thread.state != Thread::kDone && named++ < 8) {
            char line[160];
            std::snprintf(line, sizeof(line), "\n    thread (%u, %u, %u) in %s, mask %08x", thread.index.x,
                          thread.index.y, thread.index.z, thread.at,
                          thread.state == Thread::kCollective ? thread.mask : 0xffffffffu);
            waiting += line;
        }
    fail("deadlock: %d threads wait in different places, among them%s", device.alive, waiting.c_str());
}

void* poisoned_memory(size_t bytes) {
    void* data = nullptr;
    if (posix_memalign(&data, 16, bytes) != 0) fail("no shared memory");
    std::memset(data, current_order().poison, bytes);
    note_memory(data, bytes);
    return data;
}

void run_threads(uint64_t& random) {
    const OnFibers fibers;
    while (device.alive > 0) {
        bool progress = false;
        for (const int index : device.sequence)
            if (device.threads[index].state <= Thread::kReady) {
                resume(index);
                progress = true;
            }
        if (!progress) deadlock();
        if (current_order().threads == Arrangement::kRandom) arrange(device.sequence, Arrangement::kRandom, random);
    }
}

void run_block(size_t shared_bytes, uint64_t& random) {
    const auto size = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
    device.threads.assign(size, Thread());
    for (int i = 0; i < size; ++i) {
        const auto linear = static_cast<unsigned>(i);
        device.threads[i].index = {linear % blockDim.x, linear / blockDim.x % blockDim.y,
                                   linear / (blockDim.x * blockDim.y)};
    }
    device.warps.assign((size + 31) / 32, Warp());
    for (int i = 0; i < size; ++i) device.warps[i / 32].lanes |= 1u << i % 32;
    ++device.block_serial;
    device.block_phase = 0;
    device.static_bytes = 0;
    device.dynamic_bytes = shared_bytes;
    device.dynamic = shared_bytes ? poisoned_memory(shared_bytes) : nullptr;
    device.alive = size;
    device.at_barrier = 0;
    device.sequence.resize(size);
    arrange(device.sequence, current_order().threads, random);
    run_threads(random);
    std::free(device.dynamic);
    for (void* memory : device.shared) std::free(memory);
    device.shared.clear();
}

}  // namespace

void fail(const char* format, ...) {
    std::fflush(stdout);
    std::fprintf(stderr, "cuda_on_cpu: ");
    if (device.running >= 0)
        std::fprintf(stderr, "%s, block (%u, %u, %u), thread (%u, %u, %u): ", device.kernel, blockIdx.x, blockIdx.y,
                     blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    else if (*device.kernel)
        std::fprintf(stderr, "%s, block (%u, %u, %u): ", device.kernel, blockIdx.x, blockIdx.y, blockIdx.z);
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, " [order: %s]\n", describe(current_order()).c_str());
    std::fflush(stderr);
    _exit(70);
}

int lane() { return device.running % 32; }

#ifdef LDP_RACES
bool in_kernel() { return inside; }

Position position() {
    return {device.block, static_cast<uint32_t>(device.running), device.block_phase,
            device.threads[device.running].warp_phase};
}

bool is_stack(const void* address) {
    const auto* at = static_cast<const char*>(address);
    return at >= device.stacks && at < device.stacks + kFibers * kStackBytes;
}
#endif

void run(const char* name, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* context) {
    const uint64_t threads = uint64_t{block.x} * block.y * block.z;
    if (device.running >= 0) fail("a kernel cannot launch another one here");
    if (!threads || threads > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu ||
        grid.y > 65535 || grid.z > 65535)
        throw std::runtime_error(std::string(name) + ": invalid configuration argument");
    if (shared_bytes > shared_limit()) throw std::runtime_error(std::string(name) + ": invalid argument");
    device.kernel = name;
    device.body = body;
    device.context = context;
    blockDim = block;
    gridDim = grid;
    std::vector<uint64_t> blocks(uint64_t{grid.x} * grid.y * grid.z);
    uint64_t random = current_order().seed;
    arrange(blocks, current_order().blocks, random);
    note_launch();
    for (const uint64_t linear : blocks) {
        device.block = linear;
        blockIdx = {static_cast<unsigned>(linear % grid.x), static_cast<unsigned>(linear / grid.x % grid.y),
                    static_cast<unsigned>(linear / (uint64_t{grid.x} * grid.y))};
        run_block(shared_bytes, random);
    }
    device.kernel = "";
}

void* static_shared(SharedSite& site, size_t bytes) {
    if (site.block != device.block_serial) {
        device.static_bytes += (bytes + 15) / 16 * 16;
        if (device.static_bytes > kStaticLimit)
            fail("more than 48 KiB of static shared memory: %zu bytes", device.static_bytes);
        if (device.static_bytes + device.dynamic_bytes > shared_limit())
            fail("more than %zu KiB of shared memory: %zu bytes", shared_limit() / 1024,
                 device.static_bytes + device.dynamic_bytes);
        site.block = device.block_serial;
        site.data = poisoned_memory(bytes);
        device.shared.push_back(site.data);
    }
    return site.data;
}

void* dynamic_shared() { return device.dynamic; }

int barrier(const char* name, int predicate) {
    Thread& own = device.threads[device.running];
    if (device.alive != static_cast<int>(device.threads.size()))
        fail("%s, but %zu threads have left the kernel", name,
             device.threads.size() - static_cast<size_t>(device.alive));
    own.at = name;
    own.predicate = predicate != 0;
    if (++device.at_barrier < device.alive) {
        own.state = Thread::kBarrier;
        to_scheduler();
        return device.threads[device.running].count;
    }
    int count = 0;
    for (const Thread& thread : device.threads) {
        if (thread.at != name && std::strcmp(thread.at, name) != 0)
            fail("%s, but other threads are in %s", name, thread.at);
        count += thread.predicate;
    }
    for (Thread& thread : device.threads) {
        thread.count = count;
        thread.state = Thread::kReady;
    }
    device.at_barrier = 0;
    ++device.block_phase;
    return count;
}

void collective(const char* name, unsigned mask, void* request, Complete complete) {
    const int first = device.running / 32 * 32, self = device.running - first;
    Thread& own = device.threads[device.running];
    if (!(mask >> self & 1u)) fail("%s with mask %08x, which leaves out the caller, lane %d", name, mask, self);
    own.at = name;
    own.mask = mask;
    own.request = request;
    own.complete = complete;
    own.state = Thread::kCollective;
    Warp& warp = device.warps[first / 32];
    if (const unsigned absent = mask & ~warp.lanes; absent)
        fail("%s with mask %08x, but the block has no lane %d in this warp", name, mask, __builtin_ctz(absent));
    if (const unsigned left = mask & warp.left; left)
        fail("%s with mask %08x, but lane %d has left the kernel", name, mask, __builtin_ctz(left));
    warp.waiting |= 1u << self;
    bool all_here = (warp.waiting & mask) == mask;
    void* requests[32] = {};
    for (int i = 0; i < 32 && all_here; ++i) {
        if (!(mask >> i & 1u)) continue;
        const Thread& other = device.threads[first + i];
        all_here = other.mask == mask;
        if (all_here && other.complete != complete)
            fail("%s by lane %d, but lane %d is in %s with the same mask", name, self, i, other.at);
        requests[i] = other.request;
    }
    if (!all_here) {
        to_scheduler();
        return;
    }
    warp.waiting &= ~mask;
    complete(requests, mask);
    const bool orders_memory = complete == &detail::Sync::complete;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1u) {
            device.threads[first + i].state = Thread::kReady;
            if (orders_memory) ++device.threads[first + i].warp_phase;
        }
}

void detail::Sync::complete(void* const*, unsigned) {}

void detail::Ballot::complete(void* const* requests, unsigned mask) {
    unsigned result = 0;
    for (int i = 0; i < 32; ++i)
        if ((mask >> i & 1u) && static_cast<const Ballot*>(requests[i])->predicate) result |= 1u << i;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1u) static_cast<Ballot*>(requests[i])->result = result;
}

unsigned detail::ballot(const char* name, unsigned mask, int predicate) {
    Ballot request{predicate, 0};
    collective(name, mask, &request, &Ballot::complete);
    return request.result;
}

}  // namespace cuda_on_cpu

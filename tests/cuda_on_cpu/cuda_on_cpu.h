// Runs CUDA kernels on the CPU, for tests: with LDP_CUDA_ON_CPU <ldp/device.h> includes this instead of CUDA.
//
// The threads of a block are fibers, which change places only at barriers and warp collectives; blocks run one after
// another. Under AddressSanitizer and UBSan every access is checked; shared memory and device_buffer are of the exact
// size and poisoned. for_every_order (testing.h) runs kernels in several orders of threads and blocks and under two
// poisons, so that missing barriers and uninitialised reads show as results that change. A second build of the same
// driver finds data races by themselves, results apart (races.h). What is not seen: missing memory fences, and what
// blocks that wait for each other would do (they hang).
//
// Stricter than a GPU: a warp collective or barrier that some of its threads never reach is an error, also when they
// have left the kernel; collectives need whole warps; a block gets 48 KiB of static shared memory, and in all what the
// chosen architecture has (limits.h), 99 KiB if none was.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_words.h"
#include "limits.h"
#include "races.h"
#include "tensor_core.h"

namespace cuda_on_cpu {

// Arguments of one collective wait here until all lanes of `mask` have come with the same `complete`; it then does the
// work for all. requests[lane] is null for lanes outside of the mask.
using Complete = void (*)(void* const* requests, unsigned mask);
void collective(const char* name, unsigned mask, void* request, Complete complete);

// Waits for all threads of the block. Returns how many of them brought a predicate that is not zero.
int barrier(const char* name, int predicate);

// Of the thread that runs, as CUDA numbers them.
int lane();

// Ends the process with a sentence about the kernel, block and thread that run.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// One for each declaration of static shared memory.
struct SharedSite {
    uint64_t block = 0;
    void* data = nullptr;
};
void* static_shared(SharedSite& site, size_t bytes);
void* dynamic_shared();

// body(context) is one thread of the kernel.
void run(const char* name, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* context);

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            Arguments&&... arguments) {
    using Call = std::pair<void (*)(Parameters...), std::tuple<std::decay_t<Parameters>...>>;
    Call call(kernel, std::tuple<std::decay_t<Parameters>...>(static_cast<Parameters>(arguments)...));
    const auto body = [](void* context) {
        const auto& [function, values] = *static_cast<const Call*>(context);
        std::apply(function, values);  // copies: a thread's parameters are its own
    };
    run(name, grid, block, shared_bytes, body, &call);
}

namespace detail {

template <typename T>
struct Shuffle {
    T value;
    int source;

    static void complete(void* const* requests, unsigned mask) {
        T values[32];
        for (int i = 0; i < 32; ++i)
            if (mask >> i & 1u) values[i] = static_cast<const Shuffle*>(requests[i])->value;
        for (int i = 0; i < 32; ++i)
            if (mask >> i & 1u) {
                auto& own = *static_cast<Shuffle*>(requests[i]);
                if (!(mask >> own.source & 1u))
                    fail("lane %d shuffles from lane %d, which takes no part", i, own.source);
                own.value = values[own.source];
            }
    }
};

template <typename T>
T shuffle(const char* name, unsigned mask, T value, int source, int width) {
    static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2));
    if (width < 1 || width > 32 || (width & (width - 1)))
        fail("%s: expected a width of 1, 2, 4, 8, 16 or 32, got %d", name, width);
    Shuffle<T> request{value, source};
    collective(name, mask, &request, &Shuffle<T>::complete);
    return request.value;
}

struct Ballot {
    int predicate;
    unsigned result;

    static void complete(void* const* requests, unsigned mask);
};

template <typename T>
struct Match {
    T value;
    unsigned result;

    static void complete(void* const* requests, unsigned mask) {
        for (int i = 0; i < 32; ++i)
            for (int j = 0; j < 32; ++j)
                if ((mask >> i & 1u) && (mask >> j & 1u)) {
                    auto& own = *static_cast<Match*>(requests[i]);
                    if (own.value == static_cast<const Match*>(requests[j])->value) own.result |= 1u << j;
                }
    }
};

struct Sync {
    static void complete(void* const*, unsigned mask);
};

unsigned ballot(const char* name, unsigned mask, int predicate);

template <typename T, typename Change>
__attribute__((no_sanitize("thread"))) T atomic(T* address, Change change) {
#ifdef LDP_RACES
    note_access(address, sizeof(T), true, true, __builtin_return_address(0));
#endif
    const T old = *address;
    *address = change(old);
    return old;
}

}  // namespace detail
}  // namespace cuda_on_cpu

#define LDP_SHARED(type, name, count)                    \
    static ::cuda_on_cpu::SharedSite ldp_site_of_##name; \
    type* const name = static_cast<type*>(::cuda_on_cpu::static_shared(ldp_site_of_##name, sizeof(type) * (count)))

#define LDP_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::cuda_on_cpu::dynamic_shared())

inline void __syncthreads() { ::cuda_on_cpu::barrier("__syncthreads", 0); }
inline int __syncthreads_count(int predicate) { return ::cuda_on_cpu::barrier("__syncthreads_count", predicate); }
inline int __syncthreads_or(int predicate) { return ::cuda_on_cpu::barrier("__syncthreads_or", predicate) != 0; }
inline int __syncthreads_and(int predicate) { return ::cuda_on_cpu::barrier("__syncthreads_and", !predicate) == 0; }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    ::cuda_on_cpu::collective("__syncwarp", mask, &mask, &::cuda_on_cpu::detail::Sync::complete);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return ::cuda_on_cpu::detail::ballot("__ballot_sync", mask, predicate);
}
inline int __any_sync(unsigned mask, int predicate) {
    return ::cuda_on_cpu::detail::ballot("__any_sync", mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
    return ::cuda_on_cpu::detail::ballot("__all_sync", mask, predicate) == mask;
}

// There is no __activemask here: which lanes happen to be together is nothing a kernel may rely on.
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
    ::cuda_on_cpu::detail::Match<T> request{value, 0};
    ::cuda_on_cpu::collective("__match_any_sync", mask, &request, &::cuda_on_cpu::detail::Match<T>::complete);
    return request.result;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int own = ::cuda_on_cpu::lane();
    return ::cuda_on_cpu::detail::shuffle("__shfl_sync", mask, value, (own & ~(width - 1)) | (source & (width - 1)),
                                          width);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const int own = ::cuda_on_cpu::lane(), source = own - static_cast<int>(delta);
    return ::cuda_on_cpu::detail::shuffle("__shfl_up_sync", mask, value, source < (own & ~(width - 1)) ? own : source,
                                          width);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const int own = ::cuda_on_cpu::lane(), source = own + static_cast<int>(delta);
    return ::cuda_on_cpu::detail::shuffle("__shfl_down_sync", mask, value, source > (own | (width - 1)) ? own : source,
                                          width);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    const int own = ::cuda_on_cpu::lane(), source = own ^ lanes;
    return ::cuda_on_cpu::detail::shuffle("__shfl_xor_sync", mask, value, source > (own | (width - 1)) ? own : source,
                                          width);
}

template <typename T, typename V>
T atomicAdd(T* address, V value) {
    return ::cuda_on_cpu::detail::atomic(address, [&](T old) { return static_cast<T>(old + static_cast<T>(value)); });
}
template <typename T, typename V>
T atomicMax(T* address, V value) {
    return ::cuda_on_cpu::detail::atomic(
        address, [&](T old) { return old < static_cast<T>(value) ? static_cast<T>(value) : old; });
}
template <typename T, typename V>
T atomicMin(T* address, V value) {
    return ::cuda_on_cpu::detail::atomic(
        address, [&](T old) { return static_cast<T>(value) < old ? static_cast<T>(value) : old; });
}
template <typename T, typename V>
T atomicOr(T* address, V value) {
    return ::cuda_on_cpu::detail::atomic(address, [&](T old) { return static_cast<T>(old | static_cast<T>(value)); });
}
template <typename T, typename V>
T atomicAnd(T* address, V value) {
    return ::cuda_on_cpu::detail::atomic(address, [&](T old) { return static_cast<T>(old & static_cast<T>(value)); });
}
template <typename T, typename V>
T atomicExch(T* address, V value) {
    return ::cuda_on_cpu::detail::atomic(address, [&](T) { return static_cast<T>(value); });
}
template <typename T>
T atomicCAS(T* address, T compare, T value) {
    return ::cuda_on_cpu::detail::atomic(address, [&](T old) { return old == compare ? value : old; });
}

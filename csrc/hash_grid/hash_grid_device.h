// What the kernels of this room share: where a sample is, entries as vectors, and the way from F to a template.
#pragma once

#include <ldp/launch.h>

#include <cstring>

#include "hash_grid.h"

namespace ldp {

constexpr int kHashGridThreads = 256;

// Blocks along x: enough to fill the device some times over, the rest is strided over.
template <typename... Parameters>
unsigned hash_grid_blocks(int64_t size, void (*kernel)(Parameters...)) {
    return blocks_for(ceil_div(size, kHashGridThreads), kernel, kHashGridThreads, 0, 4);
}

__device__ __forceinline__ int64_t live_count(const HashGridParams& params) {
    if (params.count == nullptr) return params.size;
    return larger(smaller(*params.count, params.size), int64_t{0});
}

struct HashGridPlace {
    HashGridCell x, y, z;
};

__device__ __forceinline__ HashGridPlace place_of(const HashGridParams& params, const HashGridLevel& level, int64_t s) {
    const float* position = params.positions + s * 3;
    const auto cell = [&](int d) {
        return hash_grid_cell(position[d], level.scale, params.shift, level.resolution, params.smoothstep);
    };
    return {cell(0), cell(1), cell(2)};
}

__device__ __forceinline__ uint32_t corner_index(const HashGridPlace& at, int corner, const HashGridLevel& level,
                                                 GridIndexing indexing) {
    const uint32_t dx = corner & 1, dy = corner >> 1 & 1, dz = corner >> 2;
    return hash_grid_index(at.x.vertex + dx, at.y.vertex + dy, at.z.vertex + dz, level.resolution, level.size, indexing);
}

// All eight before the first load: the branches of an index would otherwise stand between the loads and make each wait.
__device__ __forceinline__ void corner_indices(const HashGridPlace& at, const HashGridLevel& level, GridIndexing indexing,
                                               uint32_t (&index)[8]) {
#pragma unroll
    for (int corner = 0; corner < 8; ++corner) index[corner] = corner_index(at, corner, level, indexing);
}

__device__ __forceinline__ float corner_weight(const HashGridPlace& at, int corner) {
    const float x = corner & 1 ? at.x.weight : 1.0f - at.x.weight, y = corner & 2 ? at.y.weight : 1.0f - at.y.weight;
    return x * y * (corner & 4 ? at.z.weight : 1.0f - at.z.weight);
}

// F values at once, by the widest loads; the address is a multiple of what F values take, 16 bytes at most.
template <int kF>
__device__ __forceinline__ void load_values(const float* address, float (&values)[kF]) {
    if constexpr (kF == 1) {
        values[0] = load_read_only<float>(address);
    } else if constexpr (kF == 2) {
        const float2 pair = load_read_only<float2>(address);
        values[0] = pair.x;
        values[1] = pair.y;
    } else {
#pragma unroll
        for (int f = 0; f < kF; f += 4) {
            const float4 quad = load_read_only<float4>(address + f);
            values[f] = quad.x;
            values[f + 1] = quad.y;
            values[f + 2] = quad.z;
            values[f + 3] = quad.w;
        }
    }
}

template <int kF>
__device__ __forceinline__ void load_values(const half* address, float (&values)[kF]) {
    if constexpr (kF == 1) {
        values[0] = to_float(load_read_only<half>(address));
    } else {
        half2 pairs[kF / 2];
        if constexpr (kF == 2) {
            pairs[0] = load_read_only<half2>(address);
        } else if constexpr (kF == 4) {
            const float2 bits = load_read_only<float2>(address);
            memcpy(pairs, &bits, sizeof(bits));
        } else {
            const float4 bits = load_read_only<float4>(address);
            memcpy(pairs, &bits, sizeof(bits));
        }
#pragma unroll
        for (int f = 0; f < kF; f += 2) {
            const float2 pair = to_float2(pairs[f / 2]);
            values[f] = pair.x;
            values[f + 1] = pair.y;
        }
    }
}

__device__ __forceinline__ float load_value(const float* address) { return *address; }
__device__ __forceinline__ float load_value(const half* address) { return to_float(*address); }

template <typename Entry>
__device__ __forceinline__ const Entry* entries_of(const HashGridParams& params);
template <>
__device__ __forceinline__ const float* entries_of<float>(const HashGridParams& params) {
    return params.table;
}
template <>
__device__ __forceinline__ const half* entries_of<half>(const HashGridParams& params) {
    return static_cast<const half*>(params.shadow);
}

// Whether F values at these addresses can be taken at once.
template <typename... Pointers>
bool hash_grid_aligned(int features, size_t element, Pointers... pointers) {
    const size_t bytes = smaller<size_t>(features * element, 16);
    return (... && (reinterpret_cast<uintptr_t>(pointers) % bytes == 0));
}

// Runs `launch` with F as a compile-time constant; 0 stands for any other F, and for addresses that are not aligned.
#define LDP_BY_FEATURES(features, aligned, ...)                      \
    do {                                                             \
        const auto launch = [&](auto constant) {                     \
            constexpr int kF = decltype(constant)::value;            \
            __VA_ARGS__;                                             \
        };                                                           \
        switch ((aligned) ? (features) : 0) {                        \
            case 1: launch(std::integral_constant<int, 1>()); break; \
            case 2: launch(std::integral_constant<int, 2>()); break; \
            case 4: launch(std::integral_constant<int, 4>()); break; \
            case 8: launch(std::integral_constant<int, 8>()); break; \
            default: launch(std::integral_constant<int, 0>());       \
        }                                                            \
    } while (false)

}  // namespace ldp

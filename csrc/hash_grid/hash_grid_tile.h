// The part of the encoding that its three CPU loops share: entries and weights of a tile of samples at one level.
//
// Laid out with the sample innermost, so that the compiler makes vectors of it; what comes after, the gathers and the
// scatters, is scalar and waits for memory.
#pragma once

#include <cstring>

#include <ldp/cpu_target.h>
#include "hash_grid.h"

namespace ldp {

constexpr uint32_t kFarBits = 0x4efffffbu;  // of the float 2147483000 rounds to; greater magnitudes and NaN have more

constexpr int kTile = 128;  // samples: index and weight of a tile fit the first cache

// Samples between asking for memory and using it: entries are anywhere, rows are too far apart to be foreseen.
constexpr int kEntriesAhead = 16, kRowsAhead = 32;

// Bytes of entries that stay near a core: levels that have no more than this together share a pass over the samples,
// for a pass has to fetch all rows of the encoding (or its gradient), whose lines hold eight levels.
constexpr int64_t kGroupBytes = int64_t{1} << 21;

struct HashGridTile {
    float position[3][kTile];
    float weight[3][kTile];     // of the upper vertex
    float slope[3][kTile];      // HashGridCell::slope; only where asked for
    float face_weight[4][kTile];  // of the corners' other two axes: corner >> 1
    uint32_t vertex[3][kTile];
    uint32_t index[8][kTile + kEntriesAhead];   // entry within the level; what is past the tile is only prefetched
};

LDP_INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

LDP_INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Of an address that may lie behind the end. kWrite: to be written.
template <int kWrite>
LDP_INLINE void prefetch(const float* address) {
#if defined(__GNUC__)
    __builtin_prefetch(address, kWrite);
#else
    (void)address;
#endif
}

// Corners x and x + 1 mostly lie in one line of the cache.
template <int kWrite>
LDP_INLINE void prefetch_entries(const HashGridTile& tile, int i, const float* table, int features) {
    for (int corner = 0; corner < 8; corner += 2)
        prefetch<kWrite>(table + static_cast<size_t>(tile.index[corner][i]) * features);
}

inline int64_t hash_grid_count(const HashGridParams& params) {
    const int64_t count = params.count != nullptr ? smaller(*params.count, params.size) : params.size;
    return larger(count, int64_t{0});
}

// The end of the group of levels that begins at place `begin` of the list.
inline int end_of_group(const HashGridParams& params, const int* level, int begin, int end) {
    int64_t bytes = 0;
    for (int at = begin; at < end; ++at) {
        bytes += int64_t{params.levels[level[at]].size} * params.n_features * int64_t{sizeof(float)};
        if (at > begin && bytes > kGroupBytes) return at;
    }
    return end;
}

LDP_INLINE void tile_positions(const HashGridParams& params, int64_t first, int samples, HashGridTile& tile) {
    const float* x = params.positions + first * 3;
    for (int i = 0; i < samples; ++i)
        for (int d = 0; d < 3; ++d) tile.position[d][i] = x[i * 3 + d];
    for (int i = samples; i < kTile; ++i)
        for (int d = 0; d < 3; ++d) tile.position[d][i] = 0.0f;
}

// hash_grid_cell of every sample; the whole tile, so that the trip count is a constant.
LDP_INLINE void tile_cells(const HashGridParams& params, const HashGridLevel& level, HashGridTile& tile, bool slopes) {
    const float scale = level.scale, shift = params.shift;
    const float last = shift == 0.0f && level.resolution > 1 ? scale : -1.0f;
    for (int d = 0; d < 3; ++d) {
        // floorf, and a choice between floats, would keep this loop from becoming vectors: they might trap.
        for (int i = 0; i < kTile; ++i) {
            const float at = fmaf(scale, tile.position[d][i], shift);
            const uint32_t bits = bits_of(at), near = (bits & 0x7fffffffu) < kFarBits ? 0xffffffffu : 0u;
            const float held = float_of(bits & near);
            int32_t vertex = static_cast<int32_t>(held);
            vertex -= static_cast<float>(vertex) > held;
            vertex -= (static_cast<float>(vertex) == last) & (last >= 0.0f);
            tile.vertex[d][i] = static_cast<uint32_t>(vertex);
            tile.weight[d][i] = at - float_of((bits_of(static_cast<float>(vertex)) & near) | (bits & ~near));
        }
        if (slopes)
            for (int i = 0; i < kTile; ++i) {
                const float t = tile.weight[d][i];
                tile.slope[d][i] = params.smoothstep ? 6.0f * t * (1.0f - t) * scale : scale;
            }
        if (params.smoothstep)
            for (int i = 0; i < kTile; ++i) {
                const float t = tile.weight[d][i];
                tile.weight[d][i] = t * t * (3.0f - 2.0f * t);
            }
    }
}

template <bool kHash>
LDP_INLINE void tile_raw_indices(uint32_t stride_y, uint32_t stride_z, uint32_t mask, HashGridTile& tile) {
    for (int i = 0; i < kTile; ++i) {
        const uint32_t x = tile.vertex[0][i], y = tile.vertex[1][i] * stride_y, z = tile.vertex[2][i] * stride_z;
        for (int corner = 0; corner < 8; ++corner) {
            const uint32_t at_x = x + (corner & 1), at_y = corner & 2 ? y + stride_y : y;
            const uint32_t at_z = corner & 4 ? z + stride_z : z;
            tile.index[corner][i] = (kHash ? at_x ^ at_y ^ at_z : at_x + at_y + at_z) & mask;
        }
    }
}

// hash_grid_index of every corner, without its division where the size is a power of two or nothing wraps.
LDP_INLINE void tile_indices(const HashGridParams& params, const HashGridLevel& level, HashGridTile& tile) {
    const uint32_t size = level.size, resolution = level.resolution;
    const uint64_t area = static_cast<uint64_t>(resolution) * resolution;
    const bool all_axes = params.indexing == GridIndexing::kTiled;
    const bool whole_y = all_axes || resolution <= size, whole_z = all_axes || area <= size;
    const uint64_t stride = whole_z ? area * resolution : whole_y ? area : resolution;
    const bool power = (size & (size - 1)) == 0;
    const uint32_t mask = power ? size - 1 : 0xffffffffu;
    if (params.indexing == GridIndexing::kHashed && size < stride)
        tile_raw_indices<true>(2654435761u, 805459861u, mask, tile);
    else
        tile_raw_indices<false>(whole_y ? resolution : 0u, whole_z ? static_cast<uint32_t>(area) : 0u, mask, tile);
    if (power) return;
    for (int corner = 0; corner < 8; ++corner) {
        uint32_t wraps = 0;
        for (int i = 0; i < kTile; ++i) wraps |= tile.index[corner][i] >= size ? 1u : 0u;
        if (wraps != 0)
            for (int i = 0; i < kTile; ++i)
                if (tile.index[corner][i] >= size) tile.index[corner][i] %= size;
    }
}

LDP_INLINE void tile_face_weights(HashGridTile& tile) {
    for (int i = 0; i < kTile; ++i) {
        const float y = tile.weight[1][i], z = tile.weight[2][i];
        tile.face_weight[0][i] = (1.0f - y) * (1.0f - z);
        tile.face_weight[1][i] = y * (1.0f - z);
        tile.face_weight[2][i] = (1.0f - y) * z;
        tile.face_weight[3][i] = y * z;
    }
}

LDP_INLINE float corner_weight(const HashGridTile& tile, int corner, int i) {
    const float x = tile.weight[0][i];
    return (corner & 1 ? x : 1.0f - x) * tile.face_weight[corner >> 1][i];
}

#if defined(__GNUC__)
#define LDP_ENTRY_PAIRS

// Two entries of two features: those of the corners x and x + 1.
typedef float EntryPair __attribute__((vector_size(16)));

LDP_INLINE EntryPair load_pair(const float* low, const float* high) {
    typedef double Halves __attribute__((vector_size(16)));
    Halves halves;
    double half;
    memcpy(&half, low, 8);
    halves[0] = half;
    memcpy(&half, high, 8);
    halves[1] = half;
    return (EntryPair)halves;
}

LDP_INLINE void store_pair(EntryPair pair, float* low, float* high) {
    typedef double Halves __attribute__((vector_size(16)));
    const Halves halves = (Halves)pair;
    const double first = halves[0], second = halves[1];
    memcpy(low, &first, 8);
    memcpy(high, &second, 8);
}
#endif

}  // namespace ldp

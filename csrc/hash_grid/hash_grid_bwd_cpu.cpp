// The table's gradient: levels are dealt out to threads, so that no two write to the same entry. Where there are more
// threads than levels, ranges of a level's entries are: each thread then passes over all samples and takes what falls
// into its range. Either way an entry sums its samples in their order: no atomics, and the same bits for any number of
// threads.
#include <ldp/huge_pages.h>
#include <ldp/parallel.h>

#include <cstring>

#include "hash_grid_tile.h"

namespace ldp {
namespace {

struct Range {
    uint32_t first;  // entry within the level
    uint32_t size;
};

template <int kF>
struct Scatter {
    LDP_INLINE static void run(const HashGridParams* params, const float* grad, float* grad_table, int l, Range range) {
        const int features = kF > 0 ? kF : params->n_features;
        const int64_t width = static_cast<int64_t>(params->n_levels) * features, count = hash_grid_count(*params);
        const HashGridLevel& level = params->levels[l];
        // In a level of an even size x and x + 1 are two entries, wrapped or not: a pair is read and written at once.
        const bool whole = range.size == level.size && level.size % 2 == 0;
        float* out = grad_table + level.offset * features;
        HashGridTile tile{};
        for (int64_t first = 0; first < count; first += kTile) {
            const int samples = static_cast<int>(smaller<int64_t>(kTile, count - first));
            tile_positions(*params, first, samples, tile);
            tile_cells(*params, level, tile, false);
            tile_indices(*params, level, tile);
            tile_face_weights(tile);
            const float* g = grad + first * width + l * features;
            if (whole)
                add<true>(tile, g, out, samples, width, features, range);
            else
                add<false>(tile, g, out, samples, width, features, range);
        }
    }

    template <bool kWhole>
    LDP_INLINE static void add(const HashGridTile& tile, const float* g, float* out, int samples, int64_t width,
                               int features, Range range) {
        const int known = kF > 0 ? kF : features;
#ifdef LDP_ENTRY_PAIRS
        if (kF == 2) {
            for (int i = 0; i < samples; ++i, g += width) {
                prefetch<0>(g + kRowsAhead * width);
                prefetch_entries<1>(tile, i + kEntriesAhead, out, 2);
                if (g[0] == 0.0f && g[1] == 0.0f) continue;
                const float x = tile.weight[0][i], rest = 1.0f - x;
                const EntryPair share = {rest * g[0], rest * g[1], x * g[0], x * g[1]};
                for (int face = 0; face < 4; ++face) {
                    const uint32_t indices[2] = {tile.index[2 * face][i], tile.index[2 * face + 1][i]};
                    float* const low = out + size_t{indices[0]} * 2;
                    float* const high = out + size_t{indices[1]} * 2;
                    const EntryPair term = tile.face_weight[face][i] * share;
                    if (kWhole) {
                        store_pair(load_pair(low, high) + term, low, high);
                        continue;
                    }
                    for (int side = 0; side < 2; ++side)
                        if (indices[side] - range.first < range.size)
                            for (int f = 0; f < 2; ++f) (side == 0 ? low : high)[f] += term[2 * side + f];
                }
            }
            return;
        }
#endif
        for (int i = 0; i < samples; ++i, g += width) {
            prefetch_entries<1>(tile, i + kEntriesAhead, out, known);
            bool zero = true;
            for (int f = 0; f < known; ++f) zero &= g[f] == 0.0f;
            if (zero) continue;
            for (int corner = 0; corner < 8; ++corner) {
                const uint32_t index = tile.index[corner][i];
                if (!kWhole && index - range.first >= range.size) continue;
                const float weight = corner_weight(tile, corner, i);
                float* entry = out + static_cast<size_t>(index) * known;
                for (int f = 0; f < known; ++f) entry[f] += weight * g[f];
            }
        }
    }
};

void scatter(const HashGridParams& params, const float* grad, float* grad_table, int l, Range range) {
    switch (params.n_features) {
        case 1: return run_widest<Scatter<1>>(&params, grad, grad_table, l, range);
        case 2: return run_widest<Scatter<2>>(&params, grad, grad_table, l, range);
        case 4: return run_widest<Scatter<4>>(&params, grad, grad_table, l, range);
        case 8: return run_widest<Scatter<8>>(&params, grad, grad_table, l, range);
        default: return run_widest<Scatter<0>>(&params, grad, grad_table, l, range);
    }
}

}  // namespace

void hash_grid_backward_table_cpu(const HashGridParams& params, const float* grad, float* grad_table) {
    const int levels = params.n_levels;
    const HashGridLevel& last = params.levels[levels - 1];
    prefer_huge_pages(grad_table, (last.offset + last.size) * params.n_features * int64_t{sizeof(float)});
    const int64_t parts = (static_cast<int64_t>(thread_count()) + levels - 1) / levels;
    parallel_for(levels * parts, 1, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
            // A thread gets neighbouring items: coarse levels, which the cache holds, alternate with fine ones.
            const int64_t place = item / parts, part = item % parts;
            const auto l = static_cast<int>(place % 2 == 0 ? place / 2 : levels - 1 - place / 2);
            const HashGridLevel& level = params.levels[l];
            const auto from = static_cast<uint32_t>(level.size * part / parts);
            const Range range{from, static_cast<uint32_t>(level.size * (part + 1) / parts) - from};
            memset(grad_table + (level.offset + range.first) * params.n_features, 0,
                   static_cast<size_t>(range.size) * params.n_features * sizeof(float));
            if (range.size > 0) scatter(params, grad, grad_table, l, range);
        }
    });
}

}  // namespace ldp

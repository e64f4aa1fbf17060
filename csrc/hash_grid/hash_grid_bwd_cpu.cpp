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

// What one thread does.
struct Work {
    int level[kMaxLevels];
    int levels;
    bool whole;   // all entries of its levels
    Range range;  // else those of its only level
};

// The entries of one of its levels that a thread adds to.
LDP_INLINE Range range_of(const Work& work, const HashGridLevel& level) {
    return work.whole ? Range{0, level.size} : work.range;
}

template <int kF>
struct Scatter {
    LDP_INLINE static void run(const HashGridParams* params, const float* grad, float* grad_table, const Work* work) {
        const int features = kF > 0 ? kF : params->n_features;
        const int64_t width = static_cast<int64_t>(params->n_levels) * features, count = hash_grid_count(*params);
        HashGridTile tile{};
        for (int group = 0, next; group < work->levels; group = next) {
            next = end_of_group(*params, work->level, group, work->levels);
            for (int64_t first = 0; first < count; first += kTile) {
                const int samples = static_cast<int>(smaller<int64_t>(kTile, count - first));
                tile_positions(*params, first, samples, tile);
                for (int at = group; at < next; ++at) {
                    const int l = work->level[at];
                    const HashGridLevel& level = params->levels[l];
                    tile_cells(*params, level, tile, false);
                    tile_indices(*params, level, tile);
                    tile_face_weights(tile);
                    const float* g = grad + first * width + l * features;
                    float* out = grad_table + level.offset * features;
                    // In a level of an even size x and x + 1 are two entries, wrapped or not: a pair is read and
                    // written at once.
                    if (work->whole && level.size % 2 == 0)
                        add<true>(tile, g, out, samples, width, features, range_of(*work, level));
                    else
                        add<false>(tile, g, out, samples, width, features, range_of(*work, level));
                }
            }
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

void scatter(const HashGridParams& params, const float* grad, float* grad_table, const Work& work) {
    for (int at = 0; at < work.levels; ++at) {
        const HashGridLevel& level = params.levels[work.level[at]];
        const Range range = range_of(work, level);
        memset(grad_table + (level.offset + range.first) * params.n_features, 0,
               static_cast<size_t>(range.size) * params.n_features * sizeof(float));
    }
    switch (params.n_features) {
        case 1: return run_widest<Scatter<1>>(&params, grad, grad_table, &work);
        case 2: return run_widest<Scatter<2>>(&params, grad, grad_table, &work);
        case 4: return run_widest<Scatter<4>>(&params, grad, grad_table, &work);
        case 8: return run_widest<Scatter<8>>(&params, grad, grad_table, &work);
        default: return run_widest<Scatter<0>>(&params, grad, grad_table, &work);
    }
}

// Levels that the caches close to a core do not hold take about twice as long.
int cost(const HashGridParams& params, int l) {
    const int64_t bytes = int64_t{params.levels[l].size} * params.n_features * int64_t{sizeof(float)};
    return bytes <= kGroupBytes ? 1 : 2;
}

// The levels of every thread: the dearest are dealt first, each to the thread that has least.
void deal_levels(const HashGridParams& params, int threads, Work* work) {
    int sum[kMaxLevels] = {}, owner[kMaxLevels];
    for (const int wanted : {2, 1})
        for (int l = 0; l < params.n_levels; ++l) {
            if (cost(params, l) != wanted) continue;
            int least = 0;
            for (int t = 1; t < threads; ++t)
                if (sum[t] < sum[least]) least = t;
            sum[least] += wanted;
            owner[l] = least;
        }
    // In ascending order, so that small levels, which share a pass, are neighbours.
    for (int t = 0; t < threads; ++t) work[t].whole = true;
    for (int l = 0; l < params.n_levels; ++l) work[owner[l]].level[work[owner[l]].levels++] = l;
}

}  // namespace

void hash_grid_backward_table_cpu(const HashGridParams& params, const float* grad, float* grad_table) {
    const int levels = params.n_levels;
    const HashGridLevel& last = params.levels[levels - 1];
    prefer_huge_pages(grad_table, (last.offset + last.size) * params.n_features * int64_t{sizeof(float)});
    const int threads = thread_count();
    if (threads <= levels) {
        Work work[kMaxLevels] = {};
        deal_levels(params, threads, work);
        parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
            for (int64_t item = begin; item < end; ++item) scatter(params, grad, grad_table, work[item]);
        });
        return;
    }
    const int64_t parts = (static_cast<int64_t>(threads) + levels - 1) / levels;
    parallel_for(levels * parts, 1, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
            const int64_t l = item / parts, part = item % parts, size = params.levels[l].size;
            const auto from = static_cast<uint32_t>(size * part / parts);
            const Range range{from, static_cast<uint32_t>(size * (part + 1) / parts) - from};
            if (range.size > 0) scatter(params, grad, grad_table, {{static_cast<int>(l)}, 1, false, range});
        }
    });
}

}  // namespace ldp

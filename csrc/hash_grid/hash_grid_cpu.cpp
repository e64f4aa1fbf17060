// Encoding and its gradient by the positions: samples are dealt out to threads, and each thread takes one level after
// another over all of its samples, so that a level's entries (4 MB) stay in the cache. It was twice as fast as taking
// all levels over a few thousand samples, whose outputs then stay in the cache instead: those stream, entries do not.
// Small levels share a pass.
#include <ldp/huge_pages.h>
#include <ldp/parallel.h>

#include <cstring>

#include "hash_grid_tile.h"

namespace ldp {
namespace {

constexpr int64_t kGrain = 1024;
// kF features, or params.n_features where kF is 0.
template <int kF>
struct Forward {
    LDP_INLINE static void run(const HashGridParams* params, float* encoding, int64_t begin, int64_t end) {
        const int features = kF > 0 ? kF : params->n_features;
        const int64_t width = static_cast<int64_t>(params->n_levels) * features;
        HashGridTile tile{};
        int level_at[kMaxLevels];
        for (int l = 0; l < params->n_levels; ++l) level_at[l] = l;
        for (int group = 0, next; group < params->n_levels; group = next) {
            next = end_of_group(*params, level_at, group, params->n_levels);
            for (int64_t first = begin; first < end; first += kTile) {
                const int samples = static_cast<int>(smaller<int64_t>(kTile, end - first));
                tile_positions(*params, first, samples, tile);
                for (int l = group; l < next; ++l) {
                    const HashGridLevel& level = params->levels[l];
                    const float* table = params->table + level.offset * features;
                    tile_cells(*params, level, tile, false);
                    tile_indices(*params, level, tile);
                    tile_face_weights(tile);
                    gather(tile, table, encoding + first * width + l * features, samples, width, features);
                }
            }
        }
    }

    LDP_INLINE static void gather(const HashGridTile& tile, const float* table, float* out, int samples, int64_t width,
                                  int features) {
        constexpr int kKnown = kF > 0 ? kF : 1;
#ifdef LDP_ENTRY_PAIRS
        if (kF == 2) {
            for (int i = 0; i < samples; ++i, out += width) {
                prefetch<1>(out + kRowsAhead * width);
                prefetch_entries<0>(tile, i + kEntriesAhead, table, 2);
                EntryPair sum = {};
                for (int face = 0; face < 4; ++face) {
                    const size_t low = tile.index[2 * face][i], high = tile.index[2 * face + 1][i];
                    sum += tile.face_weight[face][i] * load_pair(table + low * 2, table + high * 2);
                }
                const float x = tile.weight[0][i];
                for (int f = 0; f < 2; ++f) out[f] = (1.0f - x) * sum[f] + x * sum[2 + f];
            }
            return;
        }
#endif
        for (int i = 0; i < samples; ++i, out += width) {
            prefetch_entries<0>(tile, i + kEntriesAhead, table, features);
            if (kF > 0) {
                float sum[kKnown] = {};
                for (int corner = 0; corner < 8; ++corner) {
                    const float weight = corner_weight(tile, corner, i);
                    const float* entry = table + static_cast<size_t>(tile.index[corner][i]) * kKnown;
                    for (int f = 0; f < kKnown; ++f) sum[f] += weight * entry[f];
                }
                for (int f = 0; f < kKnown; ++f) out[f] = sum[f];
            } else {
                for (int f = 0; f < features; ++f) out[f] = 0.0f;
                for (int corner = 0; corner < 8; ++corner) {
                    const float weight = corner_weight(tile, corner, i);
                    const float* entry = table + static_cast<size_t>(tile.index[corner][i]) * features;
                    for (int f = 0; f < features; ++f) out[f] += weight * entry[f];
                }
            }
        }
    }
};

template <int kF>
struct BackwardPositions {
    LDP_INLINE static void run(const HashGridParams* params, const float* grad, float* grad_positions, int64_t begin,
                               int64_t end) {
        const int features = kF > 0 ? kF : params->n_features;
        const int64_t width = static_cast<int64_t>(params->n_levels) * features;
        HashGridTile tile{};
        float dot[8][kTile] = {};
        for (int l = 0; l < params->n_levels; ++l) {
            const HashGridLevel& level = params->levels[l];
            const float* table = params->table + level.offset * features;
            for (int64_t first = begin; first < end; first += kTile) {
                const int samples = static_cast<int>(smaller<int64_t>(kTile, end - first));
                tile_positions(*params, first, samples, tile);
                tile_cells(*params, level, tile, true);
                tile_indices(*params, level, tile);
                const float* g = grad + first * width + l * features;
                for (int i = 0; i < samples; ++i, g += width)
                    for (int corner = 0; corner < 8; ++corner) {
                        const float* entry = table + static_cast<size_t>(tile.index[corner][i]) * features;
                        float sum = 0.0f;
                        for (int f = 0; f < features; ++f) sum += g[f] * entry[f];
                        dot[corner][i] = sum;
                    }
                float* out = grad_positions + first * 3;
                if (l == 0) memset(out, 0, static_cast<size_t>(samples) * 3 * sizeof(float));
                for (int d = 0; d < 3; ++d) {
                    float slope[kTile];
                    directional(tile, dot, d, slope);
                    for (int i = 0; i < samples; ++i) out[i * 3 + d] += slope[i];
                }
            }
        }
    }

    // The derivative by one axis of the interpolation of `dot`.
    LDP_INLINE static void directional(const HashGridTile& tile, const float (*dot)[kTile], int d, float* slope) {
        // The other two axes.
        const int e = d == 0 ? 1 : 0, h = d == 2 ? 1 : 2;
        for (int i = 0; i < kTile; ++i) {
            const float u = tile.weight[e][i], v = tile.weight[h][i];
            const float d00 = dot[1 << d][i] - dot[0][i];
            const float d10 = dot[1 << d | 1 << e][i] - dot[1 << e][i];
            const float d01 = dot[1 << d | 1 << h][i] - dot[1 << h][i];
            const float d11 = dot[7][i] - dot[1 << e | 1 << h][i];
            const float low = (1.0f - u) * d00 + u * d10, high = (1.0f - u) * d01 + u * d11;
            slope[i] = tile.slope[d][i] * ((1.0f - v) * low + v * high);
        }
    }
};

// Calls Kernel<F>::run on ranges of the samples that are there, in AVX2 where there is.
template <template <int> class Kernel, typename... Arguments>
void over_samples(const HashGridParams& params, Arguments... arguments) {
    parallel_for(hash_grid_count(params), kGrain, [&](int64_t begin, int64_t end) {
        switch (params.n_features) {
            case 1: return run_widest<Kernel<1>>(&params, arguments..., begin, end);
            case 2: return run_widest<Kernel<2>>(&params, arguments..., begin, end);
            case 4: return run_widest<Kernel<4>>(&params, arguments..., begin, end);
            case 8: return run_widest<Kernel<8>>(&params, arguments..., begin, end);
            default: return run_widest<Kernel<0>>(&params, arguments..., begin, end);
        }
    });
}

// Rows of padding become zero.
void clear_padding(const HashGridParams& params, float* rows, int64_t width) {
    const int64_t count = hash_grid_count(params);
    if (count < params.size)
        memset(rows + count * width, 0, static_cast<size_t>((params.size - count) * width) * sizeof(float));
}

}  // namespace

void hash_grid_cpu(const HashGridParams& params, float* encoding) {
    const int64_t width = static_cast<int64_t>(params.n_levels) * params.n_features;
    prefer_huge_pages(encoding, params.size * width * int64_t{sizeof(float)});
    over_samples<Forward>(params, encoding);
    clear_padding(params, encoding, width);
}

void hash_grid_backward_positions_cpu(const HashGridParams& params, const float* grad, float* grad_positions) {
    over_samples<BackwardPositions>(params, grad, grad_positions);
    clear_padding(params, grad_positions, 3);
}

}  // namespace ldp

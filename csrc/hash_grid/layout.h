// The layout of a multiresolution hash grid, in the convention of tiny-cuda-nn and instant-ngp.
//
// Level l has scale = b * 2^(l * log2 s) - 1 (float32) and ceil(scale) + 1 vertices along each axis. It is stored dense
// where its vertices, rounded up to 8, fit into the most entries that a level has, and indexed into that many where they
// do not: T of them in a hashed or a wrapped grid, b^3 in a tiled one (tiny-cuda-nn's TiledGrid, to which T is nothing).
// The levels stand one after another.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace ldp {

constexpr int kMaxLevels = 32;

// What becomes of a vertex's index where the level has fewer entries than vertices; hash_grid_index says how. The
// numbers are those of the operators' argument `indexing`.
enum class GridIndexing : int { kWrapped = 0, kHashed = 1, kTiled = 2 };

// The most vertices along an axis whose number fits into 32 bits; beyond, a tiled level of tiny-cuda-nn is one entry.
constexpr int64_t kMostTiledVertices = 1625;

struct HashGridLayout {
    std::vector<int64_t> offsets;      // [L + 1], in entries; offsets[L] is the number of entries of the table
    std::vector<int64_t> resolutions;  // [L], vertices along each axis
    std::vector<double> scales;        // [L], cells along each axis as the lookup uses it; float32 values
    std::vector<bool> dense;           // [L], whether every vertex has an entry of its own
};

inline HashGridLayout hash_grid_layout(int n_levels, int log2_table_size, int base_resolution, double per_level_scale,
                                       bool tiled = false) {
    const auto refuse = [](const std::string& argument, const std::string& expected, const std::string& got) {
        throw std::invalid_argument("HashGridLayout: " + argument + ": expected " + expected + ", got " + got);
    };
    if (n_levels < 1 || n_levels > kMaxLevels)
        refuse("n_levels", "1 to " + std::to_string(kMaxLevels), std::to_string(n_levels));
    if (log2_table_size < 3 || log2_table_size > 30)
        refuse("log2_table_size", "3 to 30", std::to_string(log2_table_size));
    if (base_resolution < 2) refuse("base_resolution", "at least 2", std::to_string(base_resolution));
    if (!(per_level_scale >= 1.0) || !std::isfinite(per_level_scale))
        refuse("per_level_scale", "a finite number of at least 1", std::to_string(per_level_scale));

    HashGridLayout layout;
    layout.offsets.push_back(0);
    const float log2_scale = std::log2(static_cast<float>(per_level_scale));
    const int64_t base = base_resolution;
    if (tiled && base > kMostTiledVertices)
        refuse("base_resolution", "at most 1625 in a tiled grid", std::to_string(base));
    const int64_t most = tiled ? base * base * base : int64_t{1} << log2_table_size;
    for (int level = 0; level < n_levels; ++level) {
        const float scale =
            std::exp2(static_cast<float>(level) * log2_scale) * static_cast<float>(base_resolution) - 1.0f;
        if (scale > 1e6f) refuse("finest resolution", "at most a million", std::to_string(scale));
        const int64_t resolution = static_cast<int64_t>(std::ceil(scale)) + 1;
        if (tiled && resolution > kMostTiledVertices)
            refuse("finest resolution", "at most 1625 vertices along an axis in a tiled grid",
                   std::to_string(resolution));
        const int64_t vertices = resolution * resolution * resolution;
        const int64_t rounded = (vertices + 7) / 8 * 8;
        layout.scales.push_back(scale);
        layout.resolutions.push_back(resolution);
        const int64_t size = rounded <= most ? rounded : most;
        layout.dense.push_back(vertices <= size);
        layout.offsets.push_back(layout.offsets.back() + size);
    }
    return layout;
}

}  // namespace ldp

// Ray marching on the CPU: every lattice point is tested once, 64 at a time, in loops that vectorise; the answers are
// kept as bits, from which the second pass writes the samples once the offsets are known.
#include <ldp/cpu_target.h>
#include <ldp/parallel.h>

#include <vector>

#include "march_rays.h"

namespace ldp {
namespace {

constexpr int kWord = 64;
constexpr int64_t kChunk = 64;  // rays whose bits are kept together

struct Word {
    float distance[kWord];
    int32_t cell[3][kWord];  // places among the finest cells
    int32_t away[kWord];
    uint32_t code[kWord];
    int32_t cascade[kWord];
};

struct PlaceWord {
    LDP_INLINE static void run(const MarchRaysParams* all, const MarchRay* one, Word* words) {
        const MarchRaysParams& params = *all;
        const MarchRay& ray = *one;
        Word& word = *words;
        const GridGeometry& grid = params.grid;
        const int half = 1 << (grid.log2_resolution - 1), centre = half << (grid.cascades - 1);
        for (int d = 0; d < 3; ++d)
            for (int j = 0; j < kWord; ++j)
                word.cell[d][j] = grid_place(grid, d, march_position(params, ray, d, word.distance[j]));
        if (grid.cascades == 1) {
            for (int j = 0; j < kWord; ++j)
                word.code[j] = morton(static_cast<uint32_t>(word.cell[0][j]), static_cast<uint32_t>(word.cell[1][j]),
                                      static_cast<uint32_t>(word.cell[2][j]));
            return;
        }
        for (int j = 0; j < kWord; ++j) {
            const int x = grid_distance(word.cell[0][j], centre), y = grid_distance(word.cell[1][j], centre);
            word.away[j] = larger(x, larger(y, grid_distance(word.cell[2][j], centre)));
            word.cascade[j] = 0;
        }
        for (int k = 0; k + 1 < grid.cascades; ++k)
            for (int j = 0; j < kWord; ++j) word.cascade[j] += word.away[j] >= half << k;
        for (int j = 0; j < kWord; ++j) {
            const int cascade = word.cascade[j], start = centre - (half << cascade);
            word.code[j] = morton(static_cast<uint32_t>((word.cell[0][j] - start) >> cascade),
                                  static_cast<uint32_t>((word.cell[1][j] - start) >> cascade),
                                  static_cast<uint32_t>((word.cell[2][j] - start) >> cascade));
        }
    }
};

// Which of the first `size` distances of a word are samples.
uint64_t occupied_word(const MarchRaysParams& params, const MarchRay& ray, Word& word, int size) {
    const uint64_t all = size == kWord ? ~uint64_t{0} : (uint64_t{1} << size) - 1;
    if (params.bits == nullptr) return all;
    run_widest<PlaceWord>(&params, &ray, &word);
    const bool single = params.grid.cascades == 1;
    const int shift = 3 * params.grid.log2_resolution;
    uint64_t found = 0;
    for (int j = 0; j < kWord; ++j) {
        const int64_t cell = (single ? 0 : static_cast<int64_t>(word.cascade[j]) << shift) + word.code[j];
        found |= static_cast<uint64_t>(params.bits[cell >> 3] >> (cell & 7) & 1) << j;
    }
    return found & all;
}

// Calls visit(word, size, steps) for the lattice of a ray, 64 points at a time.
template <typename Visit>
void walk(const MarchRaysParams& params, const MarchRay& ray, const Visit& visit) {
    Word word;
    float steps[kWord];
    if (params.cone_angle == 0.0f) {
        const int points = march_lattice_size(params, ray);
        for (int j = 0; j < kWord; ++j) steps[j] = params.step;
        for (int base = 0; base < points; base += kWord) {
            for (int j = 0; j < kWord; ++j) word.distance[j] = march_distance(params, ray, base + j);
            visit(word, smaller(kWord, points - base), steps);
        }
        return;
    }
    float t = ray.first;
    for (int base = 0; base < kMaxLattice && t < ray.end; base += kWord) {
        int size = 0;
        for (int j = 0; j < kWord; ++j) {
            size += t < ray.end;
            word.distance[j] = t;
            steps[j] = march_step(params, t);
            t = add_rn(t, steps[j]);
        }
        visit(word, size, steps);
    }
}

}  // namespace

void march_rays_cpu(const MarchRaysParams& params) {
    const int64_t chunks = (params.n_rays + kChunk - 1) / kChunk;
    std::vector<std::vector<uint64_t>> found(static_cast<size_t>(chunks));
    int64_t* const offsets = params.ray_offsets;
    parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t chunk = begin; chunk < end; ++chunk) {
            for (int64_t r = chunk * kChunk; r < smaller((chunk + 1) * kChunk, params.n_rays); ++r) {
                const MarchRay ray = march_ray(params, r);
                int64_t count = 0;
                walk(params, ray, [&](Word& word, int size, const float*) {
                    const uint64_t bits = occupied_word(params, ray, word, size);
                    found[static_cast<size_t>(chunk)].push_back(bits);
                    count += __builtin_popcountll(bits);
                });
                offsets[r + 1] = count;
            }
        }
    });
    int64_t required = 0;
    offsets[0] = 0;
    for (int64_t r = 1; r <= params.n_rays; ++r) {
        required += offsets[r];
        offsets[r] = smaller(required, params.capacity);
    }
    const int64_t written = offsets[params.n_rays];
    params.counts[0] = written;
    params.counts[1] = required;
    parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t chunk = begin; chunk < end; ++chunk) {
            const uint64_t* next = found[static_cast<size_t>(chunk)].data();
            for (int64_t r = chunk * kChunk; r < smaller((chunk + 1) * kChunk, params.n_rays); ++r) {
                const MarchRay ray = march_ray(params, r);
                int64_t row = offsets[r];
                walk(params, ray, [&](const Word& word, int, const float* steps) {
                    for (uint64_t bits = *next++; bits != 0 && row < offsets[r + 1]; bits &= bits - 1) {
                        const int j = __builtin_ctzll(bits);
                        march_write(params, ray, row++, word.distance[j], steps[j]);
                    }
                });
            }
        }
    });
    parallel_for(params.capacity - written, 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t row = written + begin; row < written + end; ++row) {
            for (int d = 0; d < 3; ++d) params.positions[3 * row + d] = 0.0f;
            params.distances[row] = params.steps[row] = 0.0f;
        }
    });
}

}  // namespace ldp

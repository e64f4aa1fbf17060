// hash_grid_driver CASE runs the kernels of csrc/hash_grid in every order of threads and blocks and compares them with
// the CPU's functions.
#include "hash_grid/hash_grid.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "testing.h"

using namespace cuda_on_cpu;

namespace {

struct Grid {
    int n_levels = 3;
    int n_features = 2;
    int log2_table_size = 8;
    int base_resolution = 4;
    double growth = 1.8;
    ldp::GridIndexing indexing = ldp::GridIndexing::kHashed;
    bool smoothstep = false;
};

enum class Positions { kRandom, kRays, kFar };

// Everything an encoding needs; buffers are of the exact size, so that the sanitizer sees every step outside.
struct Sample {
    Sample(const Grid& grid, int64_t size, int64_t live, Positions kind)
        : layout(ldp::hash_grid_layout(grid.n_levels, grid.log2_table_size, grid.base_resolution, grid.growth,
                                       grid.indexing == ldp::GridIndexing::kTiled)),
          elements(layout.offsets.back() * grid.n_features),
          width(grid.n_levels * grid.n_features),
          count({live}),
          positions(random_floats(size * 3, 1, kind == Positions::kFar ? -4.0f : 0.0f,
                                  kind == Positions::kFar ? 5.0f : 1.0f)),
          table(random_floats(elements, 2)),
          grad(random_floats(size * width, 3)) {
        if (kind == Positions::kRays)
            for (int64_t s = 0; s < size; ++s) {
                for (int d = 0; d < 3; ++d)
                    positions[s * 3 + d] = 0.2f + 0.11f * d + 0.009f * static_cast<float>(s % 48);
                // Lanes without a gradient, at the ends of runs too.
                for (int64_t i = 0; s % 3 == 2 && i < width; ++i) grad[s * width + i] = 0.0f;
            }
        if (kind == Positions::kFar && size > 4) {
            const float far[] = {1e30f, -1e30f, INFINITY, NAN, -3e9f};
            for (int i = 0; i < 5; ++i) positions[i * 3 + i % 3] = far[i];
            for (int64_t i = 2 * width; i < 4 * width; ++i) grad[i] = 0.0f;
        }
        // Behind the live rows nothing is ever read.
        for (int64_t i = live * 3; i < size * 3; ++i) positions[i] = NAN;
        for (int64_t i = live * width; i < size * width; ++i) grad[i] = NAN;
        params.positions = positions.data();
        params.table = table.data();
        params.count = live < size || live % 2 ? count.data() : nullptr;
        params.size = size;
        params.n_levels = grid.n_levels;
        params.n_features = grid.n_features;
        params.shift = 0.5f;
        params.indexing = grid.indexing;
        params.smoothstep = grid.smoothstep;
        for (int l = 0; l < grid.n_levels; ++l)
            params.levels[l] = {layout.offsets[l], static_cast<uint32_t>(layout.offsets[l + 1] - layout.offsets[l]),
                                static_cast<uint32_t>(layout.resolutions[l]), static_cast<float>(layout.scales[l])};
    }

    ldp::HashGridLayout layout;
    int64_t elements, width;
    device_buffer<int64_t> count;
    device_buffer<float> positions, table, grad;
    ldp::HashGridParams params{};
};

device_buffer<float> zeros(int64_t size) { return device_buffer<float>(std::vector<float>(size, 0.0f)); }

void compare_all(const Grid& grid, int64_t size, int64_t live, Positions kind) {
    Sample sample(grid, size, live, kind);
    const ldp::HashGridParams& params = sample.params;
    std::vector<float> encoding(size * sample.width), by_table(sample.elements), by_positions(size * 3);
    ldp::hash_grid_cpu(params, encoding.data());
    ldp::hash_grid_backward_table_cpu(params, sample.grad.data(), by_table.data());
    ldp::hash_grid_backward_positions_cpu(params, sample.grad.data(), by_positions.data());
    std::vector<float> first_fixed;
    for_every_order([&] {
        device_buffer<float> out(encoding.size()), slopes(by_positions.size());
        ldp::hash_grid_cuda(params, out.data(), nullptr);
        compare("encoding", out, encoding, 1e-5, 1e-5);
        ldp::hash_grid_backward_positions_cuda(params, sample.grad.data(), slopes.data(), nullptr);
        compare("gradient by positions", slopes, by_positions, 2e-4, 1e-4);
        device_buffer<float> sums = zeros(sample.elements);
        ldp::hash_grid_backward_table_cuda(params, sample.grad.data(), sums.data(), nullptr, nullptr);
        compare("gradient by table", sums, by_table, 1e-4, 1e-4);
        device_buffer<float> fixed = zeros(sample.elements);
        device_buffer<int64_t> workspace(std::vector<int64_t>(ldp::hash_grid_workspace(sample.elements), 0));
        ldp::hash_grid_backward_table_cuda(params, sample.grad.data(), fixed.data(), workspace.data(), nullptr);
        compare("gradient by table, deterministic", fixed, by_table, 1e-4, 1e-4);
        if (first_fixed.empty()) first_fixed = fixed.host();
        compare_bits("deterministic from order to order", fixed, first_fixed);
    });
}

void kinds() {
    for (const Positions kind : {Positions::kRandom, Positions::kRays, Positions::kFar}) {
        compare_all({}, 300, 300, kind);
        compare_all({3, 2, 8, 4, 1.8, ldp::GridIndexing::kWrapped, false}, 300, 300, kind);
        // Levels of 27 entries and 3, 6 and 11 vertices along an axis: the finest has more in a plane than entries.
        compare_all({3, 2, 8, 3, 1.8, ldp::GridIndexing::kTiled, false}, 300, 300, kind);
        compare_all({2, 2, 14, 4, 1.8, ldp::GridIndexing::kHashed, true}, 300, 291, kind);
    }
}

void sizes() {
    for (const int64_t size : {0, 1, 31, 33, 256, 257})
        for (const int64_t live : {size, size / 2, int64_t{0}}) compare_all({}, size, live, Positions::kRays);
    compare_all({10, 2, 6, 2, 1.3}, 70, 70, Positions::kRays);  // levels behind the aggregated ones
    compare_all({32, 1, 3, 2, 1.1}, 40, 40, Positions::kRandom);
    compare_all({1, 2, 6, 40, 1.0}, 3 * 32 * 256 + 77, 3 * 32 * 256 + 77, Positions::kRays);  // strides over the grid
}

void features() {
    for (const int n : {1, 3, 4, 5, 8, 16}) {
        compare_all({2, n, 7, 4, 1.8}, 75, 70, Positions::kRays);
        compare_all({2, n, 7, 4, 1.8, ldp::GridIndexing::kHashed, true}, 75, 75, Positions::kRandom);
    }
}

// Addresses that are not a multiple of a vector take the path of any F.
void misaligned() {
    Sample sample({}, 70, 70, Positions::kRays);
    ldp::HashGridParams params = sample.params;
    std::vector<float> encoding(70 * sample.width);
    ldp::hash_grid_cpu(params, encoding.data());
    for_every_order([&] {
        device_buffer<float> table(sample.elements + 1), out(encoding.size());
        std::copy(sample.table.data(), sample.table.data() + sample.elements, table.data() + 1);
        params.table = table.data() + 1;
        ldp::hash_grid_cuda(params, out.data(), nullptr);
        compare("encoding", out, encoding, 1e-5, 1e-5);
    });
}

void half_shadow() {
    for (const int n : {1, 2, 3, 4, 8}) {
        Sample sample({2, n, 8, 4, 1.8}, 70, 66, Positions::kRays);
        std::vector<__half> rounded(sample.elements);
        for (int64_t i = 0; i < sample.elements; ++i) {
            rounded[i] = __float2half_rn(sample.table[i]);
            sample.table[i] = __half2float(rounded[i]);
        }
        const device_buffer<__half> shadow(rounded);
        std::vector<float> encoding(70 * sample.width), by_positions(70 * 3);
        ldp::hash_grid_cpu(sample.params, encoding.data());
        ldp::hash_grid_backward_positions_cpu(sample.params, sample.grad.data(), by_positions.data());
        sample.table.fill(NAN);  // the shadow is read in its place
        sample.params.shadow = shadow.data();
        for_every_order([&] {
            device_buffer<float> out(encoding.size()), slopes(by_positions.size());
            ldp::hash_grid_cuda(sample.params, out.data(), nullptr);
            compare("encoding", out, encoding, 1e-5, 1e-5);
            ldp::hash_grid_backward_positions_cuda(sample.params, sample.grad.data(), slopes.data(), nullptr);
            compare("gradient by positions", slopes, by_positions, 2e-4, 1e-4);
        });
    }
}

// The point of the fixed-point sums moves with the gradients; what is not finite stays where it is.
void magnitudes() {
    for (const float magnitude : {1e-42f, 1e-30f, 1.0f, 1e30f}) {
        Sample sample({}, 64, 64, Positions::kRays);
        for (size_t i = 0; i < sample.grad.size(); ++i) sample.grad[i] *= magnitude;
        std::vector<float> by_table(sample.elements);
        ldp::hash_grid_backward_table_cpu(sample.params, sample.grad.data(), by_table.data());
        for_every_order([&] {
            device_buffer<float> fixed = zeros(sample.elements);
            device_buffer<int64_t> workspace(std::vector<int64_t>(ldp::hash_grid_workspace(sample.elements), 0));
            ldp::hash_grid_backward_table_cuda(sample.params, sample.grad.data(), fixed.data(), workspace.data(),
                                               nullptr);
            // The CPU rounds each product, of subnormal numbers to a multiple of 1.4e-45; an entry has dozens of them.
            compare("scaled gradients", fixed, by_table, 1e-4 * magnitude + 3e-44, 1e-4);
        });
    }
    Sample sample({1, 2, 8, 4, 1.0}, 64, 64, Positions::kRandom);
    sample.grad[10] = INFINITY;
    sample.grad[21] = NAN;
    std::vector<float> by_table(sample.elements);
    ldp::hash_grid_backward_table_cpu(sample.params, sample.grad.data(), by_table.data());
    for (float& value : by_table)
        if (!std::isfinite(value)) value = NAN;
    for_every_order([&] {
        device_buffer<float> fixed = zeros(sample.elements);
        device_buffer<int64_t> workspace(std::vector<int64_t>(ldp::hash_grid_workspace(sample.elements), 0));
        ldp::hash_grid_backward_table_cuda(sample.params, sample.grad.data(), fixed.data(), workspace.data(), nullptr);
        compare("infinite gradients", fixed, by_table, 1e-4, 1e-4);
    });
}

}  // namespace

int main(int argc, char** argv) {
    const std::map<std::string, std::function<void()>> cases = {
        {"kinds", kinds},           {"sizes", sizes},           {"features", features},
        {"misaligned", misaligned}, {"half_shadow", half_shadow}, {"magnitudes", magnitudes},
    };
    if (argc != 2 || cases.count(argv[1]) == 0) return std::fprintf(stderr, "hash_grid_driver: expected a case\n"), 2;
    cases.at(argv[1])();
    return 0;
}

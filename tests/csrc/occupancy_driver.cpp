// The occupancy grid: the kernels do what the CPU backend does, bit for bit, in every order.
#include <cmath>
#include <limits>

#include "occupancy/occupancy.h"
#include "testing.h"

using namespace cuda_on_cpu;

namespace {

ldp::GridGeometry grid_of(int log2_resolution, int cascades) {
    const double box[6] = {-1.0, -2.0, -1.0, 1.0, 1.0, 1.25};
    return ldp::grid_geometry(box, log2_resolution, cascades);
}

void samples(int log2_resolution, int cascades, int64_t uniform, int64_t occupied, float threshold) {
    ldp::OccupancySamplesParams params{};
    params.grid = grid_of(log2_resolution, cascades);
    params.every = uniform == 0 && occupied == 0;
    const size_t n_cells = static_cast<size_t>(cascades) << (3 * log2_resolution);
    const size_t size = params.every ? n_cells : static_cast<size_t>(uniform + occupied);
    params.size = static_cast<int64_t>(size);
    params.uniform = uniform;
    const std::vector<float> values = random_floats(n_cells, 1, 0.0f, 1.0f);
    const int64_t number = -3;
    std::vector<int64_t> expected_cells(size, -1);
    std::vector<float> expected_positions(3 * size, NAN);
    params.ema = values.data();
    params.threshold = &threshold;
    params.seed = &number;
    params.cells = expected_cells.data();
    params.positions = expected_positions.data();
    ldp::occupancy_samples_cpu(params);
    for_every_order([&] {
        const device_buffer<float> ema(values), limit({threshold});
        const device_buffer<int64_t> seed({number});
        device_buffer<int64_t> cells(size);
        device_buffer<float> positions(3 * size);
        params.ema = ema.data();
        params.threshold = limit.data();
        params.seed = seed.data();
        params.cells = cells.data();
        params.positions = positions.data();
        ldp::occupancy_samples_cuda(params, nullptr);
        compare_bits("cells", cells, expected_cells);
        compare_bits("positions", positions, expected_positions);
    });
}

void update(size_t n_cells, size_t size) {
    std::vector<float> averages = random_floats(n_cells, 1, 0.0f, 1.0f), answers = random_floats(size, 2, -0.5f, 2.0f);
    std::vector<int64_t> chosen(size);
    for (size_t i = 0; i < size; ++i) {
        chosen[i] = static_cast<int64_t>(i * i * 31 % (n_cells * 2 / 3 + 1));  // many of them twice, some never
        if (i % 13 == 5) answers[i] = i % 2 ? NAN : HUGE_VALF;
        if (i % 13 == 7) answers[i] = -0.0f;
    }
    if (n_cells > 8) averages[1] = NAN, averages[2] = -1.0f, averages[4] = HUGE_VALF;
    std::vector<float> expected(n_cells, NAN);
    ldp::OccupancyUpdateParams params{};
    params.ema = averages.data();
    params.cells = chosen.data();
    params.densities = answers.data();
    params.updated = expected.data();
    params.n_cells = static_cast<int64_t>(n_cells);
    params.size = static_cast<int64_t>(size);
    params.decay = 0.95f;
    ldp::occupancy_update_cpu(params);
    for_every_order([&] {
        const device_buffer<float> ema(averages), densities(answers);
        const device_buffer<int64_t> cells(chosen);
        device_buffer<float> updated(n_cells);
        params.ema = ema.data();
        params.cells = cells.data();
        params.densities = densities.data();
        params.updated = updated.data();
        ldp::occupancy_update_cuda(params, nullptr);
        compare_bits("updated", updated, expected);
    });
}

// On a GPU an index of no cell is left out: nothing is written outside of the averages.
void update_outside() {
    const std::vector<float> averages(16, 1.0f);
    for_every_order([&] {
        const device_buffer<float> ema(averages), densities({5.0f, 6.0f, 7.0f});
        const device_buffer<int64_t> cells({-1, 16, 3});
        device_buffer<float> updated(16);
        ldp::occupancy_update_cuda({ema.data(), cells.data(), densities.data(), updated.data(), 16, 3, 0.5f}, nullptr);
        std::vector<float> expected(16, 1.0f);
        expected[3] = 7.0f;
        compare_bits("updated", updated, expected);
    });
}

void bits(size_t n_cells, float threshold, bool broken) {
    std::vector<float> averages = random_floats(n_cells, 5, 0.0f, 1.0f);
    if (broken) averages[n_cells / 2] = NAN;
    const size_t tiles = (n_cells + ldp::kMeanTile - 1) / ldp::kMeanTile;
    std::vector<uint8_t> expected_bits(n_cells / 8, 0xaa);
    std::vector<float> expected_used(1, NAN);
    std::vector<double> sums(tiles);
    ldp::OccupancyBitsParams params{};
    params.ema = averages.data();
    params.bits = expected_bits.data();
    params.used = expected_used.data();
    params.partial = sums.data();
    params.n_cells = static_cast<int64_t>(n_cells);
    params.threshold = threshold;
    ldp::occupancy_bits_cpu(params);
    for_every_order([&] {
        const device_buffer<float> ema(averages);
        device_buffer<uint8_t> packed(n_cells / 8);
        device_buffer<float> used(1);
        device_buffer<double> partial(tiles);
        params.ema = ema.data();
        params.bits = packed.data();
        params.used = used.data();
        params.partial = partial.data();
        ldp::occupancy_bits_cuda(params, nullptr);
        compare_bits("used_threshold", used, expected_used);
        compare_bits("bits", packed, expected_bits);
    });
}

}  // namespace

int main() {
    samples(2, 1, 0, 0, 0.5f);
    samples(3, 3, 0, 0, 0.5f);
    samples(5, 2, 1, 0, 0.5f);
    samples(4, 8, 300, 77, 0.9f);
    samples(4, 2, 0, 257, 2.0f);  // no cell is occupied
    update(64, 0);
    update(64, 1);
    update(64, 1000);
    update(4096, 2500);
    update_outside();
    constexpr size_t kTile = ldp::kMeanTile;
    for (const size_t n_cells : {size_t{8}, size_t{512}, size_t{4104}, 2 * kTile, 3 * kTile + 72}) {
        bits(n_cells, 0.01f, false);
        bits(n_cells, 100.0f, false);
        bits(n_cells, 0.3f, true);
    }
    return 0;
}

// Ray marching: the kernels find the samples that the CPU backend finds, bit for bit, in every order.
#include <cmath>
#include <cstdio>

#include "march_rays/march_rays.h"
#include "testing.h"

using namespace cuda_on_cpu;

namespace {

enum class Bits { kNone, kRandom, kEmpty, kFull };
enum class Room { kAmple, kExact, kShort, kOne };

struct Case {
    const char* name;
    int rays;
    Bits bits = Bits::kRandom;
    Room room = Room::kAmple;
    int cascades = 1;
    float cone_angle = 0.0f;
    bool jitter = true;
    int log2_resolution = 3;
    float step = 0.07f;
    bool aimed = true;  // else every ray misses
    float far = HUGE_VALF;
};

struct Scene {
    std::vector<float> origins, directions;
    std::vector<uint8_t> bits;
};

struct Samples {
    std::vector<float> positions, distances, steps;
    std::vector<int64_t> offsets, counts;
};

Scene scene_of(const Case& c) {
    const size_t rays = static_cast<size_t>(c.rays);
    Scene scene{random_floats(3 * rays, 1, -2.0f, 2.0f), random_floats(3 * rays, 2, -0.8f, 0.8f), {}};
    for (size_t r = 0; r < rays; ++r) {
        float* const o = &scene.origins[3 * r];
        float* const v = &scene.directions[3 * r];
        for (int d = 0; d < 3; ++d) v[d] -= o[d];
        // Some rays lie along an axis, some in the plane of a face, some do not move, some are broken.
        if (r % 11 == 3) v[0] = v[1] = 0.0f, o[0] = o[1] = 0.25f;
        if (r % 11 == 5) o[2] = 1.0f, v[2] = -0.0f;
        if (r % 29 == 7) v[0] = v[1] = v[2] = 0.0f;
        if (r % 29 == 9) v[1] = NAN;
        if (r % 29 == 13) o[0] = HUGE_VALF;
        if (r % 29 == 17 && r % 11 != 3) v[2] = 1e-42f;
        if (!c.aimed) o[0] = 5.0f, v[0] = 1.0f;
    }
    const size_t bytes = static_cast<size_t>(c.cascades) << (3 * c.log2_resolution) >> 3;
    const std::vector<float> noise = random_floats(8 * bytes, 3, 0.0f, 1.0f);
    scene.bits.assign(bytes, c.bits == Bits::kFull ? 0xff : 0);
    for (size_t i = 0; i < 8 * bytes && c.bits == Bits::kRandom; ++i) scene.bits[i / 8] |= (noise[i] < 0.4f) << i % 8;
    return scene;
}

ldp::MarchRaysParams params_of(const Case& c, const int64_t* seed) {
    const double box[6] = {-1.0, -1.0, -1.0, 1.0, 1.0, 1.25};
    ldp::MarchRaysParams params{};
    params.grid = ldp::grid_geometry(box, c.log2_resolution, c.cascades);
    params.seed = seed;
    params.n_rays = c.rays;
    params.near = 0.05f;
    params.far = c.far;
    params.step = c.step;
    params.cone_angle = c.cone_angle;
    params.max_step = 3.0f * c.step;
    params.jitter = c.jitter;
    return params;
}

Samples on_cpu(const Case& c, const Scene& scene, int64_t capacity) {
    const int64_t seed = 17;
    const size_t rows = static_cast<size_t>(capacity);
    Samples samples{std::vector<float>(3 * rows, NAN), std::vector<float>(rows, NAN), std::vector<float>(rows, NAN),
                    std::vector<int64_t>(static_cast<size_t>(c.rays) + 1, -1), std::vector<int64_t>(2, -1)};
    ldp::MarchRaysParams params = params_of(c, &seed);
    params.origins = scene.origins.data();
    params.directions = scene.directions.data();
    params.bits = c.bits == Bits::kNone ? nullptr : scene.bits.data();
    params.positions = samples.positions.data();
    params.distances = samples.distances.data();
    params.steps = samples.steps.data();
    params.ray_offsets = samples.offsets.data();
    params.counts = samples.counts.data();
    params.capacity = capacity;
    ldp::march_rays_cpu(params);
    return samples;
}

void agrees(const Case& c) {
    const Scene scene = scene_of(c);
    const int64_t required = on_cpu(c, scene, 1).counts[1];
    int64_t capacity = 1;
    if (c.room == Room::kAmple) capacity = required + 300;
    if (c.room == Room::kExact) capacity = required;
    if (c.room == Room::kShort) capacity = required * 2 / 3;
    const Samples expected = on_cpu(c, scene, capacity);
    std::fprintf(stderr, "%s: %lld samples, capacity %lld\n", c.name, static_cast<long long>(required),
                 static_cast<long long>(capacity));
    expect(expected.counts[0] == std::min(capacity, required), "as many samples as there is room for");
    expect(expected.counts[1] == required, "the number of samples that were found");
    const bool some = c.aimed && c.bits != Bits::kEmpty && c.rays > 0;
    expect(some ? required > c.rays / 3 : required == 0, some ? "samples on many rays" : "no samples");
    for_every_order([&] {
        const device_buffer<float> origins(scene.origins), directions(scene.directions);
        const device_buffer<uint8_t> bits(scene.bits);
        const device_buffer<int64_t> seed({17});
        const size_t rows = static_cast<size_t>(capacity), rays = static_cast<size_t>(c.rays);
        device_buffer<float> positions(3 * rows), distances(rows), steps(rows);
        device_buffer<int64_t> offsets(rays + 1), counts(2), tiles((rays + ldp::kScanTile - 1) / ldp::kScanTile);
        ldp::MarchRaysParams params = params_of(c, seed.data());
        params.origins = origins.data();
        params.directions = directions.data();
        params.bits = c.bits == Bits::kNone ? nullptr : bits.data();
        params.positions = positions.data();
        params.distances = distances.data();
        params.steps = steps.data();
        params.ray_offsets = offsets.data();
        params.counts = counts.data();
        params.tile_sums = tiles.data();
        params.capacity = capacity;
        ldp::march_rays_cuda(params, nullptr);
        compare_bits("counts", counts, expected.counts);
        compare_bits("ray_offsets", offsets, expected.offsets);
        compare_bits("distances", distances, expected.distances);
        compare_bits("steps", steps, expected.steps);
        compare_bits("positions", positions, expected.positions);
    });
}

// More tiles than the warp that scans their sums has lanes.
void scans(int64_t rays, int64_t capacity) {
    device_buffer<int64_t> offsets(static_cast<size_t>(rays) + 1), counts(2);
    device_buffer<int64_t> tiles(static_cast<size_t>((rays + ldp::kScanTile - 1) / ldp::kScanTile));
    std::vector<int64_t> expected(static_cast<size_t>(rays) + 1, 0);
    int64_t required = 0;
    for (int64_t r = 0; r < rays; ++r) {
        offsets[static_cast<size_t>(r) + 1] = r % 7 * (r % 3);
        required += r % 7 * (r % 3);
        expected[static_cast<size_t>(r) + 1] = std::min(required, capacity);
    }
    ldp::MarchRaysParams params{};
    params.n_rays = rays;
    params.capacity = capacity;
    params.ray_offsets = offsets.data();
    params.counts = counts.data();
    params.tile_sums = tiles.data();
    ldp::march_scan_cuda(params, nullptr);
    compare_bits("offsets", offsets, expected);
    compare_bits("counts", counts, std::vector<int64_t>{std::min(required, capacity), required});
}

}  // namespace

int main() {
    const Case cases[] = {
        {"no rays", 0},
        {"one ray", 1},
        {"some", 37},
        {"everything is occupied", 37, Bits::kNone},
        {"everything is occupied, in bits", 33, Bits::kFull, Room::kExact},
        {"nothing is occupied", 37, Bits::kEmpty},
        {"every ray misses", 37, Bits::kRandom, Room::kAmple, 1, 0.0f, true, 3, 0.07f, false},
        {"full exactly", 37, Bits::kRandom, Room::kExact},
        {"overflow", 37, Bits::kRandom, Room::kShort},
        {"overflow where everything is occupied", 37, Bits::kNone, Room::kShort},
        {"room for one", 37, Bits::kRandom, Room::kOne},
        {"cascades", 41, Bits::kRandom, Room::kAmple, 4, 0.0f, true, 3, 0.013f},
        {"eight cascades of 4", 41, Bits::kRandom, Room::kAmple, 8, 0.0f, true, 2, 0.013f},
        {"cone", 41, Bits::kRandom, Room::kAmple, 2, 0.02f, true, 3, 0.013f},
        {"cone where everything is occupied", 41, Bits::kNone, Room::kExact, 1, 0.02f, true, 3, 0.013f},
        {"overflowing cone", 41, Bits::kRandom, Room::kShort, 2, 0.02f, true, 3, 0.013f},
        {"no jitter", 41, Bits::kRandom, Room::kAmple, 2, 0.0f, false},
        {"cone without jitter", 41, Bits::kRandom, Room::kAmple, 2, 0.02f, false},
        {"cut off", 41, Bits::kRandom, Room::kAmple, 1, 0.0f, true, 3, 0.013f, true, 0.9f},
        {"more rays than warps", 300, Bits::kRandom, Room::kAmple, 2, 0.0f, true, 3, 0.3f},
        {"two tiles of rays", 4100, Bits::kRandom, Room::kShort, 1, 0.0f, true, 3, 0.5f},
    };
    for (const Case& c : cases) agrees(c);
    scans(33 * ldp::kScanTile + 3, 1 << 30);
    return 0;
}

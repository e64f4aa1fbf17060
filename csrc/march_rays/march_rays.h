// Ray marching: the parameters of the kernels and the maths they share.
//
// A ray o + t d enters the box at t_in and leaves it at t_out. Its lattice t_0 < t_1 < ... starts at
// t_in + u * dt(t_in), with u = 1/2 or a random number of its own (jitter), so that a sample stands for a step around
// it. Lattice points before t_out whose cell is occupied are samples. Fixed steps: t_i = t_0 + i * step. Cone-angled:
// t_{i+1} = t_i + dt(t_i), dt(t) = clamp(t * cone_angle, step, max_step). Every operation is rounded once and never
// contracted: CPU, GPU and the reference in Python find the same samples, bit for bit.
#pragma once

#include <ldp/host_device.h>
#include <ldp/random.h>

#if defined(LDP_CUDA_ON_CPU)
#include <ldp/device.h>
#elif defined(USE_CUDA)
#include <cuda_runtime_api.h>
#endif

#include "../occupancy/grid.h"

namespace ldp {

// Points of a lattice. The operator refuses steps that a unit direction could not cross the box with; what is left is
// a direction near zero, which must not keep a kernel busy for ever.
constexpr int kMaxLattice = 1 << 20;
constexpr int kScanTile = 4096;  // rays that one block of the prefix scan takes

struct MarchRaysParams {
    const float* origins;     // [R, 3]
    const float* directions;  // [R, 3]
    const uint8_t* bits;      // [K * res^3 / 8]; null: everything is occupied
    const int64_t* seed;      // [1]
    float* positions;         // [capacity, 3], out
    float* distances;         // [capacity], out: t of a sample
    float* steps;             // [capacity], out: dt of a sample
    int64_t* ray_offsets;     // [R + 1], out: samples of ray r are rows ray_offsets[r] to ray_offsets[r + 1]
    int64_t* counts;          // [2], out: samples written, samples found
    int64_t* tile_sums;       // [ceil(R / kScanTile)], workspace of the CUDA scan
    int64_t n_rays;           // R
    int64_t capacity;         // rows of the outputs
    GridGeometry grid;
    float near, far;          // bounds of t; far may be infinite
    float step;               // the fixed step, or the smallest one
    float cone_angle;         // 0: fixed steps
    float max_step;           // the largest step, where steps are cone-angled
    bool jitter;              // a random lattice for each ray, else one in the middle
};

struct MarchRay {
    float origin[3];
    float direction[3];
    float first;  // t_0
    float end;    // t_out; no sample where first >= end
};

LDP_HOST_DEVICE float march_step(const MarchRaysParams& params, float t) {
    if (params.cone_angle == 0.0f) return params.step;
    return smaller(larger(mul_rn(t, params.cone_angle), params.step), params.max_step);
}

LDP_HOST_DEVICE bool is_finite(float x) { return sub_rn(x, x) == 0.0f; }

LDP_HOST_DEVICE MarchRay march_ray(const MarchRaysParams& params, int64_t r) {
    MarchRay ray;
    float enter = params.near, leave = params.far;
    bool hit = true, moves = false;
    for (int d = 0; d < 3; ++d) {
        const float o = ray.origin[d] = params.origins[3 * r + d];
        const float v = ray.direction[d] = params.directions[3 * r + d];
        hit = hit && is_finite(o) && is_finite(v);
        if (v == 0.0f) {
            hit = hit && o >= params.grid.lower[d] && o <= params.grid.upper[d];
            continue;
        }
        moves = true;
        const float a = div_rn(sub_rn(params.grid.lower[d], o), v), b = div_rn(sub_rn(params.grid.upper[d], o), v);
        enter = larger(smaller(a, b), enter);
        leave = smaller(larger(a, b), leave);
    }
    float share = 0.5f;
    if (params.jitter) share = random_uniform(static_cast<uint64_t>(*params.seed), static_cast<uint64_t>(r));
    ray.first = add_rn(enter, mul_rn(share, march_step(params, enter)));
    ray.end = hit && moves && enter < leave ? leave : -1.0f;
    return ray;
}

LDP_HOST_DEVICE float march_distance(const MarchRaysParams& params, const MarchRay& ray, int i) {
    return add_rn(ray.first, mul_rn(static_cast<float>(i), params.step));
}

// Points of a lattice of fixed steps: an estimate, then exact, since t_i never falls as i grows.
LDP_HOST_DEVICE int march_lattice_size(const MarchRaysParams& params, const MarchRay& ray) {
    if (!(ray.first < ray.end)) return 0;
    const float estimate = div_rn(sub_rn(ray.end, ray.first), params.step);
    int size = estimate < static_cast<float>(kMaxLattice) ? static_cast<int>(estimate) + 1 : kMaxLattice;
    while (size > 0 && !(march_distance(params, ray, size - 1) < ray.end)) --size;
    while (size < kMaxLattice && march_distance(params, ray, size) < ray.end) ++size;
    return size;
}

// Rounding may put a sample at the edge just outside of the box.
LDP_HOST_DEVICE float march_position(const MarchRaysParams& params, const MarchRay& ray, int d, float t) {
    const float x = add_rn(ray.origin[d], mul_rn(t, ray.direction[d]));
    return smaller(larger(x, params.grid.lower[d]), params.grid.upper[d]);
}

LDP_HOST_DEVICE bool march_occupied(const MarchRaysParams& params, float x, float y, float z) {
    const GridGeometry& grid = params.grid;
    const int64_t cell = grid_cell(grid, grid_place(grid, 0, x), grid_place(grid, 1, y), grid_place(grid, 2, z));
    return params.bits[cell >> 3] >> (cell & 7) & 1;
}

LDP_HOST_DEVICE void march_write(const MarchRaysParams& params, const MarchRay& ray, int64_t row, float t, float step) {
    for (int d = 0; d < 3; ++d) params.positions[3 * row + d] = march_position(params, ray, d, t);
    params.distances[row] = t;
    params.steps[row] = step;
}

// Entry points, CPU: march_rays_cpu.cpp.
void march_rays_cpu(const MarchRaysParams& params);

#if defined(USE_CUDA) || defined(LDP_CUDA_ON_CPU)
// march_rays_samples.cu
void march_rays_cuda(const MarchRaysParams& params, cudaStream_t stream);

// march_rays_scan.cu: the number of samples of ray r, in ray_offsets[r + 1], becomes its offset, clipped to the
// capacity.
void march_scan_cuda(const MarchRaysParams& params, cudaStream_t stream);
#endif

}  // namespace ldp

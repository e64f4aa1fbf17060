// Ray marching: a warp per ray, which tests 32 points of the lattice at once and keeps their order by ballots.
//
// The first kernel counts, march_rays_scan.cu turns counts into offsets, the second kernel finds the same samples again
// and writes them where they belong, up to the capacity; it stops with a ray's last sample. Reads 24 bytes a ray and a
// byte of the bits a point (256 KiB for 128^3: they stay in the cache), writes 20 bytes a sample. The points of a fixed
// step are known in closed form; those of cone-angled steps follow from each other, so every lane computes all 32 and
// keeps its own, which costs less than what the lookup waits for. Nothing is read back by the host.
#include <ldp/launch.h>
#include <ldp/warp.h>

#include "march_rays.h"

namespace ldp {
namespace {

constexpr int kBlock = 128;
constexpr int kWarpsInBlock = kBlock / kWarp;
constexpr int kWaves = 4;  // rays are of unequal length

__device__ __forceinline__ int64_t first_ray() {
    return static_cast<int64_t>(blockIdx.x) * kWarpsInBlock + threadIdx.x / kWarp;
}

__device__ __forceinline__ int64_t next_ray() { return static_cast<int64_t>(gridDim.x) * kWarpsInBlock; }

// Calls visit(samples, distance, step) for every 32 points until it returns false: bit i of `samples` says whether lane
// i's point is one. All lanes of the warp stay together.
template <bool kCone, bool kBits, typename Visit>
__device__ __forceinline__ void walk(const MarchRaysParams& params, const MarchRay& ray, const Visit& visit) {
    const int points = kCone ? kMaxLattice : march_lattice_size(params, ray);
    float next = ray.first;
    for (int base = 0; base < points; base += kWarp) {
        const int i = base + lane_id();
        float t, step;
        if (kCone) {
            if (!(next < ray.end)) return;
            t = next;
            step = params.step;
#pragma unroll 4
            for (int j = 0; j < kWarp; ++j) {
                const float length = march_step(params, next);
                if (j == lane_id()) {
                    t = next;
                    step = length;
                }
                next = add_rn(next, length);
            }
        } else {
            t = march_distance(params, ray, i);
            step = params.step;
        }
        bool sample = i < points && t < ray.end;
        if (kBits && sample)
            sample = march_occupied(params, march_position(params, ray, 0, t), march_position(params, ray, 1, t),
                                    march_position(params, ray, 2, t));
        if (!visit(ballot(sample), t, step)) return;
    }
}

template <bool kCone, bool kBits>
__global__ void __launch_bounds__(kBlock) march_count(MarchRaysParams params) {
    for (int64_t r = first_ray(); r < params.n_rays; r += next_ray()) {
        const MarchRay ray = march_ray(params, r);
        int count = 0;
        if (kCone || kBits) {
            walk<kCone, kBits>(params, ray, [&](unsigned samples, float, float) {
                count += __popc(samples);
                return true;
            });
        } else {
            count = march_lattice_size(params, ray);
        }
        if (lane_id() == 0) params.ray_offsets[r + 1] = count;
    }
}

template <bool kCone, bool kBits>
__global__ void __launch_bounds__(kBlock) march_write_samples(MarchRaysParams params) {
    for (int64_t r = first_ray(); r < params.n_rays; r += next_ray()) {
        int64_t row = params.ray_offsets[r];
        const int64_t end = params.ray_offsets[r + 1];
        if (row >= end) continue;
        const MarchRay ray = march_ray(params, r);
        walk<kCone, kBits>(params, ray, [&](unsigned samples, float t, float step) {
            const int64_t mine = row + __popc(samples & lanes_below());
            if ((samples >> lane_id() & 1u) != 0u && mine < end) march_write(params, ray, mine, t, step);
            row += __popc(samples);
            return row < end;
        });
    }
    const int64_t threads = static_cast<int64_t>(gridDim.x) * kBlock;
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
    for (int64_t i = params.ray_offsets[params.n_rays] + thread; i < params.capacity; i += threads)
        params.distances[i] = params.steps[i] = 0.0f;
    for (int64_t i = 3 * params.ray_offsets[params.n_rays] + thread; i < 3 * params.capacity; i += threads)
        params.positions[i] = 0.0f;
}

template <bool kCone, bool kBits>
void march(const MarchRaysParams& params, cudaStream_t stream) {
    const int64_t for_rays = ceil_div(params.n_rays, kWarpsInBlock);
    const int64_t for_rows = ceil_div(params.capacity, int64_t{8} * kBlock);
    if (params.n_rays > 0)
        LDP_LAUNCH((march_count<kCone, kBits>), blocks_for(for_rays, march_count<kCone, kBits>, kBlock, 0, kWaves),
                   kBlock, 0, stream, params);
    march_scan_cuda(params, stream);
    LDP_LAUNCH((march_write_samples<kCone, kBits>),
               blocks_for(larger(for_rays, for_rows), march_write_samples<kCone, kBits>, kBlock, 0, kWaves), kBlock, 0,
               stream, params);
}

}  // namespace

void march_rays_cuda(const MarchRaysParams& params, cudaStream_t stream) {
    const bool cone = params.cone_angle != 0.0f, bits = params.bits != nullptr;
    if (cone && bits) return march<true, true>(params, stream);
    if (cone) return march<true, false>(params, stream);
    if (bits) return march<false, true>(params, stream);
    march<false, false>(params, stream);
}

}  // namespace ldp

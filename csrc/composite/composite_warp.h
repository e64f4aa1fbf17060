// What the forward and the backward kernel of compositing share: a warp walks along a ray in chunks of 32 samples, one
// a lane, and carries optical depth and distortion's sum from chunk to chunk.
#pragma once

#include <ldp/launch.h>
#include <ldp/warp.h>

#include "composite.h"

namespace ldp {

constexpr int kCompositeBlock = 128;

// The state of a ray at the begin of a chunk, the same in every lane.
struct RayCarry {
    float optical_depth = 0.0f;  // sum of sigma delta before the chunk
    float apart = 0.0f;          // sum_{j<i} w_j (t_i - t_j) of the sample i before the chunk
};

// What a lane knows about its sample.
struct ChunkSample {
    float step, distance, optical_depth, x;  // x = sigma delta; optical_depth: before the sample
    float transmittance, weight, apart;
    bool counts;  // there is a sample, and it comes before the stop
};

// Reads a chunk of samples and moves the carry behind it. Returns the lane of the first sample that does not count
// because of the early stop; 32 = none. All lanes of the warp call this together.
template <bool kApart>
__device__ __forceinline__ int composite_chunk(const CompositeParams& params, int64_t begin, int64_t end, int64_t base,
                                               RayCarry& carry, ChunkSample& sample) {
    const int lane = lane_id();
    const int64_t i = base + lane;
    const bool live = i < end;
    sample.step = live ? params.steps[i] : 0.0f;
    sample.distance = live ? params.distances[i] : 0.0f;
    sample.x = live ? params.density[i] * sample.step : 0.0f;
    sample.optical_depth = carry.optical_depth + exclusive_sum(sample.x);
    sample.transmittance = expf(-sample.optical_depth);
    const unsigned stops = ballot(live && sample.transmittance < params.early_stop);
    const int stop = stops != 0u ? __ffs(static_cast<int>(stops)) - 1 : kWarp;
    sample.counts = live && lane < stop;
    sample.weight = sample.counts ? sample.transmittance * -expm1f(-sample.x) : 0.0f;
    if (kApart) {
        float gap = shuffle_up(sample.distance, 1);
        if (lane == 0 && live) gap = i > begin ? params.distances[i - 1] : sample.distance;
        gap = sample.distance - gap;
        // The weights before a sample add up to 1 - T.
        const float grown = sample.counts && i > begin ? gap * -expm1f(-sample.optical_depth) : 0.0f;
        sample.apart = carry.apart + inclusive_sum(grown);
        carry.apart = broadcast(sample.apart, kWarp - 1);
    } else {
        sample.apart = 0.0f;
    }
    carry.optical_depth = broadcast(sample.optical_depth + sample.x, kWarp - 1);
    return stop;
}

// Zeroes the rows that belong to no ray; all threads of the grid share in it.
__device__ __forceinline__ void composite_zero_padding(const CompositeParams& params, float* rows, int64_t width) {
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
    const int64_t first = smaller(larger<int64_t>(params.ray_offsets[0], 0), params.samples);
    const int64_t last = smaller(larger(params.ray_offsets[params.rays], first), params.samples);
    for (int64_t i = thread; i < first * width; i += threads) rows[i] = 0.0f;
    for (int64_t i = last * width + thread; i < params.samples * width; i += threads) rows[i] = 0.0f;
}

// Zeroes rows [first, last) of `width` floats with the lanes of one warp.
__device__ __forceinline__ void composite_zero_rows(float* rows, int64_t first, int64_t last, int64_t width) {
    for (int64_t i = first * width + lane_id(); i < last * width; i += kWarp) rows[i] = 0.0f;
}

// Where a lane stands among the values of a chunk: the 32 C floats are read in runs of whole cache lines, `kLanes`
// lanes to a sample (the power of two from C up, at most 32), so that a lane keeps its channel.
template <int kLanes>
struct ChannelLanes {
    static constexpr int kSamples = kWarp / kLanes;  // read at once
    __device__ static __forceinline__ int channel() { return lane_id() % kLanes; }
    __device__ static __forceinline__ int sample(int turn) { return turn * kSamples + lane_id() / kLanes; }
};

// Enough warps for every ray, up to some waves of blocks; what is more is walked over in strides.
inline dim3 composite_grid(const CompositeParams& params) {
    constexpr int64_t kWarps = kCompositeBlock / kWarp, kMostBlocks = 1 << 14;
    const int64_t for_rays = ceil_div(params.rays, kWarps),
                  for_padding = ceil_div(params.samples, int64_t{kCompositeBlock} * 16);
    return dim3(static_cast<unsigned>(larger<int64_t>(1, smaller(larger(for_rays, for_padding), kMostBlocks))));
}

// Calls with the number of lanes a sample's channels take, and whether there are more than 32 channels.
#define LDP_COMPOSITE_SWITCH(channels, KERNEL) \
    do {                                       \
        if ((channels) <= 1)                   \
            KERNEL(1, 1);                      \
        else if ((channels) <= 2)              \
            KERNEL(2, 1);                      \
        else if ((channels) <= 4)              \
            KERNEL(4, 1);                      \
        else if ((channels) <= 8)              \
            KERNEL(8, 1);                      \
        else if ((channels) <= 16)             \
            KERNEL(16, 1);                     \
        else if ((channels) <= 32)             \
            KERNEL(32, 1);                     \
        else                                   \
            KERNEL(32, 2);                     \
    } while (false)

}  // namespace ldp

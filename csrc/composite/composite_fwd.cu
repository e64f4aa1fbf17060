// Compositing, forward: a warp per ray.
//
// A thread per ray, as other renderers have it, is one warp per multiprocessor at 64 x 64 rays, and waits for memory. A
// warp reads 32 samples at once; two scans over its lanes give transmittance and distortion. Then the lanes change
// places: the values of the chunk are one contiguous run, read line by line, each lane with one channel (or two), the
// weights handed over by shuffles. The sums over lanes are taken once, at the end of the ray, in a fixed order.
//
// Reads density, steps, distances once up to the stop, and values once; writes weights (also the zeros after the stop
// and on padding) and the sums of a ray.
#include "composite_warp.h"

namespace ldp {
namespace {

template <int kLanes, int kParts>
__global__ void __launch_bounds__(kCompositeBlock, 8)
    composite_kernel(CompositeParams params, CompositeOutputs outputs) {
    using Lanes = ChannelLanes<kLanes>;
    const int lane = lane_id(), channel = Lanes::channel(), channels = params.channels;
    const int64_t warps = static_cast<int64_t>(gridDim.x) * (kCompositeBlock / kWarp);
    const int64_t first_ray = static_cast<int64_t>(blockIdx.x) * (kCompositeBlock / kWarp) + threadIdx.x / kWarp;
    composite_zero_padding(params, outputs.weights, 1);

    for (int64_t ray = first_ray; ray < params.rays; ray += warps) {
        const SampleRange range = composite_range(params, ray);
        float values[kParts] = {};
        float opacity = 0.0f, depth = 0.0f, distortion = 0.0f, emptiness = 0.0f;
        RayCarry carry;
        int64_t base = range.begin;
        for (bool going = true; going && base < range.end; base += kWarp) {
            ChunkSample sample;
            const int stop = composite_chunk<true>(params, range.begin, range.end, base, carry, sample);
            going = stop == kWarp;
            if (base + lane < range.end) outputs.weights[base + lane] = sample.weight;
            if (sample.counts) {
                opacity += sample.weight;
                depth += sample.weight * sample.distance;
                distortion += sample.weight * (2.0f * sample.apart + sample.weight * sample.step * (1.0f / 3.0f));
                if (params.emptiness_scale != 0.0f) emptiness += log1pf(params.emptiness_scale * sample.weight);
            }
            const int counting = static_cast<int>(smaller<int64_t>(stop, range.end - base));
#pragma unroll 8
            for (int turn = 0; turn < kLanes; ++turn) {
                const int k = Lanes::sample(turn);
                const float weight = broadcast(sample.weight, k);
                if (k >= counting) continue;
                const float* row = params.values + (base + k) * channels;
#pragma unroll
                for (int part = 0; part < kParts; ++part) {
                    const int c = channel + part * kWarp;
                    if (c < channels) values[part] += weight * row[c];
                }
            }
        }
        composite_zero_rows(outputs.weights, base, range.end, 1);

        opacity = warp_sum(opacity);
        depth = warp_sum(depth);
        distortion = warp_sum(distortion);
        emptiness = warp_sum(emptiness);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
#pragma unroll
            for (int mask = kLanes; mask < kWarp; mask <<= 1) values[part] += shuffle_xor(values[part], mask);
            const int c = channel + part * kWarp;
            if (lane >= kLanes || c >= channels) continue;
            const int64_t at = ray * channels + c;
            outputs.values[at] =
                params.background != nullptr ? values[part] + (1.0f - opacity) * params.background[at] : values[part];
        }
        if (lane == 0) {
            outputs.opacity[ray] = opacity;
            outputs.depth[ray] = depth;
            outputs.distortion[ray] = distortion;
            outputs.emptiness[ray] = emptiness;
        }
    }
}

}  // namespace

void composite_cuda(const CompositeParams& params, const CompositeOutputs& outputs, void* stream) {
    const dim3 grid = composite_grid(params), block(kCompositeBlock);
    const auto on = static_cast<cudaStream_t>(stream);
#define LDP_KERNEL(lanes, parts) LDP_LAUNCH((composite_kernel<lanes, parts>), grid, block, 0, on, params, outputs)
    LDP_COMPOSITE_SWITCH(params.channels, LDP_KERNEL);
#undef LDP_KERNEL
}

}  // namespace ldp

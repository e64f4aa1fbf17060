// Compositing, backward: a warp per ray, from its last chunk of 32 samples to its first.
//
// With G_i = dL/dw_i: dL/dsigma_i = delta_i (G_i T_{i+1} - sum_{j>i} w_j G_j). The sum is a scan from behind, carried
// from chunk to chunk; total minus prefix would lose the small gradients of the last samples. Transmittance is not
// stored by the forward pass: a first sweep over density and steps, in the forward's order and so with its bits, finds
// the stop and leaves the carry of chunk k in lane k mod 32. When the walk back has used up the last 32 of them (rays
// of more than 1024 samples) the sweep is repeated up to there.
//
// Reads density and steps twice, distances and values once; writes the gradients of density and values once (zeros
// after the stop and on padding too) and the background's. No atomics: the same bits every time.
#include "composite_warp.h"

namespace ldp {
namespace {

// Runs the forward scans over the first `chunks` chunks at most. Returns how many samples count, of those seen.
template <bool kApart>
__device__ __forceinline__ int64_t composite_sweep(const CompositeParams& params, const SampleRange& range,
                                                   int64_t chunks, RayCarry& mine) {
    const int lane = lane_id();
    RayCarry carry;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t base = range.begin + chunk * kWarp;
        const RayCarry here = carry;
        ChunkSample sample;
        const int stop = composite_chunk<kApart>(params, range.begin, range.end, base, carry, sample);
        // A chunk behind the stop is not walked back over: its lane still holds the carry of one that is.
        if (stop > 0 && lane == static_cast<int>(chunk % kWarp)) mine = here;
        if (stop < kWarp) return base + stop - range.begin;
    }
    return smaller(chunks * kWarp, range.end - range.begin);
}

template <int kLanes, int kParts, bool kApart>
__global__ void __launch_bounds__(kCompositeBlock, 5)
    composite_backward_kernel(CompositeParams params, CompositeGradients grads) {
    using Lanes = ChannelLanes<kLanes>;
    const int lane = lane_id(), channel = Lanes::channel(), channels = params.channels;
    const int64_t warps = static_cast<int64_t>(gridDim.x) * (kCompositeBlock / kWarp);
    const int64_t first_ray = static_cast<int64_t>(blockIdx.x) * (kCompositeBlock / kWarp) + threadIdx.x / kWarp;
    composite_zero_padding(params, grads.grad_density, 1);
    composite_zero_padding(params, grads.grad_values, channels);

    for (int64_t ray = first_ray; ray < params.rays; ray += warps) {
        const SampleRange range = composite_range(params, ray);
        const RayGradients of_ray = composite_ray_gradients(grads, ray);
        float of_values[kParts], background[kParts];
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
            const int c = channel + part * kWarp;
            const int64_t at = ray * channels + c;
            of_values[part] = c < channels && grads.values != nullptr ? grads.values[at] : 0.0f;
            background[part] = c < channels && params.background != nullptr ? params.background[at] : 0.0f;
            if (grads.grad_background != nullptr && lane < kLanes && c < channels)
                grads.grad_background[at] = (1.0f - grads.composited[ray]) * of_values[part];
        }

        RayCarry carries;
        const int64_t counting =
            composite_sweep<kApart>(params, range, ceil_div(range.end - range.begin, kWarp), carries);
        const int64_t stop = range.begin + counting, chunks = ceil_div(counting, kWarp);
        composite_zero_rows(grads.grad_density, stop, range.end, 1);
        composite_zero_rows(grads.grad_values, stop, range.end, channels);

        int64_t oldest = larger<int64_t>(0, chunks - kWarp);  // chunk whose carry is still there
        float after = 0.0f, weight_after = 0.0f, apart_after = 0.0f, distance_after = 0.0f;
        for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
            if (chunk < oldest) {
                composite_sweep<kApart>(params, range, chunk + 1, carries);
                oldest = larger<int64_t>(0, chunk + 1 - kWarp);
            }
            const int holder = static_cast<int>(chunk % kWarp);
            RayCarry carry;
            carry.optical_depth = broadcast(carries.optical_depth, holder);
            carry.apart = kApart ? broadcast(carries.apart, holder) : 0.0f;
            const int64_t base = range.begin + chunk * kWarp, i = base + lane;
            ChunkSample sample;
            composite_chunk<kApart>(params, range.begin, stop, base, carry, sample);

            float apart = 0.0f;
            if (kApart) {
                const float behind = weight_after + exclusive_suffix_sum(sample.weight);
                const float next = shuffle_down(sample.distance, 1);
                const float gap = (lane == kWarp - 1 ? distance_after : next) - sample.distance;
                const float from_behind = apart_after + suffix_sum(i + 1 < stop ? gap * behind : 0.0f);
                apart = sample.apart + from_behind;
                weight_after = broadcast(behind + sample.weight, 0);
                apart_after = broadcast(from_behind, 0);
                distance_after = broadcast(sample.distance, 0);
            }

            float of_colour = 0.0f;
#pragma unroll 8
            for (int turn = 0; turn < kLanes; ++turn) {
                const int k = Lanes::sample(turn);
                const float weight = broadcast(sample.weight, k);
                float product = 0.0f;
                if (base + k < stop) {
                    const int64_t row = (base + k) * channels;
#pragma unroll
                    for (int part = 0; part < kParts; ++part) {
                        const int c = channel + part * kWarp;
                        if (c >= channels) continue;
                        product += of_values[part] * (params.values[row + c] - background[part]);
                        grads.grad_values[row + c] = weight * of_values[part];
                    }
                }
#pragma unroll
                for (int mask = 1; mask < kLanes; mask <<= 1) product += shuffle_xor(product, mask);
                const float dealt = broadcast(product, lane % Lanes::kSamples * kLanes);
                if (lane / Lanes::kSamples == turn) of_colour = dealt;
            }

            float grad_weight = 0.0f;
            if (sample.counts) {
                grad_weight = of_colour + composite_weight_gradient(of_ray, sample.weight, sample.distance, sample.step,
                                                                    apart, params.emptiness_scale);
                if (grads.weights != nullptr) grad_weight += grads.weights[i];
            }
            const float term = sample.counts ? grad_weight * sample.weight : 0.0f;
            const float sum_after = after + exclusive_suffix_sum(term);
            if (sample.counts)
                grads.grad_density[i] =
                    sample.step * (grad_weight * expf(-(sample.optical_depth + sample.x)) - sum_after);
            after = broadcast(sum_after + term, 0);
        }
    }
}

}  // namespace

void composite_backward_cuda(const CompositeParams& params, const CompositeGradients& grads, void* stream) {
    const dim3 grid = composite_grid(params), block(kCompositeBlock);
    const auto on = static_cast<cudaStream_t>(stream);
#define LDP_KERNEL(lanes, parts)                                                                             \
    do {                                                                                                     \
        if (grads.distortion != nullptr)                                                                     \
            LDP_LAUNCH((composite_backward_kernel<lanes, parts, true>), grid, block, 0, on, params, grads);  \
        else                                                                                                 \
            LDP_LAUNCH((composite_backward_kernel<lanes, parts, false>), grid, block, 0, on, params, grads); \
    } while (false)
    LDP_COMPOSITE_SWITCH(params.channels, LDP_KERNEL);
#undef LDP_KERNEL
}

}  // namespace ldp

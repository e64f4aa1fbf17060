// Where things lie in the shared memory of the field's backward, and how many blocks a multiprocessor is to hold.
#pragma once

#include "latent_field_cuda.h"

namespace ldp {

constexpr int kFieldWarpRows = 16;    // samples of a warp
constexpr int kFieldMostWarps = 8;    // of a block; also those that a multiprocessor is to hold
constexpr int kFieldOutputStride = 16 + 8;

// In floats; -1 for what did not fit and stays in global memory.
struct FieldPlan {
    int blocks;  // that a multiprocessor has shared memory for
    int warps;   // of a block
    int weights, sums;
    int tiles;  // activations of layer 0, 1, ... and the outputs, one after another
    int size;   // of all

    LDP_HOST_DEVICE int rows() const { return warps * kFieldWarpRows; }
    LDP_HOST_DEVICE int tile(const FieldPack& pack, int l) const {
        return tiles + (l == 0 ? 0 : rows() * (pack.inputs + 8 + (l - 1) * (pack.units + 8)));
    }
};

// First as many warps on a multiprocessor as have room for their tiles, then the weights, which every warp reads whole,
// then the sums; and of what is equal, two blocks, since one goes on while the other waits at a barrier. E = 32,
// H = 64, L = 2 without biases takes 112.5 KiB a block, and is on sm_90 (228 KiB) two blocks of four warps with
// everything in shared memory; on sm_80 (164 KiB) one of eight, and on sm_120 (100 KiB) one of four, whose sums stay
// outside.
inline FieldPlan field_plan(const FieldPack& pack, const DeviceLimits& limits) {
    const int row = pack.inputs + 8 + pack.layers * (pack.units + 8) + kFieldOutputStride;
    FieldPlan best{};
    int best_rank = -1;
    for (int blocks = 2; blocks > 0; --blocks) {
        const int room =
            smaller(limits.shared_per_block, limits.shared_per_multiprocessor / blocks - limits.shared_reserved) / 4;
        for (int warps = kFieldMostWarps / blocks; warps > 0; warps /= 2) {
            FieldPlan plan{blocks, warps, -1, -1, 0, 0};
            plan.size = plan.rows() * row;
            if (plan.size > room) continue;
            for (int* part : {&plan.weights, &plan.sums}) {
                if (plan.size + pack.floats() > room) break;
                *part = plan.size;
                plan.size += pack.floats();
            }
            const int rank = 4 * blocks * warps + 2 * (plan.weights >= 0) + (plan.sums >= 0);
            if (rank <= best_rank) continue;
            best = plan;
            best_rank = rank;
        }
    }
    return best;
}

// Blocks of the backward: as many as are resident and have samples.
inline int64_t field_blocks(const FieldPlan& plan, const DeviceLimits& limits, int64_t samples) {
    const int64_t resident = int64_t{plan.blocks} * limits.multiprocessors;
    return larger<int64_t>(1, smaller<int64_t>(resident, ceil_div(samples, plan.rows())));
}

// Floats of FieldWorkspace: the packed weights and, for the backward, one sum of their gradients for each block.
inline int64_t latent_field_workspace(const LatentFieldParams& params, const DeviceLimits& limits, bool backward) {
    const FieldPack pack = field_pack(params);
    const int64_t sums = backward ? field_blocks(field_plan(pack, limits), limits, params.size) : 0;
    return pack.floats() * (1 + sums);
}

}  // namespace ldp

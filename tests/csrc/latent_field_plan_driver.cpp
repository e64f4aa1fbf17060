// latent_field_plan_driver ENCODING HIDDEN LAYERS CHANNELS BIAS SAMPLES: the plan of the field's backward on
// LDP_CUDA_DEVICE: "blocks warps bytes weights sums floats multiprocessors forward backward": whether weights and sums
// are in shared memory, floats of the pack, and floats of the workspaces.
#include <cstdio>
#include <cstdlib>

#include "latent_field/latent_field_plan.h"

int main(int argc, char** argv) {
    if (argc != 7) return 2;
    ldp::LatentFieldParams p{};
    p.encoding = std::atoi(argv[1]);
    p.hidden = std::atoi(argv[2]);
    p.layers = std::atoi(argv[3]);
    p.channels = std::atoi(argv[4]);
    p.bias = std::atoi(argv[5]) != 0;
    p.size = std::atoi(argv[6]);
    const ldp::FieldPack pack = ldp::field_pack(p);
    const ldp::DeviceLimits limits = ldp::device_limits();
    const ldp::FieldPlan plan = ldp::field_plan(pack, limits);
    std::printf("%d %d %d %d %d %d %d %lld %lld\n", plan.blocks, plan.warps, 4 * plan.size, plan.weights >= 0,
                plan.sums >= 0, pack.floats(), limits.multiprocessors,
                static_cast<long long>(ldp::latent_field_workspace(p, limits, false)),
                static_cast<long long>(ldp::latent_field_workspace(p, limits, true)));
    return 0;
}

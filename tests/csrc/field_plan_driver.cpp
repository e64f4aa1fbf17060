// field_plan_driver ENCODING HIDDEN LAYERS CHANNELS BIAS: the plan of the field's backward on LDP_CUDA_DEVICE, as
// "blocks warps bytes weights sums floats", the last three: whether they are in shared memory, and floats of the pack.
#include <cstdio>
#include <cstdlib>

#include "field/field_plan.h"

int main(int argc, char** argv) {
    if (argc != 6) return 2;
    ldp::FieldParams p{};
    p.encoding = std::atoi(argv[1]);
    p.hidden = std::atoi(argv[2]);
    p.layers = std::atoi(argv[3]);
    p.channels = std::atoi(argv[4]);
    p.bias = std::atoi(argv[5]) != 0;
    const ldp::FieldPack pack = ldp::field_pack(p);
    const ldp::FieldPlan plan = ldp::field_plan(pack, ldp::device_limits());
    std::printf("%d %d %d %d %d %d\n", plan.blocks, plan.warps, 4 * plan.size, plan.weights >= 0, plan.sums >= 0,
                pack.floats());
    return 0;
}

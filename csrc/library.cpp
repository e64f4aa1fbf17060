// Every native operator: the table of contents of csrc.
//
// They write into outputs that Python allocated (`ldp_fast::foo` is the operator users call, with shapes, autograd and
// checks; `ldp_fast_native::foo(outputs..., arguments...)` is what it runs on CPU and CUDA), so that nothing here
// allocates and all memory is torch's own.
#include <torch/csrc/stable/library.h>

#include "hash_grid/hash_grid_op.h"
#include "march/march_op.h"
#include "occupancy/occupancy_op.h"

STABLE_TORCH_LIBRARY(ldp_fast_native, m) {
    m.def(
        "hash_grid(Tensor(a!) encoding, Tensor positions, Tensor table, Tensor? shadow, Tensor? count, int[] offsets, "
        "int[] resolutions, float[] scales, float shift, bool hashed, bool smoothstep) -> ()");
    m.def(
        "march_rays(Tensor(a!) positions, Tensor(b!) distances, Tensor(c!) steps, Tensor(d!) ray_offsets, Tensor(e!) counts, "
        "Tensor(f!) workspace, Tensor origins, Tensor directions, Tensor? bits, Tensor seed, float[] box, int resolution, "
        "int cascades, float near, float far, float step, float cone_angle, float max_step, bool jitter, int capacity) -> ()");
    m.def(
        "occupancy_samples(Tensor(a!) cells, Tensor(b!) positions, Tensor ema, Tensor threshold, Tensor seed, int uniform, "
        "int occupied, float[] box, int resolution, int cascades) -> ()");
    m.def("occupancy_update(Tensor(a!) updated, Tensor ema, Tensor cells, Tensor densities, float decay) -> ()");
    m.def("occupancy_bits(Tensor(a!) bits, Tensor(b!) used_threshold, Tensor(c!) workspace, Tensor ema, float threshold) -> ()");
}

// One function serves both devices: it looks at its tensors (LDP_DISPATCH).
#define LDP_IMPLEMENT(m)                                                \
    m.impl("hash_grid", TORCH_BOX(&ldp::hash_grid_op));                 \
    m.impl("march_rays", TORCH_BOX(&ldp::march_rays_op));               \
    m.impl("occupancy_samples", TORCH_BOX(&ldp::occupancy_samples_op)); \
    m.impl("occupancy_update", TORCH_BOX(&ldp::occupancy_update_op));   \
    m.impl("occupancy_bits", TORCH_BOX(&ldp::occupancy_bits_op));

STABLE_TORCH_LIBRARY_IMPL(ldp_fast_native, CPU, m) { LDP_IMPLEMENT(m) }
STABLE_TORCH_LIBRARY_IMPL(ldp_fast_native, CUDA, m) { LDP_IMPLEMENT(m) }

// Every native operator: the table of contents of csrc.
//
// They write into outputs that Python allocated (`ldp_fast::foo` is the operator users call, with shapes, autograd and
// checks; `ldp_fast_native::foo(outputs..., arguments...)` is what it runs on CPU and CUDA), so that nothing here
// allocates and all memory is torch's own.
#include <torch/csrc/stable/library.h>

#include "hash_grid/hash_grid_op.h"

STABLE_TORCH_LIBRARY(ldp_fast_native, m) {
    m.def(
        "hash_grid(Tensor(a!) encoding, Tensor positions, Tensor table, Tensor? shadow, Tensor? count, int[] offsets, "
        "int[] resolutions, float[] scales, float shift, bool hashed, bool smoothstep) -> ()");
    m.def(
        "hash_grid_backward_table(Tensor(a!) grad_table, Tensor(b!)? workspace, Tensor grad, Tensor positions, Tensor? count, "
        "int[] offsets, int[] resolutions, float[] scales, float shift, bool hashed, bool smoothstep) -> ()");
    m.def(
        "hash_grid_backward_positions(Tensor(a!) grad_positions, Tensor grad, Tensor positions, Tensor table, Tensor? shadow, "
        "Tensor? count, int[] offsets, int[] resolutions, float[] scales, float shift, bool hashed, bool smoothstep) -> ()");
}

// One function serves both devices: it looks at its tensors (LDP_DISPATCH).
#define LDP_IMPLEMENT(m)                                                                            \
    m.impl("hash_grid", TORCH_BOX(&ldp::hash_grid_op));                                             \
    m.impl("hash_grid_backward_table", TORCH_BOX(&ldp::hash_grid_backward_table_op));               \
    m.impl("hash_grid_backward_positions", TORCH_BOX(&ldp::hash_grid_backward_positions_op));

STABLE_TORCH_LIBRARY_IMPL(ldp_fast_native, CPU, m) { LDP_IMPLEMENT(m) }
STABLE_TORCH_LIBRARY_IMPL(ldp_fast_native, CUDA, m) { LDP_IMPLEMENT(m) }

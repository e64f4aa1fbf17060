// Every native operator: the table of contents of csrc.
//
// They write into outputs that Python allocated (`ldp_fast::foo` is the operator users call, with shapes, autograd and
// checks; `ldp_fast_native::foo(outputs..., arguments...)` is what it runs on CPU and CUDA), so that nothing here
// allocates and all memory is torch's own.
#include <torch/csrc/stable/library.h>

#include "field/field_op.h"
#include "hash_grid/hash_grid_op.h"

STABLE_TORCH_LIBRARY(ldp_fast_native, m) {
    m.def(
        "hash_grid(Tensor(a!) encoding, Tensor positions, Tensor table, Tensor? shadow, Tensor? count, int[] offsets, "
        "int[] resolutions, float[] scales, float shift, bool hashed, bool smoothstep) -> ()");
    m.def(
        "latent_field(Tensor(a!) density, Tensor(b!) latents, Tensor(c!) encoding, Tensor(d!)? workspace, Tensor positions, "
        "Tensor table, Tensor? shadow, Tensor weights, Tensor? count, int[] offsets, int[] resolutions, float[] scales, "
        "float shift, bool hashed, bool smoothstep, float bound, int hidden, int layers, int channels, bool bias, bool sigmoid, "
        "float blob_strength, float blob_std, bool half) -> ()");
    m.def(
        "latent_field_backward(Tensor(a!) grad_encoding, Tensor(b!) grad_weights, Tensor(c!) grad_positions, "
        "Tensor(d!)? workspace, Tensor grad_density, Tensor grad_latents, Tensor positions, Tensor encoding, Tensor weights, "
        "Tensor? count, int hidden, int layers, int channels, bool bias, bool sigmoid, float blob_strength, float blob_std, "
        "bool half) -> ()");
}

// One function serves both devices: it looks at its tensors (LDP_DISPATCH).
#define LDP_IMPLEMENT(m)                                    \
    m.impl("hash_grid", TORCH_BOX(&ldp::hash_grid_op));       \
    m.impl("latent_field", TORCH_BOX(&ldp::latent_field_op)); \
    m.impl("latent_field_backward", TORCH_BOX(&ldp::latent_field_backward_op));

STABLE_TORCH_LIBRARY_IMPL(ldp_fast_native, CPU, m) { LDP_IMPLEMENT(m) }
STABLE_TORCH_LIBRARY_IMPL(ldp_fast_native, CUDA, m) { LDP_IMPLEMENT(m) }

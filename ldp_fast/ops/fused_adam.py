"""`torch.ops.ldp_fast.fused_adam`, which works in place."""

from __future__ import annotations

from .. import reference
from ._library import define, register_in_place

define(
    "fused_adam(Tensor(a!) param, Tensor(b!) grad, Tensor(c!) exp_avg, Tensor(d!) exp_avg_sq, Tensor(e!)? shadow, "
    "Tensor(f!) step, Tensor lr, float beta1, float beta2, float eps, float weight_decay, bool decoupled, "
    "Tensor? grad_scale, Tensor? found_inf, bool zero_grad) -> ()"
)
register_in_place("fused_adam", reference=reference.fused_adam, changed=(0, 1, 2, 3, 4, 5))

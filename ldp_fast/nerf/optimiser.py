"""Adam that updates parameters, moments and half-precision shadows, and zeroes the gradients, in one pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from .. import checks
from ..ops import fused_adam as _registers  # noqa: F401

Shadow = Tensor | Callable[[], Tensor]


def source_of(table: Tensor) -> tuple[int, int, int]:
    """Identifies what a shadow was cast from: a table's memory, its version, and the steps of other optimisers.

    Torch's fused optimisers change a parameter without counting up its version.
    """
    return table.data_ptr(), table._version, getattr(table, "_foreign_steps", 0)


def _count_foreign(optimiser: Optimizer, args: Any, kwargs: Any) -> None:
    if isinstance(optimiser, FusedAdam):
        return
    for group in optimiser.param_groups:
        for param in group["params"]:
            if hasattr(param, "_foreign_steps"):
                param._foreign_steps += 1


@functools.cache
def _watch_optimisers() -> None:
    """From now on every optimiser's step is seen: `_foreign_steps` counts those of others on a shadowed parameter."""
    register_optimizer_step_post_hook(_count_foreign)


class FusedAdam(Optimizer):
    """Adam or AdamW by `torch.ops.ldp_fast.fused_adam`: each value is read once and written once.

    The numbers are those of `torch.optim.Adam`, up to rounding. All state is on the parameters' device and nothing
    waits for it, so a step can be captured in a CUDA graph: take one step before, so that the state exists, and give
    `lr` as a tensor if it is to change between replays (a float is written to the device where `step` is called).
    Works with learning rate schedulers and `torch.amp.GradScaler`: steps with non-finite gradients change nothing
    and do not count. Deterministic.

    `zero_grad` leaves every gradient allocated and zero, so that the next backward adds into it and a loop needs no
    `optimizer.zero_grad()`. Turn it off to look at gradients after a step.

    A gradient set by hand that is not contiguous costs a copy of it, and one that is expanded (many elements in one
    place of memory) is replaced by that copy.

    A shadow is a float16 copy of a parameter that a GPU reads instead of it. It is equal to the rounded parameter
    after every step that is taken, whatever else has written the parameter. A step without a gradient or with
    non-finite ones writes neither: the shadow is then equal except for writes since the step before that left no trace
    (`parameter.data`). `shadow._source` is then `source_of(parameter)`, and whoever holds the shadow need not cast
    again while that is so (see `HashGrid.shadow`); `shadow._maintained` says that an optimiser's steps keep it equal.

    State dicts of `torch.optim.Adam` and `AdamW` can be loaded, but not with `amsgrad` or `maximize`.

    Args:
        params: parameters or parameter groups; float32 (float64 by plain PyTorch), contiguous.
        lr: learning rate, a float or a tensor of one element (float32, on the parameters' device).
        betas: decay of the two moments, in [0, 1).
        eps: added to the denominator.
        weight_decay: factor of the parameter in the gradient, or, decoupled, of its shrinking.
        decoupled: weight decay as in AdamW.
        zero_grad: zero the gradients in the same pass.
        shadows: by parameter, a float16 tensor of its shape, or a function that returns one.

    Raises:
        TypeError: a parameter or shadow of another dtype, or a flag that is neither True nor False.
        ValueError: a number out of range, a parameter that is not contiguous, a shadow of another shape, or one of a
            tensor that is not among the parameters.

    Examples:
        >>> import torch
        >>> from ldp_fast.nerf import FusedAdam
        >>> x = torch.nn.Parameter(torch.ones(3))
        >>> optimiser = FusedAdam([x], lr=0.25)
        >>> x.square().sum().backward()
        >>> optimiser.step()
        >>> x.data, x.grad
        (tensor([0.7500, 0.7500, 0.7500]), tensor([0., 0., 0.]))
    """

    _step_supports_amp_scaling = True
    _shadows: dict[Tensor, Shadow]
    _rates: dict[tuple[int, torch.device, torch.dtype], tuple[float, Tensor]]

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        zero_grad: bool = True,
        shadows: Mapping[Tensor, Shadow] | None = None,
    ):
        self._shadows, self._rates = dict(shadows or {}), {}
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled": decoupled,
            "zero_grad": zero_grad,
            # Read by load_state_dict: the step counter stays on the device.
            "capturable": True,
        }
        super().__init__(params, defaults)
        known = {id(param) for group in self.param_groups for param in group["params"]}
        for key in self._shadows:
            if id(key) not in known:
                got = f"a tensor of shape {checks.shape_text(key)}" if isinstance(key, Tensor) else repr(key)
                checks.fail("FusedAdam", "shadows", "parameters of this optimiser as keys", got)
            key._foreign_steps = getattr(key, "_foreign_steps", 0)  # type: ignore[attr-defined]
        if self._shadows:
            _watch_optimisers()

    def __setstate__(self, state: dict[str, Any]) -> None:
        for group in state.get("param_groups", ()):
            for name in ("amsgrad", "maximize"):
                if group.get(name):
                    checks.fail("FusedAdam", f"state_dict's {name}", "False", repr(group[name]))
        super().__setstate__(state)
        for group in self.param_groups:
            # What torch.optim.Adam has under another name, or not at all.
            group.setdefault("decoupled", group.get("decoupled_weight_decay", self.defaults["decoupled"]))
            group.setdefault("zero_grad", self.defaults["zero_grad"])
            group["capturable"] = True
        for param, held in self.state.items():
            if "step" in held:
                step = torch.as_tensor(held["step"], dtype=torch.float32)
                held["step"] = step.to(param.device, non_blocking=True)
        # A copied or unpickled optimiser has other parameters; what was kept by parameter does not belong to them.
        self.__dict__.setdefault("_shadows", {})
        self._rates = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with settings of their own (see `torch.optim.Optimizer.add_param_group`)."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except (TypeError, ValueError):
            del self.param_groups[-1]
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Takes a step with the gradients that are there.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            What the closure returned, None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for place, group in enumerate(self.param_groups):
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                if param.grad.is_sparse:
                    raise RuntimeError("FusedAdam: grad: expected a dense gradient, got a sparse one")
                state, shadow = self._state_of(param), self._shadow_of(param)
                held, grad = param.grad, param.grad.contiguous()
                torch.ops.ldp_fast.fused_adam(
                    param,
                    grad,
                    state["exp_avg"],
                    state["exp_avg_sq"],
                    shadow,
                    state["step"],
                    self._rate(place, group["lr"], param),
                    float(beta1),
                    float(beta2),
                    float(group["eps"]),
                    float(group["weight_decay"]),
                    group["decoupled"],
                    _on(grad_scale, param.device),
                    _on(found_inf, param.device),
                    group["zero_grad"],
                )
                if not held.is_contiguous():
                    _give_back(param, held, grad)
                if shadow is not None:
                    shadow._source = source_of(param)  # type: ignore[attr-defined]
                    shadow._maintained = True  # type: ignore[attr-defined]
        return loss

    def _state_of(self, param: Tensor) -> dict[str, Any]:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        return state

    def _shadow_of(self, param: Tensor) -> Tensor | None:
        """The shadow, cast anew where a writer left a trace: a step that is skipped leaves it as it is."""
        kept = self._shadows.get(param)
        if kept is None:
            return None
        shadow = kept() if callable(kept) else kept
        if not isinstance(shadow, Tensor):
            raise TypeError(f"FusedAdam: shadows: expected tensors or functions that return one, got {shadow!r}")
        if shadow.dtype != torch.float16:
            raise TypeError(f"FusedAdam: shadows: expected float16, got {shadow.dtype}")
        if shadow.shape != param.shape or shadow.device != param.device:
            wanted, got = (f"{list(x.shape)} on {x.device}" for x in (param, shadow))
            raise ValueError(f"FusedAdam: shadows: expected the parameter's shape and device, {wanted}, got {got}")
        if getattr(shadow, "_source", None) != source_of(param):
            shadow.copy_(param)
        return shadow

    def _rate(self, place: int, lr: float | Tensor, param: Tensor) -> Tensor:
        """The learning rate of a group, like a parameter; written to its device only when it has changed."""
        device, dtype = param.device, param.dtype
        if isinstance(lr, Tensor):
            return lr.to(device=device, dtype=dtype, non_blocking=True)
        value, tensor = self._rates.get((place, device, dtype), (None, None))
        if tensor is None:
            tensor = torch.empty((), dtype=dtype, device=device)
        if value != lr:
            tensor.fill_(lr)
            self._rates[place, device, dtype] = (float(lr), tensor)
        return tensor


def _give_back(param: Tensor, held: Tensor, grad: Tensor) -> None:
    """Writes what a step has left in a copy of the gradient where the gradient lies, or replaces an expanded one."""
    if 0 in held.stride():
        param.grad = grad
    else:
        held.copy_(grad)


def _on(value: Tensor | float | None, device: torch.device) -> Tensor | None:
    """A scalar of a GradScaler on a device, float32."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        return torch.full((), float(value), dtype=torch.float32, device=device)
    return value.to(device=device, dtype=torch.float32, non_blocking=True)


def _check(group: dict[str, Any]) -> None:
    """Checks a parameter group."""
    what, lr, betas = "FusedAdam", group["lr"], group["betas"]
    if not isinstance(lr, Tensor):
        checks.number(what, "lr", lr, 0.0)
    elif lr.numel() != 1:
        checks.fail(what, "lr", "a tensor of one element", f"shape {checks.shape_text(lr)}")
    if not (
        isinstance(betas, (tuple, list)) and len(betas) == 2 and all(checks.is_real(x) and 0 <= x < 1 for x in betas)
    ):
        checks.fail(what, "betas", "two numbers in [0, 1)", repr(betas))
    for name in ("eps", "weight_decay"):
        checks.number(what, name, group[name], 0.0)
    for name in ("decoupled", "zero_grad"):
        checks.flag(what, name, group[name])
    for param in group["params"]:
        if param.dtype not in checks.FULL_PRECISION:
            checks.fail(what, "params", "float32 or float64", str(param.dtype), TypeError)
        if not param.is_contiguous():
            got = f"strides {list(param.stride())} for shape {list(param.shape)}"
            checks.fail(what, "params", "contiguous tensors", got)

"""Weights of a frozen network as oneDNN wants them, made once in the place of once a call.

oneDNN multiplies by blocks of a weight, and torch keeps weights in rows: on a CPU every call of a convolution copies
them into blocks, which takes as long as the products where channels are many and pixels few. A network that `optimise`
has copied belongs to the prior, and its weights do not change: there the blocks are kept in the place of the rows.

The operators are those that torch's own compiler puts into frozen networks (torch._inductor's `freezing`); a torch that
lacks them, or a processor that oneDNN does not serve in the precision, has its networks as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import differentiated_otherwise

CHANNELS_LAST = torch.channels_last
_OPERATORS = ("_reorder_convolution_weight", "_convolution_pointwise", "_reorder_linear_weight", "_linear_pointwise")
# Their blocks call what they hold, and read its weight at most; what a module of a host's own reads is not known.
_KNOWN = ("diffusers.", "torch.nn.")
# What nn.Module calls besides `forward`; read from a module, because each torch has its own.
_HOOKS = tuple(name for name in vars(nn.Module()) if "hooks" in name)
_UNTRANSFORMED: Any = getattr(torch._C, "_DisableFuncTorch", nullcontext)


class _Packed(nn.Module):
    """A layer whose weight is held in blocks.

    Copies, pickles, conversions and state dicts go through rows, which blocks do not support; so do gradients,
    which the operators do not have. `parameters()` lacks the weight. Where it comes to a device or a precision without
    blocks, it is held in rows.
    """

    held: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.Linear, shape: torch.Size):
        super().__init__()
        self.bias = layer.bias
        self.shape = shape
        self.train(layer.training)

    def pack(self, weight: Tensor) -> Tensor:
        """The blocks of a weight."""
        raise NotImplementedError

    def hold(self, weight: Tensor) -> None:
        """Takes a weight, in its precision and where it is."""
        self.dtype, self.in_blocks = weight.dtype, weight.device.type == "cpu" and available(weight.dtype)
        self.held = self.pack(weight) if self.in_blocks else weight

    def rows(self) -> Tensor:
        """The weight as torch has it."""
        if not self.in_blocks:
            return self.held
        # Within functorch a copy out of blocks would still be taken for one; and torch.compile, which cannot trace such
        # copies, runs this between two graphs.
        with _UNTRANSFORMED():
            return self.held.to_dense()

    def _by_torch(self, x: Tensor) -> bool:
        if not self.in_blocks or differentiated_otherwise():
            return True
        bias = self.bias is not None and self.bias.requires_grad
        return torch.is_grad_enabled() and (bias or x.requires_grad)

    def extra_repr(self) -> str:
        held = "blocks" if self.in_blocks else "rows"
        return f"{list(self.shape)}, {str(self.dtype).removeprefix('torch.')} in {held}"

    @property
    def weight(self) -> Tensor:
        """The weight as torch has it, made anew by every reading; writing to it changes nothing."""
        return self.rows()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        rows = self.rows()
        made = fn(rows)
        if made is not rows:
            self.hold(made)
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.rows()  # before the bias, as torch's layers have it
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key, known = prefix + "weight", len(unexpected_keys)
        lists = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
        unexpected_keys[known:] = [name for name in unexpected_keys[known:] if name != key]
        if key not in state_dict:
            missing_keys += [key] if strict else []
            return
        try:
            # As torch has it: without a graph, and with `assign` in the precision of what is given.
            given, rows = state_dict[key].detach(), self.rows()
            if given.shape != rows.shape:
                error_msgs.append(f"{key}: expected {list(rows.shape)}, got {list(given.shape)}")
                return
            self.hold(given if local_metadata.get("assign_to_params_buffers", False) else rows.copy_(given))
        except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
            error_msgs.append(
                f"{key}: expected a tensor like the weight, got {type(state_dict[key]).__name__}: {error}"
            )

    def layer(self) -> nn.Conv2d | nn.Linear:
        """A layer of torch with these weights."""
        raise NotImplementedError

    def _filled(self, layer: Any, memory_format: torch.memory_format) -> Any:
        layer.weight = nn.Parameter(self.rows().contiguous(memory_format=memory_format), requires_grad=False)
        layer.bias = self.bias
        for name in _HOOKS:  # which somebody may have put there since
            vars(layer)[name] = copy.copy(vars(self)[name])
        return layer.train(self.training)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "held": self.rows()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.hold(self.held)


class PackedConv2d(_Packed):
    """`nn.Conv2d` with zero padding; `channels_last` is the layout of what it returns."""

    def __init__(self, conv: nn.Conv2d, shape: torch.Size, channels_last: bool):
        super().__init__(conv, shape)
        self.channels_last = channels_last
        self.channels = (conv.in_channels, conv.out_channels)
        # Tuples of two numbers: `_packable` has seen to it.
        self.kernel_size: Any = conv.kernel_size
        self.geometry: tuple[Any, ...] = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.hold(conv.weight.detach())

    def pack(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(), *self.geometry, self.shape)

    def layer(self) -> nn.Conv2d:
        padding, stride, dilation, groups = self.geometry
        with torch.device("meta"):
            conv = nn.Conv2d(*self.channels, self.kernel_size, stride, padding, dilation, groups, dtype=self.dtype)
        return self._filled(conv, CHANNELS_LAST if self.channels_last else torch.contiguous_format)

    def forward(self, input: Tensor) -> Tensor:
        # Under an enclosing autocast it may come in another precision.
        x = input.to(self.dtype)
        if x.dim() != 4 or self._by_torch(x):
            padding, stride, dilation, groups = self.geometry
            with _without_autocast(x):
                return F.conv2d(x, self.rows(), self.bias, stride, padding, dilation, groups)
        if self.channels_last:
            x = x.contiguous(memory_format=CHANNELS_LAST)
        return torch.ops.mkldnn._convolution_pointwise(x, self.held, self.bias, *self.geometry, "none", [], "")


class PackedLinear(_Packed):
    """`nn.Linear`."""

    def __init__(self, linear: nn.Linear, shape: torch.Size):
        super().__init__(linear, shape)
        self.features = (linear.in_features, linear.out_features)
        self.hold(linear.weight.detach())

    def pack(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), self.shape[:-1].numel())

    def layer(self) -> nn.Linear:
        with torch.device("meta"):
            linear = nn.Linear(*self.features, dtype=self.dtype)
        return self._filled(linear, torch.contiguous_format)

    def forward(self, input: Tensor) -> Tensor:
        x = input.to(self.dtype)
        if self._by_torch(x):
            with _without_autocast(x):
                return F.linear(x, self.rows(), self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.held, self.bias, "none", [], "")


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """For torch's own operators, which would not keep the layer's precision within one."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()


def available(dtype: torch.dtype) -> bool:
    """Whether this torch and this processor have what is needed for weights of a precision."""
    if not torch.backends.mkldnn.is_available() or any(not hasattr(torch.ops.mkldnn, n) for n in _OPERATORS):
        return False
    if dtype == torch.bfloat16:
        return bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)())
    return dtype == torch.float32


def pack(network: nn.Module, channels_last: bool, run: Callable[[], Any]) -> None:
    """Packs the convolutions and, in bfloat16, the projections of a network, in place.

    Layers that something else may look into (hooks, wrappers, modules of a host's own) stay as they are, as do those
    that `run` does not call.

    Args:
        network: of one precision, on a CPU; nobody else's.
        channels_last: the layout of the images between its layers.
        run: calls the network once, with tensors of the sizes that it is for.
    """
    places = list(_places(network))
    shapes: dict[Any, torch.Size] = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        # What is called otherwise (by keyword, without a batch) stays as it is.
        if len(inputs) == 1 and inputs[0].dim() >= (4 if isinstance(layer, nn.Conv2d) else 2):
            shapes.setdefault(layer, inputs[0].shape)

    hooks = [layer.register_forward_pre_hook(record) for layer in {getattr(*place) for place in places}]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    del hooks
    # One at a time, so that no more than one layer is there twice.
    where: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent, name in places:
        where.setdefault(id(getattr(parent, name)), []).append((parent, name))
    made: Any = None
    while shapes:
        layer, shape = shapes.popitem()
        conv = isinstance(layer, nn.Conv2d)
        made = PackedConv2d(layer, shape, channels_last) if conv else PackedLinear(layer, shape)
        for parent, name in where[id(layer)]:
            setattr(parent, name, made)
    if next(network.parameters(), None) is None and isinstance(made, _Packed):
        # Its device and precision are read from a parameter.
        plain = made.layer()
        for parent, name in places:
            if getattr(parent, name) is made:
                setattr(parent, name, plain)


def is_packed(network: nn.Module) -> bool:
    """Whether any of its layers is."""
    return any(isinstance(module, _Packed) for module in network.modules())


def unpacked(network: nn.Module) -> nn.Module:
    """A network with torch's layers in the place of packed ones, as compilers need it: itself, or a copy."""
    if not is_packed(network):
        return network
    made = copy.deepcopy(network)
    layers: dict[nn.Module, nn.Module] = {}
    for parent in list(made.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, _Packed):
                if child not in layers:
                    layers[child] = child.layer()
                setattr(parent, name, layers[child])
    return made


def compiled(network: nn.Module, **options: Any) -> Any:
    """`torch.compile(network, **options)` of a network without packed layers; the module itself stays as it was."""
    plain: nn.Module = unpacked(getattr(network, "_orig_mod", network))
    found = set(vars(plain))
    made = torch.compile(plain, **options)
    # torch marks its wrapper, and the mark lands on the module.
    for name in set(vars(plain)) - found:
        delattr(plain, name)
    return made


def is_channels_last(network: nn.Module) -> bool | None:
    """The layout of a network's packed convolutions; None without any."""
    return next((m.channels_last for m in network.modules() if isinstance(m, PackedConv2d)), None)


def _places(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules and the names under which they hold a layer that can be packed."""
    for parent in network.modules():
        if not type(parent).__module__.startswith(_KNOWN) or _watched(parent):
            continue
        for name, child in parent._modules.items():
            if child is not None and _packable(child):
                yield parent, name


def _packable(layer: nn.Module) -> bool:
    if _watched(layer) or "forward" in vars(layer) or layer._buffers or layer._modules:
        return False
    weight = getattr(layer, "weight", None)
    if type(weight) is not nn.Parameter or weight.device.type != "cpu" or not available(weight.dtype):
        return False
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) is nn.Linear and weight.dtype == torch.bfloat16


def _watched(module: nn.Module) -> bool:
    return any(vars(module).get(name) for name in _HOOKS)

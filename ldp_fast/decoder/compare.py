"""Whether the layers compute what the VAE's own decoder computes: on a tiny latent, values and gradient, once.

Blocks are recognised by their class's name and attributes (recognise.py), and a name promises nothing: methods are
replaced, classes patched or subclassed under the same name, and a decoder may do more than call its blocks one after
the other. So the VAE's own `decode` is run under hooks and compared, stage by stage, with the layers. Where they
differ, the blocks are gone through one by one; one that deviates from its own code runs under autograd. If the whole
differs even then, the decoder is of a kind that is not known, and is refused.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._precision import EPSILON, in_tf32
from ..errors import reason
from .derive import one_pass
from .fallback import SWAPPING, AutogradLayer
from .layers import Layer
from .passes import Features
from .recognise import entry_of, layers_of, under_autograd
from .stages import last_module
from .units import LatentUnits
from .whole import run

HEIGHT, WIDTH = 3, 2
# About what latents of Stable Diffusion are in the VAE's units, with room above.
SIZE = 6.0
# Relative L2 deviation in float32: a hundred times the rounding of a whole decoder.
TOLERANCE = 1e-3
# The same where a GPU's products are in TensorFloat-32, 32 times its spacing. That is torch's default for convolutions;
# both sides obey it, and it is not changed here: it is the process's, and cannot be put back as it was.
IN_TF32 = 32 * EPSILON
Stages = Sequence[tuple[str, nn.Module]]
Forced = dict[int, dict[int, str]]


class _Enough(BaseException):
    """The deepest stage is there: what comes after it is of no interest. Not an Exception, which decoders may catch."""


def layers_for(stages: Stages, units: LatentUnits, dtype: torch.dtype, forced: Forced) -> list[list[Layer]]:
    """Every stage's layers, in a precision."""
    made: list[list[Layer]] = []
    for index, (_, module) in enumerate(stages):
        own = forced.get(index, {})
        made.append([entry_of(module, units, dtype, own)] if index == 0 else layers_of(module, dtype, own))
    return made


def deviations(vae: Any, stages: Stages) -> tuple[Forced, bool]:
    """See `_deviations`; what fails on the way is a decoder whose blocks are called otherwise."""
    # In evaluation for the time of it: nothing random, no statistics moved, nothing checkpointed.
    training = [module for module in vae.modules() if module.training]
    try:
        for module in training:
            module.training = False
        return _deviations(vae, stages)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise TypeError(
            f"FrozenDecoder: vae: {type(vae).__name__} is not served: its blocks cannot be called one after the other "
            f"({reason(error)})"
        ) from error
    finally:
        for module in training:
            module.training = True


def _deviations(vae: Any, stages: Stages) -> tuple[Forced, bool]:
    """The blocks that do not compute what they are taken for, by stage and number, and why.

    Args:
        vae: whose decoder it is; it is run, and left as it was.
        stages: of `split`, up to the deepest that is wanted.

    Returns:
        The blocks, and whether the weights allowed to tell: zeros and what is not finite hide everything.

    Raises:
        TypeError: the decoder does something that its blocks do not show.
    """
    parameters = [p for _, module in stages for p in module.parameters()]
    if any(p.is_meta for p in parameters) or _faked(parameters):
        return {}, False  # there are no numbers to compare
    own, units = parameters[0], LatentUnits(1.0)
    dtype = torch.float64 if own.dtype == torch.float64 else torch.float32
    generator = torch.Generator("cpu").manual_seed(0)

    def drawn(shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=generator, dtype=dtype, device="cpu").to(own.device)

    latents = SIZE * drawn((1, _channels(vae, stages), HEIGHT, WIDTH))
    devices = [own.device] if own.device.type == "cuda" else []
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(own.device.type, enabled=False),
        torch.random.fork_rng(devices),
        _nothing_compiled(),
        SWAPPING,
    ):
        cotangents: list[Tensor] = []

        def cotangent(x: Tensor) -> Tensor:
            cotangents.append(drawn(x.shape) / max(x.numel(), 1) ** 0.5)
            return cotangents[-1]

        theirs = _own_decoder(vae, stages, units, latents, dtype, cotangent)
        forced: Forced = {}
        problem = _problem(theirs, _ours(stages, units, latents, dtype, forced, cotangents), stages)
        if problem:
            forced = _located(stages, units, dtype, latents, theirs[0], drawn)
            if forced:
                problem = _problem(theirs, _ours(stages, units, latents, dtype, forced, cotangents), stages)
    if problem:
        raise TypeError(f"FrozenDecoder: vae: {type(vae).__name__} is not served: {problem}")
    telling = all(bool(x.isfinite().all()) and bool(x.any()) for x in theirs[0])
    return forced, telling and not any(_dormant(part) for part in _beside(vae.decoder))


Pass = tuple[list[Tensor], Tensor | None]


def _own_decoder(
    vae: Any, stages: Stages, units: LatentUnits, latents: Tensor, dtype: torch.dtype, cotangent: Callable[..., Tensor]
) -> Pass:
    """Each stage's output in the VAE's own `decode`, and the gradient to the latents."""
    if not callable(getattr(vae, "decode", None)):
        return _own_stages(stages, units, latents, cotangent)
    found: dict[int, Tensor] = {}
    thread = threading.get_ident()

    def recorder(index: int) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            # The first call counts: an activation may be one object for all places.
            if threading.get_ident() != thread or index in found:
                return
            found[index] = output[0] if isinstance(output, tuple) else output
            if index == len(stages) - 1:
                raise _Enough

        return record

    leaf = latents.detach().clone().requires_grad_()
    handles = [last_module(m).register_forward_hook(recorder(i)) for i, (_, m) in enumerate(stages)]
    try:
        with contextlib.suppress(_Enough):
            run(vae, "decode", units.to_vae(leaf), dtype)
    except Exception as error:
        raise TypeError(
            f"FrozenDecoder: vae: {type(vae).__name__} is not served: its decode does not take latents "
            f"{list(latents.shape)} ({reason(error)})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    features = [found[index] for index in sorted(found)]
    if len(found) < len(stages) or not all(isinstance(x, Tensor) and x.ndim == 4 for x in features):
        raise TypeError(
            f"FrozenDecoder: vae: {type(vae).__name__} is not served: its decode does not go through "
            f"{', '.join(name for name, _ in stages)}, each giving [B, C, H, W]"
        )
    return features, _gradient(features, leaf, cotangent)


def _gradient(features: list[Tensor], leaf: Tensor, cotangent: Callable[..., Tensor]) -> Tensor | None:
    weights = [cotangent(x) for x in features]
    if not all(x.requires_grad for x in features):
        return None  # a decoder under no_grad: its values are all that can be compared
    return torch.autograd.grad(features, leaf, weights, allow_unused=True)[0]


def _own_stages(stages: Stages, units: LatentUnits, latents: Tensor, cotangent: Callable[..., Tensor]) -> Pass:
    """The same of the stages called one after the other, for a VAE that has no `decode`."""
    leaf = latents.detach().clone().requires_grad_()
    features: list[Tensor] = []
    x = leaf
    for index, (_, module) in enumerate(stages):
        x = AutogradLayer(module, "", latents.dtype, units=units if index == 0 else None)._call(x)
        features.append(x)
    return features, _gradient(features, leaf, cotangent)


def _ours(
    stages: Stages, units: LatentUnits, latents: Tensor, dtype: torch.dtype, forced: Forced, weights: list[Tensor]
) -> Pass:
    leaf = latents.detach().clone().requires_grad_()
    layers = layers_for(stages, units, dtype, forced)
    with one_pass():
        features = list(Features.apply(leaf, layers, list(range(len(stages))), False))
        return features, torch.autograd.grad(features, leaf, weights)[0]


def _problem(theirs: Pass, ours: Pass, stages: Stages) -> str:
    """The first stage that differs, or the gradient; empty where nothing does."""
    for (name, _), x, y in zip(stages, theirs[0], ours[0], strict=True):
        deviation = _deviation(y, x)
        if deviation:
            where = "after the first convolution" if name == "in" else f"at {name}"
            return f"its own code gives other features {where} than its blocks one after the other ({deviation})"
    if theirs[1] is not None and ours[1] is not None:
        deviation = _deviation(ours[1], theirs[1])
        if deviation:
            return f"its own code gives the latents another gradient than its blocks one after the other ({deviation})"
    return ""


def _located(
    stages: Stages,
    units: LatentUnits,
    dtype: torch.dtype,
    latents: Tensor,
    features: list[Tensor],
    drawn: Callable[[Sequence[int]], Tensor],
) -> Forced:
    """The layers by hand that deviate from their own blocks, each on what its stage is given."""
    forced: Forced = {}
    for index, layers in enumerate(layers_for(stages, units, dtype, {})):
        x = latents if index == 0 else features[index - 1].detach()
        for number, layer in enumerate(layers):
            if not bool(x.isfinite().all()):
                x = drawn(x.shape)
            if layer.fallback:
                x = layer.infer(x)
                continue
            theirs = under_autograd(layer, stages[index][1], number)
            results: list[tuple[Tensor, Tensor]] = []
            for each in (layer, theirs):
                with torch.no_grad(), one_pass():
                    y, saved = each.forward(x)
                    if not results:
                        weights = drawn(y.shape)
                    results.append((y, each.backward(weights.clone(memory_format=torch.channels_last), saved)))
            for what, ours, own in zip(("values", "gradients"), *results, strict=True):
                deviation = _deviation(ours, own)
                if deviation:
                    forced.setdefault(index, {}).setdefault(number, f"its own code gives other {what} ({deviation})")
            x = results[1][0]
    return forced


def _deviation(ours: Tensor, own: Tensor) -> str:
    """How far ours is off; empty within the tolerance, and where the VAE itself is not finite."""
    if ours.shape != own.shape:
        return f"shape {list(own.shape)}, not {list(ours.shape)}"
    ours, own = ours.detach(), own.detach()
    if not bool(own.isfinite().all()):
        return ""
    off, size = float((ours - own).norm()), float(own.norm())
    # What other accelerators than CUDA do with float32 is not known here.
    exact = own.dtype != torch.float32 or own.device.type == "cpu" or (own.is_cuda and not in_tf32())
    tolerance = TOLERANCE if exact else IN_TF32
    return "" if off <= tolerance * size else f"{off / max(size, 1e-30):.1%} off"


def _channels(vae: Any, stages: Stages) -> int:
    known = getattr(getattr(vae, "config", None), "latent_channels", None)
    if isinstance(known, int):
        return known
    for parameter in stages[0][1].parameters():
        if parameter.ndim == 4:
            return parameter.shape[1]
    raise TypeError(
        f"FrozenDecoder: vae: {type(vae).__name__} is not served: "
        "its first convolution does not take images [B, C, h, w]"
    )


def _beside(decoder: Any) -> list[nn.Module]:
    """Parts of a decoder that none of its kind has, also of one inside of torch.compile's wrapper."""
    decoder = getattr(decoder, "_orig_mod", decoder)
    known = {"conv_in", "mid_block", "up_blocks", "conv_norm_out", "conv_act", "conv_out", "layers"}
    known |= {"mid", "up", "norm_out", "condition_encoder"}
    return [part for name, part in decoder.named_children() if name not in known]


def _dormant(part: nn.Module) -> bool:
    """Whether a part does nothing yet: adapters begin with zeros."""
    return any(not bool(p.any()) for p in part.parameters())


def _faked(parameters: list[nn.Parameter]) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return any(isinstance(p, FakeTensor) for p in parameters)


def _nothing_compiled() -> Any:
    """What the host has compiled runs eagerly: a tiny latent is not worth a compilation."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")

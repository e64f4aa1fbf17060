"""The frozen decoder G of the paper, cut off at the deepest level asked for, with gradients to the latents only."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from ..ops import outside_graphs
from .compare import deviations, layers_for
from .derive import one_pass
from .layers import Layer
from .live import Snapshot
from .matching import LevelMatching
from .passes import Features, Memory, Tape, kept_bytes, recomputes
from .stages import containers, split
from .units import LatentUnits
from .whole import working_dtype

DEFAULT_LEVELS = ("up0", "up1", "up2")
# In float16 the largest level's cotangents are brought to 2⁻⁸: the decoder amplifies them a hundredfold and more on the
# way down (float16 ends at 2¹⁶), and a level sixty times smaller is still far above the smallest number.
HEADROOM = 8
# Comparing puts hooks into the VAE, which another thread would take for the host's.
_BUILDING = threading.RLock()


@dataclasses.dataclass(frozen=True)
class _Built:
    """What was recognised at one time.

    Attributes:
        snapshot: of all that it rests on besides the weights.
        certain: whether the weights allowed a comparison with the VAE's own code.
        dtype: precision of the arithmetic.
        units: of the latents.
        stages: every stage's layers.
        names: of the stages.
        channels: the most of a feature.
    """

    snapshot: Snapshot
    certain: bool
    dtype: torch.dtype
    units: LatentUnits
    stages: list[list[Layer]]
    names: list[str]
    channels: int


class FrozenDecoder:
    """A VAE's decoder as a fixed feature extractor (paper §3.2).

    Nothing past the deepest level is computed, the VAE's parameters get no gradient whatever their `requires_grad`, and
    an enclosing autocast does not change the precision (`dtype` does).

    What it computes is what the VAE computes now: weights are read in every pass, whoever changed them and however, and
    hooks, adapters, attributes, another precision or place are noticed at the next pass. When it is made, and whenever
    something but weights has changed, it is compared with the VAE's own `decode` on a tiny latent, values and gradient:
    a block that deviates from what it is taken for runs under autograd (`fallbacks`), a decoder that does more than
    its blocks is refused. In a caller that `torch.compile` compiles it runs between two graphs, as it does everywhere.

    It can be copied and pickled, its VAE with it, and used by several threads at once.

    Args:
        vae: diffusers' AutoencoderKL or AutoencoderTiny, or a CompVis first-stage model. It is shared, never copied.
        levels: names of the feature levels, any of `mid`, `up0`, `up1`, …; the paper's three levels are unnamed, and
            the default is this project's choice.
        memory: `save` keeps each block's input and the results of its convolutions until the backward, `recompute`
            each block's input alone and computes the block again, `auto` is `save` unless that would take more than
            half of the memory that is free.
        dtype: precision of the decoder's arithmetic; None is the VAE's own, except that a float16 VAE whose
            configuration says `force_upcast` (SDXL's overflows in float16) is run in float32. Weights of another
            precision are converted in every pass.
        scaling_factor: latents are divided by it before they are decoded; None takes the VAE's configuration.
        shift_factor: added after that division; None takes the VAE's configuration (0 where it has none). A
            configuration's `latents_mean` and `latents_std` are applied as well.

    Attributes:
        vae: the VAE.
        levels: the names, from the shallowest to the deepest.

    Raises:
        TypeError: the VAE's decoder is of an unknown kind, or computes something else than its blocks.
        ValueError: a level that the decoder does not have, or an unknown memory mode.

    Examples:
        >>> import torch
        >>> from diffusers import AutoencoderKL
        >>> from ldp_fast import FrozenDecoder
        >>> from ldp_fast.guidance.loading import locate
        >>> vae = AutoencoderKL.from_pretrained(locate("primitives"), subfolder="vae")  # or one that you have
        >>> decoder = FrozenDecoder(vae, levels=("mid", "up0"))
        >>> latents = torch.randn(2, 4, 16, 16)
        >>> [list(x.shape) for x in decoder.features(latents)]
        [[2, 64, 16, 16], [2, 64, 32, 32]]
        >>> loss, grad_v, grad_v_prime = decoder.feature_matching(latents, latents + 0.1)
        >>> loss.shape, grad_v.shape, grad_v_prime.shape
        (torch.Size([]), torch.Size([2, 4, 16, 16]), torch.Size([2, 4, 16, 16]))
    """

    @outside_graphs
    def __init__(
        self,
        vae: nn.Module,
        levels: tuple[str, ...] = DEFAULT_LEVELS,
        *,
        memory: Memory = "auto",
        dtype: torch.dtype | None = None,
        scaling_factor: float | None = None,
        shift_factor: float | None = None,
    ):
        names = [name for name, _ in split(vae)[1:]]
        unknown = [level for level in levels if level not in names]
        if unknown or not levels:
            raise ValueError(
                f"FrozenDecoder: levels: expected some of {', '.join(names)}, got {', '.join(levels) or 'nothing'}"
            )
        if memory not in ("auto", "save", "recompute"):
            raise ValueError(f"FrozenDecoder: memory: expected auto, save or recompute, got {memory!r}")
        self.vae, self.memory = vae, memory
        self.levels = tuple(name for name in names if name in levels)
        self._dtype, self._scaling, self._shift = dtype, scaling_factor, shift_factor
        self._last: _Built | None = None
        self._built()

    def __getstate__(self) -> dict[str, Any]:
        # A copy recognises its own VAE.
        return {**self.__dict__, "_last": None}

    def _built(self) -> _Built:
        """What is to be run, recognised anew where something but weights has changed."""
        last = self._last
        # Passes are outside of graphs; what is being traced here is a property, such as `scaling_factor`.
        if last is not None and (torch.compiler.is_compiling() or self._fresh(last)):
            return last
        with _BUILDING:
            last = self._last
            if last is None or not self._fresh(last):
                if last is not None and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                    raise RuntimeError(
                        "FrozenDecoder: expected the VAE as it was (weights apart) while a CUDA graph is captured, "
                        "got another: run a pass before the capture"
                    )
                last = self._last = self._build()
        return last

    def _fresh(self, built: _Built) -> bool:
        units = LatentUnits.of(self.vae, self._scaling, self._shift)
        return built.certain and built.dtype == self.dtype and built.units == units and built.snapshot.same()

    def _build(self) -> _Built:
        every, dtype = split(self.vae), self.dtype
        stages = every[: [name for name, _ in every].index(self.levels[-1]) + 1]
        # Which blocks are what they seem does not depend on the units, and a decoder of another kind is named first.
        forced, certain = deviations(self.vae, stages)
        units = LatentUnits.of(self.vae, self._scaling, self._shift)
        layers = layers_for(stages, units, dtype, forced)
        parts = [part for _, module in stages for part in module.modules()]
        by_hand = {id(m) for row in layers for layer in row for m in layer.modules}
        called = {id(m) for row in layers for layer in row for m in layer.called()}
        snapshot = Snapshot(
            [m for m in parts if id(m) in by_hand or id(m) not in called],
            # What holds the stages is called by the host: its attributes may change as it likes.
            [*containers(self.vae), *(m for m in parts if id(m) in called)],
        )
        channels = max(p.shape[0] for _, m in stages for p in m.parameters() if p.ndim == 4)
        return _Built(snapshot, certain, dtype, units, layers, [name for name, _ in stages], channels)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the arithmetic."""
        return working_dtype(self.vae) if self._dtype is None else self._dtype

    @property
    def scaling_factor(self) -> float:
        """What latents are divided by."""
        return self._built().units.scaling

    @property
    def shift_factor(self) -> float:
        """What is added after that."""
        return self._built().units.shift

    @property
    def fallbacks(self) -> dict[str, str]:
        """The blocks that autograd runs, `stage.number`, and why; the others are done by hand."""
        built = self._built()
        return {
            f"{name}.{number}": layer.fallback
            for name, layers in zip(built.names, built.stages, strict=True)
            for number, layer in enumerate(layers)
            if layer.fallback
        }

    def __repr__(self) -> str:
        total, found = sum(map(len, self._built().stages)), self.fallbacks
        blocks = f"blocks={total - len(found)} by hand"
        if found:
            blocks += f", {len(found)} by autograd ({'; '.join(f'{k}: {v}' for k, v in found.items())})"
        return (
            f"FrozenDecoder(levels={self.levels}, memory={self.memory!r}, dtype={self.dtype}, "
            f"scaling_factor={self.scaling_factor}, shift_factor={self.shift_factor}, {blocks})"
        )

    @outside_graphs
    def features(self, latents: torch.Tensor) -> list[torch.Tensor]:
        """The features x_ℓ = G_ℓ(v) of the paper, from the shallowest level to the deepest.

        Args:
            latents: `[B, C, h, w]`, scaled as the diffusion model sees them.

        Returns:
            One `[B, C_ℓ, H_ℓ, W_ℓ]` a level, channels-last, in the decoder's dtype, differentiable in the latents once.
        """
        _check_latents("features", latents)
        built = self._built()
        levels = [built.names.index(level) for level in self.levels]
        with torch.autocast(latents.device.type, enabled=False), one_pass():
            x = latents.to(torch.promote_types(latents.dtype, torch.float32))
            if torch.is_grad_enabled() and x.requires_grad:
                return list(Features.apply(x, built.stages, levels, self._recomputes(built, x)))
            found = []
            with torch.no_grad():
                for index, layers in enumerate(built.stages):
                    for layer in layers:
                        x = layer.infer(x)
                    if index in levels:
                        found.append(x)
        return found

    def kept_bytes(self, shape: Sequence[int]) -> int:
        """About how much memory a pass over latents keeps for its backward with `memory="save"`, told from sizes.

        Args:
            shape: of the latents, [B, C, h, w]; `feature_matching` makes one pass over both of its latents, 2B.
        """
        return _kept_bytes(self._built(), shape)

    def _recomputes(self, built: _Built, latents: torch.Tensor) -> bool:
        return recomputes(self.memory, lambda: _kept_bytes(built, latents.shape), latents.device)

    @outside_graphs
    def feature_matching(
        self,
        latents: torch.Tensor,
        latents_prime: torch.Tensor,
        *,
        norm: Literal["mean", "sum"] = "mean",
        batch_reduction: Literal["mean", "sum"] = "mean",
        nonfinite: Literal["propagate", "zero", "raise"] = "propagate",
        gradients: bool = True,
        return_statistics: bool = False,
    ) -> tuple[Any, ...]:
        """L_FM and the gradients of its two branches, from one pass over [v; v′] (paper §3.2, Eq. 2 without 1 + α_t).

        Args:
            latents: v, `[B, C, h, w]`.
            latents_prime: v′ = v + ε̂ − ε, the same shape.
            norm: `mean` over a level's elements, or `sum` (‖·‖₁ as printed).
            batch_reduction: `mean` or `sum` over the samples.
            nonfinite: what a non-finite difference does, as in `feature_matching_loss`.
            gradients: False computes the value alone and returns None for both gradients.
            return_statistics: also return the per-level values and counts.

        Returns:
            `(loss, grad_v, grad_v_prime)`: a scalar without graph, and J(v)ᵀ ∂L/∂x and J(v′)ᵀ ∂L/∂x′, float32
            `[B, C, h, w]` (float64 for float64 latents), each branch on its own; with `return_statistics` a fourth
            element, see `feature_matching_loss`. Nothing synchronises with the host unless `nonfinite="raise"`.
        """
        _check_latents("feature_matching", latents)
        if latents.shape != latents_prime.shape:
            raise ValueError(
                f"FrozenDecoder.feature_matching: latents_prime: expected the latents' shape {list(latents.shape)}, "
                f"got {list(latents_prime.shape)}"
            )
        built = self._built()
        levels = [built.names.index(level) for level in self.levels]
        matching = LevelMatching(len(latents), norm, batch_reduction, nonfinite, gradients)
        precision = torch.promote_types(latents.dtype, torch.float32)
        grads: tuple[torch.Tensor | None, ...] = (None, None)
        # Outside of an enclosing autocast and of inference mode, in which attention's own graph could not be made.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(latents.device.type, enabled=False),
            one_pass(),
        ):
            x = torch.cat([latents.detach().to(precision), latents_prime.detach().to(precision)])
            tape = Tape(self._recomputes(built, x)) if gradients else None
            for index, layers in enumerate(built.stages):
                for layer in layers:
                    x = layer.infer(x) if tape is None else tape.forward(layer, x)
                if index in levels:
                    matching.add(index, x)
            deepest = (x.shape, x.dtype, x.device)
            del x
            statistics = matching.statistics(self.levels)
            if tape is not None:
                scale = _gradient_scale(built.dtype, max(matching.sizes.values()), len(latents), norm, batch_reduction)
                last = matching.signs(levels[-1], scale)
                assert last is not None
                grad = last.dense(*deepest)
                for index in reversed(range(len(built.stages))):
                    for number in reversed(range(len(built.stages[index]))):
                        # The gradient of a stage's input is written together with the signs of the level it is.
                        grad = tape.back(grad, matching.signs(index - 1, scale) if number == 0 else None)
                grads = (grad.to(precision) / scale).chunk(2)
        result = (matching.loss(), *grads)
        return (*result, statistics) if return_statistics else result


def _kept_bytes(built: _Built, shape: Sequence[int]) -> int:
    return kept_bytes(built.stages, shape, built.channels, built.dtype.itemsize)


def _gradient_scale(dtype: torch.dtype, size: int, samples: int, norm: str, batch_reduction: str) -> float:
    """A power of two that brings ±1/M of the largest level into float16's range; 1 in the other precisions.

    With norm="mean" the cotangent of a level is ±1/M, and M reaches 2²⁵: below float16's smallest number. With "sum" it
    is ±1, which leaves the decoder no room to amplify it.
    """
    if dtype != torch.float16:
        return 1.0
    size = size if norm == "mean" else 1
    return 2.0 ** (math.floor(math.log2(max(1, size * (samples if batch_reduction == "mean" else 1)))) - HEADROOM)


def _check_latents(method: str, latents: torch.Tensor) -> None:
    if latents.ndim != 4 or not latents.is_floating_point():
        raise ValueError(
            f"FrozenDecoder.{method}: latents: expected a floating-point tensor [B, C, h, w], "
            f"got {latents.dtype} {list(latents.shape)}"
        )

"""What every host adapter is: a host, the losses of its step, what was seen in the last step, and `wrap`.

An adapter adds its host's conventions and nothing else: which attributes it reads, the paper's λ's for it, which method
of the host it takes the place of, and that method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar, Literal, TypeVar, cast

import torch
from torch import Tensor

from ..errors import UsageError
from ..guidance import PriorOutput, PriorStatistics, Schedule
from ._core import HostLosses, Mode, without_graph
from ._host import check_network, check_units, install, require
from ._live import Attribute, LiveSchedule

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
CHOICES = {"mode": ("gradient", "loss"), "prediction": ("epsilon", "v_prediction", "sample", "flow")}
LAMBDAS = {"lambda_fm": 0.01, "lambda_kl": 0.1, "lambda_lsd": 1.0}

Function = TypeVar("Function", bound=Callable[..., Any])


def _keywords_only(function: Function) -> Function:
    """Says what is missing where something behind the host comes without its keyword."""

    @wraps(function)
    def call(self: Any, host: Any, *unnamed: Any, **keywords: Any) -> Any:
        if unnamed:
            raise TypeError(
                f"{self.__module__.rpartition('.')[2]}: expected the host, and everything else by its keyword (mode=, "
                f"prediction=, lambda_fm=, lambda_kl=, lambda_lsd=, decoder_dtype=); got {unnamed[0]!r} without one"
            )
        return function(self, host, **keywords)

    return cast(Function, call)


class Adapter:
    """A host's object and the losses of its step; whatever belongs to the host is read anew at every step.

    A copy of the host (`copy.deepcopy`, torch's `AveragedModel`, a pickle) takes its adapter along, and that computes
    with the copy's modules.

    Args:
        host: the host's object.
        mode: `loss`: the step returns a loss, whose backward multiplies by what comes in. `gradient`: dL/dv reaches the
            latents as it is, whatever comes in, and what is returned in a loss's place is 0. None is the host's way.
        prediction: what the network predicts: `epsilon`, `v_prediction`, `sample` or `flow`. The hosts take every
            network for one of ε.
        lambda_fm: λ1; 0 never touches the decoder. None is the paper's for this host, or Latent-NeRF's.
        lambda_kl: λ2, the same.
        lambda_lsd: λ3, the same.
        decoder_dtype: precision of the decoder; None is the VAE's own.
        **options: of `HostLosses`: levels, memory, clip, nonfinite, batch_reduction.

    Attributes:
        host, mode, prediction: as above.
        losses: `HostLosses`; what it holds may be assigned to.
        statistics: of the last step, on the device; None before.
        output: of the last step in mode `loss`, the terms and the statistics off their graph; None otherwise.

    Raises:
        TypeError: something behind the host without its keyword.
        UsageError: an unknown mode or prediction, an object that is not the host's, an option out of its range, or a
            VAE that feature matching cannot work with.
    """

    #: The host's own mode.
    MODE: ClassVar[Mode] = "loss"
    #: Methods of the host that are replaced; the adapter has them under the same names.
    METHODS: ClassVar[tuple[str, ...]] = ()
    #: Of `HostLosses`, where nothing else is asked for.
    DEFAULTS: ClassVar[Mapping[str, Any]] = LAMBDAS
    #: The dotted name under which the host has its autoencoder.
    VAE: ClassVar[str] = "vae"
    #: The dotted name of the latents' scaling factor, where the autoencoder lacks a configuration.
    SCALE: ClassVar[str | None] = None

    @_keywords_only
    def __init__(
        self,
        host: Any,
        *,
        mode: Mode | None = None,
        prediction: Prediction = "epsilon",
        lambda_fm: float | None = None,
        lambda_kl: float | None = None,
        lambda_lsd: float | None = None,
        decoder_dtype: torch.dtype | None = None,
        **options: Any,
    ):
        self.host, self.prediction = host, prediction
        self.mode: Mode = self.MODE if mode is None else mode
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = f"{', '.join(choices[:-1])} or {choices[-1]}"
                raise UsageError(f"{name}: expected {known}, got {getattr(self, name)!r}")
        lambdas = {"lambda_fm": lambda_fm, "lambda_kl": lambda_kl, "lambda_lsd": lambda_lsd}
        chosen = {**self.DEFAULTS, **{name: value for name, value in lambdas.items() if value is not None}, **options}
        if self.SCALE is not None:
            chosen.setdefault("scaling_factor", Attribute(host, self.SCALE))
        self.losses = HostLosses(Attribute(host, self.VAE), decoder_dtype=decoder_dtype, **chosen)
        self.statistics: PriorStatistics | None = None
        self.output: PriorOutput | None = None
        self._check_host()
        self.losses.check()

    @classmethod
    @_keywords_only
    def wrap(
        cls,
        host: Any,
        *,
        mode: Mode | None = None,
        prediction: Prediction = "epsilon",
        lambda_fm: float | None = None,
        lambda_kl: float | None = None,
        lambda_lsd: float | None = None,
        decoder_dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Any:
        """Puts our step into the host's object, in the place of its own.

        Args: as the class; `**options` are its other keywords.

        Returns:
            The same object; its attribute `ldp` is the adapter.

        Raises:
            TypeError, UsageError: as the class.
        """
        lambdas = {"lambda_fm": lambda_fm, "lambda_kl": lambda_kl, "lambda_lsd": lambda_lsd}
        adapter = cls(host, mode=mode, prediction=prediction, **lambdas, decoder_dtype=decoder_dtype, **options)
        return install(adapter, *cls.METHODS)

    def _check_host(self) -> None:
        """Raises a UsageError if the host lacks something that is read from it."""

    def _loss(self, latents: Tensor, *arguments: Any, **told: Any) -> PriorOutput:
        """A step in loss mode, of what `HostLosses` takes."""
        output = self.losses(latents, *arguments, **told)
        self.statistics, self.output = output.statistics, without_graph(output)
        return output

    def _gradient(self, latents: Tensor, *arguments: Any, **told: Any) -> Tensor:
        """A step in gradient mode: dL/dv."""
        gradient, self.statistics = self.losses.gradient(latents, *arguments, **told)
        self.output = None
        return gradient

    def _returned(self, latents: Tensor, *arguments: Any, factor: float | None = None, **told: Any) -> Tensor:
        """What a host gets that adds losses up: the loss, a scalar; in gradient mode a 0 [1] that carries dL/dv.

        Args:
            factor: of the loss, where the host has one.
        """
        if self.mode == "loss":
            loss = self._loss(latents, *arguments, **told).loss
            return loss if factor is None else loss * factor
        gradient = self._gradient(latents, *arguments, **told)
        return Unscaled.apply(latents, gradient if factor is None else gradient * factor)


class HostGuidance(Adapter):
    """An adapter of a host whose object has diffusers' networks and a scheduler.

    Args: as `Adapter`.

    Raises:
        UsageError: a UNet that wants more than hosts tell it, or a scheduler that is not known here, too.
    """

    METHODS: ClassVar[tuple[str, ...]] = ("train_step",)
    DEFAULTS: ClassVar[Mapping[str, Any]] = {**LAMBDAS, "nonfinite": "zero"}
    #: Dotted names that the host has to have, besides its UNet, VAE and scheduler.
    NEEDS: ClassVar[tuple[str, ...]] = ()
    #: The name of its method that encodes images.
    ENCODE: ClassVar[str] = "encode_imgs"

    def _check_host(self) -> None:
        require(self.host, "unet", self.VAE, "scheduler.alphas_cumprod", *self.NEEDS)
        check_network(self.host.unet)
        self._schedule = LiveSchedule(self.host)
        self._schedule.read("cpu")

    def schedule(self, device: torch.device) -> Schedule:
        """α_t, σ_t and w(t) of the host's scheduler, as it is now."""
        return self._schedule.read(device)

    def check_units(self) -> None:
        """To be called before the host's own encoding is: see `_host.check_units`."""
        if self.losses.lambda_fm != 0:
            check_units(getattr(self.host, self.VAE), getattr(self.host, self.ENCODE, None))


class Unscaled(torch.autograd.Function):
    """A zero of shape [1] whose gradient is given, whatever comes in."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = latents.dtype
        return latents.new_zeros(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        # A copy: what was saved is not autograd's to keep, and torch 2.10 cannot compile a backward that hands out one
        # of a custom operator's several results as it is.
        return gradient.to(ctx.dtype, copy=True), None

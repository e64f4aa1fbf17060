"""`LatentDiffusionPrior`: L = λ1·L_FM + λ2·L_KL + λ3·L_LSD on latents (paper §3), as a loss or as a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from ..decoder import FrozenDecoder
from ..errors import UsageError
from . import packing, terms
from .capture import CapturedStep
from .check import check_pipe
from .inputs import Timesteps
from .loading import components_of, embedded_models, load_components, usable
from .lora import Lora
from .models import LatentDiffusionModel
from .outputs import PriorOutput, PriorStatistics
from .precision import TOLERANCE, Precision, optimised
from .presets import PriorSettings, apply_changes, find_preset
from .read_from import ReadFrom
from .schedule import Schedule
from .step import evaluate
from .terms import Step
from .text import TextEmbeddings


class LatentDiffusionPrior(LatentDiffusionModel):
    """A latent diffusion model as a prior over latents.

    It is not an `nn.Module`, so that a host's state dict, optimiser and DDP do not see the frozen networks. The
    networks and the scheduler are read at every step: attributes may be replaced. Copies (`copy.deepcopy`, pickle,
    `torch.save`) have networks of their own, not compiled. Several threads may use one prior.

    Args:
        unet: noise predictor with diffusers' call: `unet(sample, timesteps, encoder_hidden_states=…)`.
        vae: the autoencoder; its decoder is what feature matching looks into. None is allowed if λ1 is 0.
        scheduler: a diffusers scheduler; it supplies ᾱ_t and the prediction type.
        tokenizer, text_encoder: CLIP's, for `encode_prompt`; None where the host brings its own embeddings.
        tokenizer_2, text_encoder_2: the second pair of SDXL.
        settings: λ's and conventions; None is `PriorSettings()`.
        notes: a model's own notes (`guidance_scale`, `words`), see `from_pretrained`.
        decoder: a `FrozenDecoder` to use in place of one made from `vae`.

    Raises:
        UsageError: networks that want more than a prior has, or do not fit each other (`check.py`); a scheduler that is
            not known here, or a prediction that does not go with it; with λ1, a VAE of another kind, or a level that it
            does not have.
        TypeError: the scheduler is not one.

    Examples:
        >>> import torch
        >>> from ldp_fast import LatentDiffusionPrior
        >>> prior = LatentDiffusionPrior.from_pretrained("primitives", preset="image", device="cpu")
        >>> text = prior.encode_prompt("a red cube", negative_prompt="")
        >>> latents = torch.randn(1, 4, 16, 16, requires_grad=True)
        >>> out = prior(latents, text)
        >>> out.loss.backward()
        >>> gradient, statistics = prior.gradient(latents, text)  # without a graph
        >>> latents.grad.shape == gradient.shape == latents.shape
        True
    """

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module | None,
        scheduler: Any,
        tokenizer: Any = None,
        text_encoder: nn.Module | None = None,
        *,
        tokenizer_2: Any = None,
        text_encoder_2: nn.Module | None = None,
        settings: PriorSettings | None = None,
        notes: dict[str, Any] | None = None,
        decoder: FrozenDecoder | None = None,
    ):
        super().__init__(unet, vae, tokenizer, text_encoder, tokenizer_2, text_encoder_2, notes)
        self.scheduler = scheduler
        self.settings = settings or PriorSettings()
        self._schedule: Schedule | None = None
        self._schedule_of = ReadFrom()
        _ = self.schedule
        self._decoder, self._decoder_given = decoder, decoder is not None
        self.precision: Precision | None = None
        self._check_networks()
        if self.settings.lambda_fm != 0 and vae is not None:
            # Now and not in the first step: a VAE of another kind is refused here, and comparing waits for the device.
            _ = self.decoder

    @classmethod
    def from_pretrained(
        cls,
        name: str = "primitives",
        *,
        preset: str = "image",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        variant: str | None = None,
        lora: Sequence[Lora] = (),
        config: str | None = None,
        tokenizer: Any = None,
        **changes: Any,
    ) -> LatentDiffusionPrior:
        """Loads a model and takes the settings of a preset.

        Args:
            name: an embedded model (`primitives`), a folder in diffusers' format, one `.safetensors`, or a hub name.
            preset: a row of the paper's §5: jacobian_nerf, latent_nerf, stylegan, layered, image.
            device: where to; None is the GPU if there is one.
            dtype: of the networks; None is float16 on a GPU for models other than the embedded, else float32.
            variant, lora, config, tokenizer: which files, and what one file lacks: see `load_components`.
            **changes: fields of `PriorSettings` that differ from the preset.

        Raises:
            UsageError: unknown model, preset or setting, one line that says what was expected.
        """
        settings = apply_changes(find_preset(preset).settings, changes)
        where = usable(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
        if dtype is None:
            dtype = torch.float16 if where.type == "cuda" and name not in embedded_models() else torch.float32
        if dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise UsageError(
                f"dtype: expected torch.float16, torch.bfloat16, torch.float32 or torch.float64; got {dtype!r}"
            )
        files: Any = {"variant": variant, "lora": lora, "config": config, "tokenizer": tokenizer}
        return cls(settings=settings, **load_components(name, where, dtype, **files))

    @classmethod
    def from_pipe(cls, pipe: Any, *, preset: str = "image", **changes: Any) -> LatentDiffusionPrior:
        """A prior on the modules of a diffusers pipeline, which are shared: nothing is copied, moved or frozen.

        Args:
            pipe: of Stable Diffusion 1.x, 2.x, SDXL or a relative, with its weights on a device.
            preset, **changes: as in `from_pretrained`; the same errors.
        """
        check_pipe(pipe)
        return cls(settings=apply_changes(find_preset(preset).settings, changes), **components_of(pipe))

    @property
    def schedule(self) -> Schedule:
        """α_t, σ_t and w(t) of the scheduler that there is now."""
        scheduler = self.scheduler
        if self._schedule is None or not self._schedule_of.holds(scheduler):
            schedule = Schedule.from_scheduler(scheduler)
            schedule.check_prediction(self.settings.prediction, self.settings.timestep_range)
            self._schedule, self._schedule_of = schedule, ReadFrom(scheduler)
        return self._schedule

    @property
    def decoder(self) -> FrozenDecoder:
        """The frozen decoder of the VAE that there is now; or the one that was handed over."""
        held = self._decoder
        stale = held is None or held.vae is not self.vae or {*held.levels} != {*self.settings.levels}
        if held is None or (stale and not self._decoder_given):
            if self.vae is None:
                raise UsageError("vae: feature matching (lambda_fm > 0) needs one; got None")
            try:
                held = self._decoder = FrozenDecoder(self.vae, self.settings.levels)
            except (TypeError, ValueError) as error:
                raise UsageError(str(error).removeprefix("FrozenDecoder: ")) from error
        return held

    @property
    def guidance_scale(self) -> float | None:
        """s of classifier-free guidance as it is used: the settings', else the model's own, else 100; None: without."""
        chosen = self.settings.guidance_scale
        if chosen is False:
            return None
        return float(self.notes.get("guidance_scale", 100.0)) if chosen is None else float(chosen)

    def with_settings(self, **changes: Any) -> LatentDiffusionPrior:
        """Another prior with the same models and other settings; nothing is copied."""
        other = self._sharing(settings=apply_changes(self.settings, changes))
        other.schedule.check_prediction(other.settings.prediction, other.settings.timestep_range)
        if self.precision is not None:
            self.precision.warn_if_other(other.settings)
        if other.settings.levels != self.settings.levels:
            if self._decoder_given:
                raise UsageError("levels: this prior was made with a decoder; make another one with other levels")
            other._decoder = None
        return other

    def capture(
        self,
        latents: torch.Tensor,
        text: TextEmbeddings | torch.Tensor,
        *,
        generator: torch.Generator | None = None,
        warmup: int = 3,
    ) -> CapturedStep:
        """The guided step in gradient mode as one CUDA graph, for latents of one shape.

        Where that is not possible (no CUDA device, `nonfinite="raise"`, a network that synchronises with the host) the
        step runs `gradient`, and `reason` says why.

        Args:
            latents: an example of v, `[B, C, H, W]`: its shape, dtype and device are captured.
            text: the embeddings to start with, as for `gradient`; a later call may bring others.
            generator: source of what the calls draw, on the GPU; None is the device's default.
            warmup: runs before the capture, in which kernels are compiled and algorithms chosen.

        Returns:
            A callable with the arguments of `gradient` except `generator`, see `CapturedStep.__call__`. What it returns
            is overwritten by its next call.
        """
        return CapturedStep(self, latents, text, generator=generator, warmup=warmup)

    def compile(self, **options: Any) -> LatentDiffusionPrior:
        """Another prior whose UNet is compiled by `torch.compile(unet, **options)`, at its first call.

        Everything else is shared; the UNet itself is not changed, and text encoder and decoder run as they are. With
        `capture`, leave out options that make CUDA graphs of their own (`mode="reduce-overhead"`).
        """
        return self._sharing(unet=packing.compiled(self.unet, **options))

    def optimise(
        self,
        latents: torch.Tensor,
        text: TextEmbeddings | torch.Tensor,
        *,
        dtype: torch.dtype | Literal["auto"] = "auto",
        channels_last: bool | Literal["auto"] = "auto",
        tolerance: float = TOLERANCE,
        runs: int = 3,
    ) -> LatentDiffusionPrior:
        """Another prior whose networks run in the precision and layout that are fastest on this CPU.

        Candidates are timed in turn on `latents`, and compared with float32 at the lowest, the middle and the highest
        t: relative L2 norm of the deviation of the residual (UNet), of feature matching's gradients (decoder), and at
        last of the whole gradient. None may be above `tolerance`. What was measured is `precision` of the result, and
        is logged.

        Args:
            latents: an example of v, of the size that is going to be used.
            text: its embeddings; guidance magnifies rounding, so they should be typical.
            dtype: `auto` tries bfloat16 where the processor has it; a dtype is taken if it is accurate enough.
            channels_last: of the UNet's weights; `auto` tries both.
            tolerance: largest relative deviation allowed.
            runs: how often each candidate is timed, at most (not again once two seconds have gone by); the shortest
                time counts.

        Returns:
            A prior that shares what did not change. Networks are copied to be converted, never changed in place: until
            this prior is let go, both copies take memory. The UNet's copy keeps weights as oneDNN's blocks
            (docs/prior.md), which its `parameters()` lack.

        Raises:
            UsageError: networks that are not in float32 on a CPU; a dtype that is not accurate enough.
        """
        return optimised(self, latents, text, dtype, channels_last, tolerance, runs)

    def __call__(
        self,
        latents: torch.Tensor,
        text: TextEmbeddings | torch.Tensor,
        *,
        timesteps: Timesteps | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        progress: float = 0.0,
    ) -> PriorOutput:
        """Loss mode: scalars whose backward multiplies by what comes in (correct under a GradScaler).

        Args:
            latents: v, `[B, C, H, W]`, scaled as the diffusion model sees them.
            text: of `encode_prompt`; or the embeddings of the whole doubled batch, `[2B, L, D]` or `[2, L, D]` in the
                order of the settings (`[B, L, D]` without guidance).
            timesteps: t, `[B]` integers or one number; None draws them. Outside of the schedule they are refused, or,
                in a tensor on a GPU, clamped and counted (`clamped_t` of the statistics).
            noise: ε, the latents' shape; with K `noises` `[K·B, C, H, W]`, row k·B + b the k-th of sample b; None draws
                it.
            generator: source of what is drawn.
            progress: fraction of the run that is over, for the annealing of t.

        Returns:
            The scalars, on the graph of `latents`; under `no_grad` their values only.
        """
        wanted = torch.is_grad_enabled() and latents.requires_grad
        step = self._evaluate(latents.detach(), text, timesteps, noise, generator, progress)
        matching = terms.match(self.settings, lambda: self.decoder, step, gradients=wanted)
        return terms.loss(self.settings, latents, step, matching)

    @torch.no_grad()
    def gradient(
        self,
        latents: torch.Tensor,
        text: TextEmbeddings | torch.Tensor,
        *,
        timesteps: Timesteps | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        progress: float = 0.0,
    ) -> tuple[torch.Tensor, PriorStatistics]:
        """Gradient mode: dL/dv, for hosts that call `latents.backward(gradient=g)`. Keeps no graph, is pure.

        Args: as `__call__`.

        Returns:
            g, float32 `[B, C, H, W]` (float64 for float64 latents), and the statistics.
        """
        step = self._evaluate(latents.detach(), text, timesteps, noise, generator, progress)
        return terms.gradient(self.settings, step, terms.match(self.settings, lambda: self.decoder, step))

    def _evaluate(self, *arguments: Any) -> Step:
        """Runs the UNet, see `step.evaluate`; networks that were replaced since are checked first."""
        self._check_networks()
        return evaluate(self, *arguments)

"""What a run of adaptation is made from (config.yaml)."""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import Any, ClassVar, Literal

from ...guidance.loading import edition_of
from ...runs.settings import Wrong, hyphens, setting, underscores
from ..options import PRIOR, RUN, BaseConfiguration, ModelConfiguration, PriorOptions, seed_setting

NAME = "adapt"
GENERATOR, OUTPUT = "generator", "pictures at the end"
CLIP = "guidance by CLIP (clip-directional)"
LDP, LSD, DIRECTIONAL = "ldp", "lsd", "clip-directional"
GUIDANCES = (LDP, LSD, DIRECTIONAL)
# Of --view-prompts.
BY_Z, NONE = "by-z", "none"
# Words of --train beside names of layers and parameters.
HOST, ALL = "host", "all"


def model_and_weight(word: str) -> tuple[str, float]:
    """`MODEL:WEIGHT` or `MODEL` as both; a model's name may hold colons, and what follows the last is a number or not.

    Raises:
        argparse.ArgumentTypeError: there is no name, or a weight that is not above 0.
    """
    model, _, last = word.rpartition(":")
    try:
        weight = float(last)
    except ValueError:
        model, weight = word, 1.0
    if not model or not (math.isfinite(weight) and weight > 0):
        raise argparse.ArgumentTypeError(f"expected MODEL or MODEL:WEIGHT, the weight above 0; got {word!r}")
    return model, weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegulariserOptions:
    """StyleGANFusion's three, each of which holds the pictures near to those of the source generator."""

    directional: float = setting(
        "weight of w(t) (e(adapted) - e(source)), the same prompt, noise and t for both; StyleGANFusion: 1 (default: "
        "0, off)",
        flag="directional",
        metavar="W",
        group=PRIOR,
        low=0,
        default=0.0,
    )
    reconstruction: float = setting(
        "weight of the pull of the denoised picture towards the source's; StyleGANFusion: 0.5 or 1 (default: 0, off)",
        flag="reconstruction",
        metavar="W",
        group=PRIOR,
        low=0,
        default=0.0,
    )
    lpips: float = setting(
        "weight of the perceptual distance to the source's picture; StyleGANFusion: 600 (default: 0, off)",
        flag="lpips",
        metavar="W",
        group=PRIOR,
        low=0,
        default=0.0,
    )
    lpips_network: str | None = setting(
        "network of that distance: alex, vgg, clip:NAME or vae:NAME (default: vgg; embedded model: its own VAE, which "
        "is not LPIPS)",
        flag="lpips-network",
        metavar="NAME",
        group=PRIOR,
        default=None,
    )
    lpips_weights: str | None = setting(
        "file of the weights of alex or vgg, as torchvision has them",
        flag="lpips-weights",
        metavar="FILE",
        group=PRIOR,
        default=None,
    )
    clamp: float | None = setting(
        "bound of the elements of w(t) times the residual and of these regularisers, on the latents; StyleGANFusion: 1 "
        "(default: none)",
        flag="clamp",
        metavar="B",
        group=PRIOR,
        above=0,
        default=None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptPriorOptions(PriorOptions):
    """As the others' prior; --guidance is what guides here, so that the formula's flag has another name."""

    guidance: Literal["from_uncond", "from_text"] = setting(
        "formula of --guidance-scale s: from_uncond, e_u + s (e_c - e_u), or from_text, e_c + s (e_c - e_u)",
        flag="guidance-formula",
        metavar="NAME",
        group=PRIOR,
        spelling=underscores,
    )


def _guidance() -> Any:
    return setting(
        "what guides: ldp (the paper's whole loss), lsd (latent score distillation alone, as in StyleGANFusion) or "
        "clip-directional (StyleGAN-NADA) (default: ldp)",
        flag="guidance",
        metavar="NAME",
        group=RUN,
        spelling=hyphens,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    prompt: str = setting("what the generator shall make")
    guidance: Literal["ldp", "lsd", "clip-directional"] = _guidance()
    seed: int = seed_setting()
    steps: int = setting(
        "iterations (default: 2000, clip-directional 300; embedded model: 800)",
        flag="steps",
        metavar="N",
        group=RUN,
        low=1,
    )
    batch: int = setting(
        "pictures in each step (default: 1, clip-directional 2; embedded model: 2)",
        flag="batch",
        metavar="N",
        group=RUN,
        low=1,
        high=4096,
    )
    learning_rate: float = setting(
        "step size of Adam; the paper: 0.002, of which the code of StyleGANFusion makes 0.0008 (default: 0.0008, "
        "clip-directional 0.002; embedded model: 0.0025)",
        flag="learning-rate",
        metavar="LR",
        group=RUN,
        above=0,
    )
    betas: tuple[float, float] = setting(
        "Adam's coefficients (default: 0 0.992)", flag="betas", metavar="B1 B2", group=RUN, low=0, below=1
    )
    generator: str = setting(
        "the generator to adapt: an embedded one, a folder or a .safetensors file of our format, or a run of adapt "
        "(default: primitives)",
        flag="generator",
        metavar="NAME",
        group=GENERATOR,
    )
    train: list[str] = setting(
        "what of it is trained: host (convolutions' weights, modulations and strengths of noise above 4 x 4), all, or "
        "names of layers and parameters (default: host; embedded model: convs.*.weight, which is host but for noise)",
        flag="train",
        metavar="NAME",
        group=GENERATOR,
    )
    select_layers: int | None = setting(
        "train only those K layers of --train whose entries of w one step would move most (default: all of them)",
        flag="select-layers",
        metavar="K",
        group=GENERATOR,
        low=1,
        default=None,
    )
    select_every: int = setting(
        "steps between two choices of these layers (default: 1)",
        flag="select-every",
        metavar="N",
        group=GENERATOR,
        low=1,
        default=1,
    )
    select_samples: int = setting(
        "pictures that a choice looks at (default: 8)",
        flag="select-samples",
        metavar="N",
        group=GENERATOR,
        low=1,
        high=4096,
        default=8,
    )
    ema: float | None = setting(
        "decay of a moving average of the weights, which is the result then, such as 0.998 (default: the weights "
        "themselves; embedded model: 0.98)",
        flag="ema",
        metavar="D",
        group=GENERATOR,
        above=0,
        below=1,
        expected="a decay above 0 and below 1",
        default=None,
    )
    noise: Literal["fixed", "fresh"] = setting(
        "the generator's noise: fixed (its buffers) or fresh (drawn anew in each step) (default: fixed)",
        flag="noise",
        metavar="KIND",
        group=GENERATOR,
        default="fixed",
    )
    truncation: float = setting(
        "truncation of the w that it is trained with; 1 is none (default: 1)",
        flag="truncation",
        metavar="PSI",
        group=GENERATOR,
        above=0,
        high=2,
        default=1.0,
    )
    pixel_clip: float | None = setting(
        "quantile of the absolute gradient on a picture's pixels to which it is clipped; StyleGANFusion: 0.95 "
        "(default: none)",
        flag="pixel-clip",
        metavar="Q",
        group=RUN,
        above=0,
        below=1,
        expected="a quantile above 0 and below 1",
        default=None,
    )
    source_prompt: str | None = setting(
        "what the generator makes before, which clip-directional has to know (embedded generator: a cube)",
        flag="source-prompt",
        metavar="TEXT",
        group=RUN,
        default=None,
    )
    samples: int = setting(
        "pictures in samples/ at the end (default: 2000; embedded model: 200)",
        flag="samples",
        metavar="N",
        group=OUTPUT,
        low=0,
        about_result=False,
    )
    sample_truncation: float = setting(
        "truncation of samples, of before_after.png and of the film (default: 0.7)",
        flag="sample-truncation",
        metavar="PSI",
        group=OUTPUT,
        low=0,
        high=2,
        default=0.7,
        about_result=False,
    )
    frames: int = setting(
        "frames of the film (default: 96)",
        flag="frames",
        metavar="N",
        group=OUTPUT,
        low=2,
        default=96,
        about_result=False,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptation(_Run, BaseConfiguration):
    """A run of adaptation; what guides it, its class says: see `class_of`."""

    application: ClassVar[str] = NAME

    def check(self) -> None:
        """See `Configuration.check`."""
        super().check()
        if not self.train:
            raise Wrong("train", f"expected {HOST}, {ALL}, or names; got none")
        if self.source_prompt is not None and not self.source_prompt.strip():
            raise Wrong("source_prompt", "expected a text, got an empty one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorGuided(ModelConfiguration, Adaptation):
    """A run that the prior guides: `ldp` or `lsd`."""

    guidance: Literal["ldp", "lsd"] = _guidance()
    view_prompts: Literal["by-z", "none"] | None = setting(
        "what names the side from which each picture is to show its thing: by-z (what an embedded generator, or one "
        'adapted from it, says of the picture\'s z, such as ", low side view", is put behind the prompt) or none '
        "(default: by-z with these generators and the embedded model, unless the prompt names a view; else none)",
        flag="view-prompts",
        metavar="NAME",
        group=RUN,
        spelling=hyphens,
        # None: of a run from before there was this.
        default=None,
        omitted=True,
    )
    settings: AdaptPriorOptions
    regularisers: RegulariserOptions

    def check(self) -> None:
        """See `Configuration.check`."""
        super().check()
        for name in ("lambda_fm", "lambda_kl"):
            value = getattr(self.settings, name)
            if self.guidance == LSD and value:
                raise Wrong(f"settings.{name}", f"expected 0 with --guidance {LSD}, got {value:g}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ClipOptions:
    clips: list[tuple[str, float]] = setting(
        "CLIP that guides, times W (default: that of the embedded --model; else ViT-B/32 and ViT-B/16 of OpenAI); may "
        "be given several times",
        flag="guidance-clip",
        metavar="MODEL[:W]",
        group=CLIP,
        word=model_and_weight,
        repeated=True,
    )
    templates: str | None = setting(
        "sentences that both prompts are put into for CLIP: imagenet (79, StyleGAN-NADA's) or none (default: imagenet; "
        "embedded CLIP: none)",
        flag="templates",
        metavar="NAME",
        group=CLIP,
        default=None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipGuided(_ClipOptions, Adaptation):
    """A run that CLIP guides: `clip-directional`."""

    guidance: Literal["clip-directional"] = _guidance()

    @property
    def edition(self) -> int:
        """Of the CLIPs' weights; the model is not computed with."""
        return max(edition_of(name.partition("/")[0]) for name, _ in self.clips)

    def check(self) -> None:
        """See `Configuration.check`."""
        super().check()
        if not self.clips:
            raise Wrong("clips", "expected at least one")
        if self.source_prompt is None:
            raise Wrong(
                "source_prompt",
                f"expected what the generator makes before, such as 'a photo of a cat', for {DIRECTIONAL}",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyGuidance(_ClipOptions, PriorGuided):
    """What has a flag for all that any of the guidances has; not a run."""

    guidance: Literal["ldp", "lsd", "clip-directional"] = _guidance()  # type: ignore[assignment]


def class_of(plain: Any) -> type[Adaptation]:
    """The class of the guidance that plain settings name."""
    named = plain.get("guidance")
    return ClipGuided if isinstance(named, str) and hyphens(named) == DIRECTIONAL else PriorGuided

"""Text2LIVE (omerbt/Text2LIVE): the diffusion prior as a loss beside `LossG`, and the residual latent (paper §5.3).

    from ldp_fast.integrations import text2live                                              # train_image.py
    guidance = text2live.LayeredGuidance(prior, config["comp_text"], dataset.get_img().shape[-2:])
    text2live.wrap(model, criterion, guidance)                              # before get_optimizer(config, …)

I′, the host's composite, is encoded to v′; v″ = v′ + θ_latent is what the losses look at, and what `edited` decodes.
The host trains on crops with random scale and flip, and does not say where they are: θ_latent is added to whole images
only, crops are guided without it. The paper edits the whole image: set `source_image_every: 1` in the host's
configuration to do so at every step.

Images may be of any sizes. Each is brought to about `size`² pixels, with sides that are multiples of `multiple`; those
that come out alike are encoded as one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..guidance import LatentDiffusionPrior, PriorStatistics, TextEmbeddings
from ..guidance.outputs import ScaleGradient
from ._host import attach, require

# The paper's λ's are near 1e-6, and a gradient of that size has few bits left in float16: the encoder's backward gets
# it multiplied by this.
HALF_SCALE = 2.0**16


class Statistics(list[PriorStatistics]):
    """Of one step, an entry for each size that images had."""

    def read(self) -> dict[str, float]:
        """Means over all images and sums of the counts, as `PriorStatistics.read`; empty without an image."""
        found = [(len(each.timesteps), each.read()) for each in self]
        count = sum(images for images, _ in found)
        values: dict[str, float] = {}
        for images, numbers in found:
            for name, number in numbers.items():
                share = 1.0 if name.startswith(("nonfinite", "clamped")) else images / count
                values[name] = values.get(name, 0.0) + share * number
        return values


class LayeredGuidance(nn.Module):
    """λ1·L_FM + λ2·L_KL + λ3·L_LSD on v″ of a list of images, and ‖α − M‖₁.

    Args:
        prior: with the λ's of `preset="layered"`, unless others are wanted.
        text: a prompt, or its embeddings.
        image_size: height and width of the source image in pixels, which decide θ_latent's shape.
        mask: M, of the object that is edited, in [0, 1]; None leaves the term out  # [H, W] or [1, H, W]
        mask_weight: of the mean |α − M|.
        size: side of the square that has as many pixels as an image is encoded with.
        multiple: of the sides in pixels; the UNet's and the VAE's factors together, 64 for Stable Diffusion.
        crops: whether the host's crops are guided too.

    Attributes:
        theta: θ_latent, zero at first  # [1, C, h, w]
        statistics: of the last step, one for each size that images had, on the device; `read()` is of all of them.

    Raises:
        UsageError: a size or an image that is too small, or a mask of another shape.
    """

    def __init__(
        self,
        prior: LatentDiffusionPrior,
        text: str | TextEmbeddings,
        image_size: Sequence[int],
        *,
        mask: Tensor | None = None,
        mask_weight: float = 1.0,
        size: int = 512,
        multiple: int = 64,
        crops: bool = True,
    ):
        super().__init__()
        if size < multiple or multiple % prior.pixels_per_latent:
            raise UsageError(
                f"LayeredGuidance: multiple: expected a multiple of {prior.pixels_per_latent} up to size={size}, "
                f"got {multiple}"
            )
        if mask is not None and (mask.dim() not in (2, 3) or (mask.dim() == 3 and len(mask) != 1)):
            raise UsageError(f"LayeredGuidance: mask: expected [H, W] or [1, H, W], got {list(mask.shape)}")
        self.size, self.multiple, self.crops, self.mask_weight = size, multiple, crops, mask_weight
        # In a list, so that the prior and its networks do not become a part of the host's model.
        self._prior = [prior]
        self._text = [prior.encode_prompt(text) if isinstance(text, str) else text]
        height, width = self.encoded_size(image_size)
        factor = prior.pixels_per_latent
        shape = (1, prior.latent_shape[0], height // factor, width // factor)
        self.theta = nn.Parameter(torch.zeros(shape, device=prior.device))
        self.mask: Tensor | None
        self.register_buffer("mask", None if mask is None else mask.reshape(1, 1, *mask.shape[-2:]).float())
        self.statistics = Statistics()

    @property
    def prior(self) -> LatentDiffusionPrior:
        """The diffusion prior."""
        return self._prior[0]

    def encoded_size(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Height and width in pixels with which an image is encoded: its aspect, `size`² pixels, rounded."""
        height, width = image_size
        factor = self.size / math.sqrt(height * width)
        return tuple(max(1, round(side * factor / self.multiple)) * self.multiple for side in (height, width))  # type: ignore[return-value]

    def encode(self, images: Tensor) -> Tensor:
        """v′ of images of one size, [n, 3, h, w] in [0, 1] -> [n, C, h/8, w/8], with gradients to the images."""
        wide = F.interpolate(images, self.encoded_size(images.shape[-2:]), mode="bilinear", antialias=True)
        vae: Any = self.prior.vae
        if next(vae.parameters()).dtype != torch.float16:
            return self.prior.encode(wide)
        return ScaleGradient.apply(self.prior.encode(ScaleGradient.apply(wide, 1 / HALF_SCALE)), HALF_SCALE)

    def forward(self, outputs: dict[str, dict[str, list[Tensor]]], **draws: Any) -> dict[str, Tensor]:
        """The losses of what the host's model made.

        Args:
            outputs: the host's: `output_image` and `output_crop`, either or both, each with the lists `composite` and
                `alpha` of [3, h, w] in [0, 1], of any sizes.
            **draws: `timesteps`, `noise` or `generator`, for the prior; of tests, with images of one size.

        Returns:
            `loss_ldp`, which is λ1·fm + λ2·kl + λ3·lsd, mean over the images, plus the mask's; its parts `loss_lsd`,
            `loss_fm`, `loss_kl` and, with a mask and a whole image, `loss_mask`. Without an image: empty.
        """
        groups: dict[tuple[tuple[int, ...], bool], list[Tensor]] = {}
        kinds = [("output_image", True)] + ([("output_crop", False)] if self.crops else [])
        for name, whole in kinds:
            for image in outputs.get(name, {}).get("composite", []):
                groups.setdefault((tuple(image.shape), whole), []).append(image)
        encoded: dict[torch.Size, list[Tensor]] = {}
        for (_, whole), images in groups.items():
            latents = self.encode(torch.stack(images))
            if whole:
                latents = latents + self._theta(latents)
            encoded.setdefault(latents.shape[1:], []).append(latents)
        losses: dict[str, Tensor] = {}
        self.statistics = Statistics()
        count = sum(len(latents) for parts in encoded.values() for latents in parts)
        for parts in encoded.values():
            together = torch.cat(parts)
            out = self.prior(together, self._text[0], **draws)
            self.statistics.append(out.statistics)
            share = len(together) / count
            for key, value in (("ldp", out.loss), ("lsd", out.lsd), ("fm", out.fm), ("kl", out.kl)):
                losses[f"loss_{key}"] = share * value + losses.get(f"loss_{key}", 0.0)
        alphas = outputs.get("output_image", {}).get("alpha", [])
        if self.mask is not None and alphas:
            losses["loss_mask"] = torch.stack([_mask_loss(alpha, self.mask) for alpha in alphas]).mean()
            losses["loss_ldp"] = losses["loss_ldp"] + self.mask_weight * losses["loss_mask"]
        return losses

    def _theta(self, latents: Tensor) -> Tensor:
        if latents.shape[-2:] == self.theta.shape[-2:]:
            return self.theta
        raise UsageError(
            f"LayeredGuidance: expected whole images of the shape that theta has, {list(self.theta.shape[-2:])} as "
            f"latents, got {list(latents.shape[-2:])}; make it with the source image's size"
        )

    @torch.no_grad()
    def edited(self, composite: Tensor, alpha: Tensor, image: Tensor) -> Tensor:
        """The paper's I″: v″ decoded, and blended over the source image by the same α.

        Args:
            composite: I′ of the whole image  # [3, h, w]
            alpha: α  # [3, h, w] or [1, h, w]
            image: I  # [3, h, w]

        Returns:
            [3, h, w] in [0, 1], without gradient.
        """
        latents = self.encode(composite[None])
        decoded = self.prior.decode(latents + self._theta(latents))
        decoded = F.interpolate(decoded, image.shape[-2:], mode="bilinear", antialias=True)[0]
        return decoded * alpha + image * (1 - alpha)


def _mask_loss(alpha: Tensor, mask: Tensor) -> Tensor:
    mask = F.interpolate(mask.to(alpha.device), alpha.shape[-2:], mode="bilinear", antialias=True)
    return (alpha - mask[0]).abs().mean()


class _Forward:
    """`LossG`'s forward and ours; no closure, so that the criterion can be copied and pickled."""

    def __init__(self, criterion: nn.Module, guidance: LayeredGuidance):
        self.criterion, self.guidance = criterion, guidance
        # What an instance has in the place of its class's.
        self.own = vars(criterion).get("forward")

    def __call__(self, outputs: Any, inputs: Any) -> dict[str, Any]:
        hosts = self.own or type(self.criterion).forward.__get__(self.criterion)
        losses, ours = hosts(outputs, inputs), self.guidance(outputs)
        losses.update(ours)
        if ours:
            losses["loss"] = losses["loss"] + ours["loss_ldp"]
        return losses


def wrap(model: nn.Module, criterion: nn.Module, guidance: LayeredGuidance) -> LayeredGuidance:
    """Adds the guidance to the host's loss, and θ_latent to the parameters of its model.

    Args:
        model: the host's `Model`; θ_latent becomes its parameter `theta_latent`, so that the host's optimiser, made
            afterwards from `model.parameters()`, trains it and checkpoints have it.
        criterion: the host's `LossG`; its dictionary gets our entries, `loss` our sum, and its attribute `ldp` is the
            guidance.
        guidance: which to add.

    Returns:
        The guidance.

    Raises:
        UsageError: the criterion's forward is not of the host's kind.
    """
    require(criterion, "cfg", "forward")
    attach(criterion, forward=_Forward(criterion, guidance))
    # Past `nn.Module`, which would take θ_latent for a parameter of the criterion.
    object.__setattr__(criterion, "ldp", guidance)
    model.register_parameter("theta_latent", guidance.theta)
    return guidance

"""The networks of a latent diffusion model, and what they do without a loss: prompts, decoding, encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..decoder.units import LatentUnits
from ..decoder.whole import run
from ..errors import UsageError
from .check import bare, check_model, check_vocabularies, configured, precision_of
from .prompts import check_words, encode_prompts, listed
from .text import TextEmbeddings


class LatentDiffusionModel:
    """A UNet, a VAE and a text encoder with its tokenizer, as they are; the prior adds the losses.

    Args: see `LatentDiffusionPrior`.
    """

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module | None,
        tokenizer: Any = None,
        text_encoder: nn.Module | None = None,
        tokenizer_2: Any = None,
        text_encoder_2: nn.Module | None = None,
        notes: dict[str, Any] | None = None,
    ):
        self.unet, self.vae = unet, vae
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.tokenizer_2, self.text_encoder_2 = tokenizer_2, text_encoder_2
        self.notes = notes or {}
        self._said: set[str] = set()  # what prompts lost, once each
        self._checked: tuple[Any, ...] | None = None

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the UNet computes in; its weights may be stored in another (layerwise casting)."""
        return precision_of(self.unet)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents that the UNet was made for.

        Raises:
            UsageError: the UNet's configuration does not say, nor does the VAE's.
        """
        net = bare(self.unet)
        channels, size = configured(net, "in_channels"), configured(net, "sample_size")
        pixels = configured(self.vae, "sample_size")
        if size is None and isinstance(pixels, int):
            size = pixels // self.pixels_per_latent
        sizes = [size, size] if isinstance(size, int) else list(size or ())
        if not isinstance(channels, int) or len(sizes) != 2:
            raise UsageError(
                f"latent_shape: expected a UNet whose configuration has in_channels and a sample_size of one or two "
                f"numbers, got in_channels={channels!r} and sample_size={size!r}"
            )
        height, width = sizes
        return channels, height, width

    @property
    def pixels_per_latent(self) -> int:
        """Pixels of an image along one side of a latent: 8 for Stable Diffusion's VAEs."""
        blocks = configured(self._require_vae(), "block_out_channels")
        if not blocks:
            raise UsageError(
                f"pixels_per_latent: expected a VAE whose configuration has block_out_channels, got a "
                f"{type(self.vae).__name__} without"
            )
        return 2 ** (len(blocks) - 1)

    @property
    def time_factor(self) -> int:
        """Pixels of a latent in the sizes that SDXL is told: the VAE's, and 8 where that is not known, as there."""
        known = self.vae is not None and configured(self.vae, "block_out_channels")
        return self.pixels_per_latent if known else 8

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None = None
    ) -> TextEmbeddings:
        """Encodes prompts, one row each, as the model's own pipeline does.

        What is longer than the text encoder's limit (77 tokens) is cut off, and logged as a warning, once.

        Args:
            prompt: one prompt, or several (a prompt a sample, or the views from which `select` picks).
            negative_prompt: one for all, or one each; None is the pipeline's default: the empty prompt, or for SDXL
                embeddings of zeros (unless `notes["force_zeros_for_empty_prompt"]` is False).

        Returns:
            Embeddings in the text encoder's precision, on the UNet's device.

        Raises:
            UsageError: an empty prompt; words that an embedded model does not know; no text encoder.
        """
        prompts = listed("prompt", prompt)
        negatives = None if negative_prompt is None else listed("negative_prompt", negative_prompt)
        if not prompts or any(not p.strip() for p in prompts):
            raise UsageError("prompt: expected some text, got an empty prompt")
        if negatives is not None and len(negatives) not in (1, len(prompts)):
            raise UsageError(f"negative_prompt: expected 1 or {len(prompts)} of them, got {len(negatives)}")
        encoders = [e for e in (self.text_encoder, self.text_encoder_2) if e is not None]
        if not encoders or (self.text_encoder is not None and self.tokenizer is None):
            raise UsageError("encode_prompt: this prior has no tokenizer and text encoder; hand it embeddings")
        if self.text_encoder_2 is not None and self.tokenizer_2 is None:
            raise UsageError("encode_prompt: this prior has a second text encoder, but its tokenizer_2 is missing")
        check_vocabularies(self)  # which may have been replaced
        for words in prompts + (negatives or []):
            check_words(words, self.notes)
        return encode_prompts(self, prompts, negatives, self._said)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes latents `[B, C, h, w]` to images `[B, 3, H, W]` float32 in [0, 1]; no gradient.

        With the VAE's whole way from the latents (`latents_mean`, `latents_std`), and in float32 where a float16 VAE
        asks for it (`force_upcast`), as its pipeline does.
        """
        vae = self._require_vae()
        image = run(vae, "decode", LatentUnits.of(vae).to_vae(latents.float()))
        image = image.sample if hasattr(image, "sample") else image
        return (image.float() / 2 + 0.5).clamp(0, 1)

    def encode(
        self, images: torch.Tensor, generator: torch.Generator | None = None, *, sample: bool = True
    ) -> torch.Tensor:
        """Encodes images to latents, differentiably.

        Args:
            images: `[B, 3, H, W]` in [0, 1].
            generator: of the posterior's noise.
            sample: one sample of the posterior; otherwise its mode.

        Returns:
            `[B, C, h, w]` float32, scaled as the diffusion model sees them.
        """
        vae = self._require_vae()
        encoded = run(vae, "encode", images * 2 - 1)
        if not hasattr(encoded, "latent_dist"):
            latents = encoded.latents
        else:
            latents = encoded.latent_dist.sample(generator) if sample else encoded.latent_dist.mode()
        return LatentUnits.of(vae).from_vae(latents.float())

    def _require_vae(self) -> Any:
        if self.vae is None:
            raise UsageError("vae: this prior was made without one")
        return self.vae

    def _check_networks(self) -> None:
        """Checks those networks, all together, of which one was replaced since this was last called."""
        networks = (self.unet, self.vae, self.text_encoder, self.text_encoder_2)
        if self._checked is None or any(a is not b for a, b in zip(self._checked, networks, strict=True)):
            check_model(self)
            self._checked = networks

    def _sharing(self, **attributes: Any) -> Any:
        """Another model that shares everything but these attributes."""
        other = object.__new__(type(self))
        other.__dict__.update({**self.__dict__, **attributes})
        return other

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__}
        # What torch.compile made holds code, which cannot be copied: a copy has the module itself.
        compiled = getattr(self.unet, "_orig_mod", None)
        if compiled is not None:
            state |= {"unet": compiled, "_checked": None}
        return state

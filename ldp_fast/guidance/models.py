"""The networks of a latent diffusion model, and what they do without a loss: prompts, decoding, encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..decoder.units import LatentUnits
from ..decoder.whole import run
from ..errors import UsageError
from .text import TextEmbeddings, encode


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

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's precision."""
        return next(self.unet.parameters()).dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents that the UNet was made for."""
        config: Any = self.unet.config
        return config.in_channels, config.sample_size, config.sample_size

    @property
    def pixels_per_latent(self) -> int:
        """Pixels of an image along one side of a latent: 8 for Stable Diffusion's VAEs."""
        return 2 ** (len(self._require_vae().config.block_out_channels) - 1)

    def encode_prompt(self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] = "") -> TextEmbeddings:
        """Encodes prompts, one row each.

        Args:
            prompt: one prompt, or several (a prompt a sample, or the views from which `select` picks).
            negative_prompt: one for all, or one each.

        Raises:
            UsageError: an empty prompt; words that an embedded model does not know; no text encoder.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = [negative_prompt] if isinstance(negative_prompt, str) else list(negative_prompt)
        if not prompts or any(not p.strip() for p in prompts):
            raise UsageError("prompt: expected some text, got an empty prompt")
        if len(negatives) not in (1, len(prompts)):
            raise UsageError(f"negative_prompt: expected 1 or {len(prompts)} of them, got {len(negatives)}")
        if self.tokenizer is None or self.text_encoder is None:
            raise UsageError("encode_prompt: this prior has no tokenizer and text encoder; hand it embeddings")
        for words in prompts + negatives:
            self._check_words(words)
        pairs = [(self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)]
        tokenizers, encoders = map(list, zip(*[p for p in pairs if p[1] is not None], strict=True))
        text, pooled = encode(tokenizers, encoders, prompts)
        uncond, pooled_uncond = encode(tokenizers, encoders, negatives * (len(prompts) // len(negatives)))
        return TextEmbeddings(text, uncond, pooled, pooled_uncond)

    def _check_words(self, text: str) -> None:
        known = set(self.notes.get("words", ()))
        unknown = [w for w in text.lower().replace(",", " ").replace(".", " ").split() if w not in known]
        if known and unknown:
            raise UsageError(
                f"prompt: the embedded model does not know {', '.join(repr(w) for w in unknown)}; "
                f"it knows: {self.notes.get('prompt_help', ', '.join(sorted(known)))}"
            )

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

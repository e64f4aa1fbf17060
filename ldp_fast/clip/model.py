"""A frozen CLIP over pictures in [0, 1] of any size: embeddings, tokens of patches, and what a caption loses."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from ..errors import UsageError, shortened
from ..guidance.loading import usable
from . import of_open_clip, of_transformers
from .scaling import GradientScale
from .towers import Towers

_CAPTIONS = 256  # in one pass
LONG = 16  # times the shorter side, beyond which a picture's ends are not resized


class Clip:
    """A CLIP with its tokenizer and its image preprocessing: frozen, in evaluation mode.

    Whatever precision its towers have, embeddings come out in float32, an enclosing autocast changes nothing, and
    gradients go through float16 towers scaled to their range (`GradientScale`). It is not an `nn.Module`, so that a
    host's state dict, optimiser and DDP do not see the frozen networks.

    Args:
        towers: the networks.
        name: what it was loaded by.

    Attributes:
        name: what it was loaded by.
        image_size: pixels per side of the vision tower.
        patch_size: pixels per side of a patch; 0 where the vision tower has no patches.
        context_length: tokens of the text tower, begin and end among them.
        embedding_size: E.

    Examples:
        >>> import torch
        >>> from ldp_fast.clip import Clip
        >>> clip = Clip.load("primitives")
        >>> clip.image_embeddings(torch.rand(2, 3, 64, 96)).shape
        torch.Size([2, 64])
        >>> clip.text_embeddings(["a red cube"]).shape
        torch.Size([1, 64])
    """

    def __init__(self, towers: Towers, name: str):
        self.towers, self.name = towers, name
        self.image_size, self.patch_size = towers.image_size, towers.patch_size
        self.context_length, self.embedding_size = towers.context_length, towers.embedding_size
        parameter = next(towers.network.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._mean, self._std = (
            torch.tensor(list(x), dtype=torch.float32, device=self.device).view(1, 3, 1, 1)
            for x in (towers.mean, towers.std)
        )

    @classmethod
    @torch.inference_mode(False)  # in which weights would be made that no gradient can go through later
    def load(
        cls, name: str = "primitives", device: str | torch.device = "cpu", *, dtype: torch.dtype | None = None
    ) -> Clip:
        """Loads a CLIP.

        Args:
            name: an embedded model's (`primitives` is the CLIP whose text tower conditions it, `primitives/judge` one
                that conditioned nothing), a folder of transformers' CLIPModel or one with `clip/` inside, a hub name,
                or `open_clip:ARCHITECTURE:WEIGHTS` with a file, or a tag whose weights are in the cache.
            device: of the towers.
            dtype: of the towers; None is float32.

        Raises:
            UsageError: it cannot be loaded; the reason is in the message.
        """
        where, dtype = usable(device), dtype or torch.float32
        loader = of_open_clip if name.startswith(of_open_clip.PREFIX) else of_transformers
        return cls(loader.load(name, where, dtype), name)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the weights and of the normalisation, in hexadecimal digits: equal for equal embeddings' networks.

        It reads every weight to the host, once.
        """
        found = hashlib.sha256(repr((list(self.towers.mean), list(self.towers.std), str(self.dtype))).encode())
        for key, value in sorted(self.towers.network.state_dict().items()):
            found.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def image_embeddings(self, images: torch.Tensor, *, whole: bool = False) -> torch.Tensor:
        """Embeddings of pictures, not normalised.

        As CLIP's own processor does it, the shorter side is resized to `image_size` (bicubic, antialiased, clamped to
        [0, 1]), and the centre is cut out.

        Args:
            images: `[B, 3, H, W]`, floating, in [0, 1], of any size. Gradients flow into them.
            whole: see pictures as they are: neither resized nor cut, with positions interpolated to their patches, as
                Text2LIVE sees its views.

        Returns:
            `[B, E]` float32.

        Raises:
            ValueError: of another shape or not floating; `whole`, and smaller than a patch.
            UsageError: `whole`, and the vision tower has no patches.
        """
        if whole:
            return self._seen(self.towers.images, self._at_least_a_patch(self._checked(images)))
        pixels = self._resized(_about_the_middle(self._checked(images)), self.image_size, None)
        height, width = pixels.shape[-2:]
        top, left = (height - self.image_size) // 2, (width - self.image_size) // 2
        pixels = pixels[..., top : top + self.image_size, left : left + self.image_size]
        return self._seen(self.towers.images, pixels)

    def patch_tokens(
        self, images: torch.Tensor, *, short_side: int | None = None, longest: int | None = None
    ) -> torch.Tensor:
        """Tokens of the vision tower after all but its last block, the class token first.

        Nothing is cut out: positions are interpolated to the picture's patches (bicubic); what does not fill a patch at
        the right and at the bottom is not seen. Text2LIVE's structure loss compares them (`short_side=224, longest=380`
        for a tower of 224).

        Args:
            images: `[B, 3, H, W]`, floating, in [0, 1]. Gradients flow into them.
            short_side: pixels that the shorter side is resized to; None leaves the size.
            longest: pixels that the longer side may have after that; both sides shrink until it has.

        Returns:
            `[B, 1 + P, D]` float32, P = ⌊H / patch⌋·⌊W / patch⌋ after resizing.

        Raises:
            ValueError: of another shape or not floating, or smaller than a patch.
            UsageError: the vision tower has no patches.
        """
        pixels = self._checked(images)
        if short_side is not None:
            pixels = self._resized(pixels, short_side, longest)
        return self._seen(self.towers.tokens, self._at_least_a_patch(pixels))

    @torch.inference_mode(False)
    @torch.no_grad()
    def text_embeddings(self, captions: Sequence[str], *, truncate: bool = False) -> torch.Tensor:
        """Embeddings of captions, not normalised.

        Args:
            captions: B of them.
            truncate: cut captions that are longer than the text tower; otherwise they are an error.

        Returns:
            `[B, E]` float32, without a graph.

        Raises:
            UsageError: a caption is too long; the message has the words that would be lost.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        if not truncate:
            self.require_fits(captions)
        parts = [captions[i : i + _CAPTIONS] for i in range(0, len(captions), _CAPTIONS)]
        with torch.autocast(self.device.type, enabled=False):
            found = [self.towers.texts(self.towers.tokenize(part).to(self.device)).float() for part in parts]
        return torch.cat(found) if found else torch.zeros(0, self.embedding_size, device=self.device)

    def require_fits(self, captions: Sequence[str]) -> None:
        """Refuses captions that are longer than the text tower.

        Raises:
            UsageError: names the first such caption and the words that would be lost.
        """
        for caption in captions:
            lost = self.lost_words(caption)
            if lost:
                raise UsageError(
                    f"caption: {shortened(caption)!r} has {self.towers.count(caption)} tokens, {self.name} reads "
                    f"{self.context_length}: these words would be lost: {shortened(lost, 200)!r}; shorten it, or have "
                    "it truncated"
                )

    def lost_words(self, caption: str) -> str:
        """The words at a caption's end that the text tower does not read whole; '' if it reads all of them."""
        if self.towers.count(caption) <= self.context_length:
            return ""
        words, read, low, high = caption.split(), 0, 0, len(caption.split()) - 1
        while low <= high:  # the most words that fit
            middle = (low + high) // 2
            if self.towers.count(" ".join(words[:middle])) <= self.context_length:
                read, low = middle, middle + 1
            else:
                high = middle - 1
        return " ".join(words[read:])

    def _checked(self, images: torch.Tensor) -> torch.Tensor:
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images: expected floating [B, 3, H, W] in [0, 1], got {images.dtype} {list(images.shape)}"
            )
        return images.to(self.device, torch.float32)

    def _at_least_a_patch(self, pixels: torch.Tensor) -> torch.Tensor:
        if min(pixels.shape[-2:]) < self.patch_size:
            raise ValueError(
                f"images: expected at least {self.patch_size} pixels a side, a patch of {self.name}, got "
                f"{pixels.shape[-2]}×{pixels.shape[-1]}"
            )
        return pixels

    @staticmethod
    def _resized(images: torch.Tensor, short_side: int, longest: int | None) -> torch.Tensor:
        """The shorter side becomes `short_side`, or less where the longer one would be longer than `longest`."""
        short, long = sorted(images.shape[-2:])
        new_short, new_long = short_side, int(short_side * long / short)
        if longest is not None and new_long > longest:
            new_short, new_long = max(1, int(longest * new_short / new_long)), longest
        size = (new_short, new_long) if images.shape[-2] <= images.shape[-1] else (new_long, new_short)
        if tuple(images.shape[-2:]) == size:
            return images
        return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self._mean) / self._std

    def _seen(self, tower: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        """What a tower makes of pixels in [0, 1], float32 on both sides."""
        with torch.autocast(self.device.type, enabled=False):
            if self.dtype != torch.float16:
                return tower(self._normalised(pixels).to(self.dtype)).float()
            scale = GradientScale()
            return scale.leave(tower(scale.enter(self._normalised(pixels)).to(self.dtype)).float())


def _about_the_middle(images: torch.Tensor) -> torch.Tensor:
    """Very long pictures without their ends, which are not in the centre that is cut out after resizing.

    A strip of 4 000 000 pixels by 1 would otherwise be enlarged to hundreds of gigabytes first. Whole squares go from
    both ends, so that the rest is sampled at the same places but for what the rounding of the resized length moves
    them, a fraction of a pixel.
    """
    short, long = sorted(images.shape[-2:])
    if long <= LONG * short:
        return images
    # What is left has squares beside the middle one: the filter reaches over two pixels, and a square may be one.
    squares = (long // short - LONG) // 2
    if images.shape[-2] == long:
        return images[..., squares * short : long - squares * short, :]
    return images[..., squares * short : long - squares * short]

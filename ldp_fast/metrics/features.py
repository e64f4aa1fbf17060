"""Networks whose features FID and KID compare: Inception of 2015, and any CLIP.

Each is called with pictures of any sizes and gives one row a picture. `name` says network, resizer and quantisation: a
distance between features of one name means nothing beside one between features of another.
"""

from __future__ import annotations

import functools
import pathlib
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..clip import Clip
from ..errors import UsageError, reason
from ..guidance.loading import usable
from .weights import digest_of, find_weights, read_weights

Pictures = Tensor | Sequence[Tensor]
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SIDE = 299
_BATCH = 32


class Features(Protocol):
    """What makes features of pictures.

    Attributes:
        name: of the features, for the name of the number that is computed from them.
        dimension: D.
        digest: of the weights, in hexadecimal digits; what is kept of features belongs to it and to the name.
    """

    name: str
    dimension: int

    @property
    def digest(self) -> str: ...

    def __call__(self, pictures: Pictures) -> Tensor:
        """Features `[N, D]` float32 on the CPU of N pictures, in their order (`[N, 3, H, W]`, or N of `[3, H, W]`).

        Pictures are uint8, or floating in [0, 1]; a sequence may mix sizes. Without gradients.
        """
        ...


def batches(pictures: Pictures, most: int) -> Iterator[tuple[list[int], Tensor]]:
    """Pictures of one size and dtype together, with where each stands among all of them.

    Args:
        pictures: `[N, 3, H, W]`, or N of `[3, H, W]`; uint8, or floating in [0, 1].
        most: pictures in a batch.

    Yields:
        positions, and a batch `[≤ most, 3, H, W]` of the pictures' dtype.

    Raises:
        ValueError: a picture of another shape or dtype, or with values outside of [0, 1].
    """
    together: dict[Any, list[int]] = {}
    for position, picture in enumerate(pictures):
        if picture.dim() != 3 or picture.shape[0] != 3 or 0 in picture.shape:
            raise ValueError(f"pictures: expected [3, H, W] each, got {list(picture.shape)}")
        if picture.dtype != torch.uint8:
            if not picture.is_floating_point():
                raise ValueError(f"pictures: expected uint8, or floating in [0, 1], got {picture.dtype}")
            if not (picture.amin() >= 0 and picture.amax() <= 1):  # NaN is neither
                raise ValueError("pictures: expected floating values in [0, 1]; got others")
        together.setdefault((picture.shape, picture.dtype), []).append(position)
    for positions in together.values():
        for start in range(0, len(positions), most):
            some = positions[start : start + most]
            yield some, torch.stack([pictures[i] for i in some])


def as_floats(pictures: Tensor) -> Tensor:
    """uint8, or floating in [0, 1], as float32 in [0, 1]."""
    return pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures.float()


def as_bytes(pictures: Tensor) -> Tensor:
    """uint8, or floating in [0, 1], as uint8: rounded to the nearest, as a PNG of them would be."""
    return pictures if pictures.dtype == torch.uint8 else (pictures * 255).round().to(torch.uint8)


class InceptionFeatures:
    """The pooled features of the Inception that FID was defined with: Google's of 2015-12-05, as torch-fidelity has it.

    Pictures are quantised to uint8 (floating ones are rounded to the nearest; torchmetrics rounds down), resized to
    299×299 without keeping their aspect, and not rounded after that.

    Args:
        network: torchmetrics' `NoTrainInceptionV3` with the features "2048".
        resizer: which it has, for the name.

    Attributes:
        name: "inception-2015, tf1-bilinear 299, uint8" or "inception-2015, antialiased-bilinear 299, uint8".
        dimension: 2048.
    """

    dimension = 2048

    def __init__(self, network: Any, resizer: str = "tf1-bilinear"):
        self.network = network.eval().requires_grad_(False)
        self.name = f"inception-2015, {resizer} {INCEPTION_SIDE}, uint8"

    @classmethod
    def load(
        cls,
        weights: str | pathlib.Path | None = None,
        device: str | torch.device = "cpu",
        *,
        resizer: Literal["tf1-bilinear", "antialiased-bilinear"] = "tf1-bilinear",
    ) -> InceptionFeatures:
        """Loads it from a file, never from the network.

        Args:
            weights: torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`; None looks into torch's hub cache.
            device: of the network.
            resizer: "tf1-bilinear" is that of the original FID and of torch-fidelity (no antialiasing, corners as
                TensorFlow 1 had them); "antialiased-bilinear" is what torchmetrics does by default now. Their numbers
                differ.

        Raises:
            UsageError: there are no weights, or they are those of another network, or torchmetrics or torch-fidelity
                cannot be imported.
        """
        if resizer not in ("tf1-bilinear", "antialiased-bilinear"):
            raise UsageError(f"resizer: expected tf1-bilinear or antialiased-bilinear, got {resizer!r}")
        where = usable(device)
        path = find_weights(weights, INCEPTION_FILE, INCEPTION_ADDRESS)
        kind = _inception()
        read_weights(path)  # before the library does, which would run what a pickle asks for
        try:
            network = kind("inception-v3-compat", ["2048"], str(path))
        except (RuntimeError, pickle.UnpicklingError) as error:  # the second for files of another format
            raise UsageError(f"weights: expected those of Inception of 2015 in {path}: {reason(error)}") from None
        if resizer != "tf1-bilinear" and not hasattr(network, "use_antialias"):
            raise UsageError(f"resizer: {resizer} needs torchmetrics of at least 1.8")
        network.use_antialias = resizer != "tf1-bilinear"
        return cls(network.to(where), resizer)

    @functools.cached_property
    def digest(self) -> str:
        """Of the weights."""
        return digest_of(self.network)

    @torch.no_grad()
    def __call__(self, pictures: Pictures) -> Tensor:
        """See `Features`."""
        found = torch.empty(len(pictures), self.dimension)
        device = next(self.network.parameters()).device
        for positions, batch in batches(pictures, _BATCH):
            found[positions] = self.network(as_bytes(batch).to(device)).float().cpu()
        return found


def _inception() -> Any:
    """torchmetrics' class.

    Raises:
        UsageError: it, or torch-fidelity, which it is made of, cannot be imported.
    """
    try:
        import torch_fidelity  # noqa: F401  torchmetrics can be imported without it, and fails later
        from torchmetrics.image.fid import NoTrainInceptionV3
    except (ImportError, RuntimeError) as error:  # the second comes of a torchvision for another torch
        raise UsageError(
            f"features: Inception needs torchmetrics and torch-fidelity ({reason(error)}): pip install "
            "'ldp-fast[inception]', with the torchvision that was made for this torch"
        ) from error
    return NoTrainInceptionV3


class ClipFeatures:
    """The image embeddings of a CLIP, as they are (not brought to length 1).

    Floating pictures are not quantised. Resizing is the CLIP's own: the shorter side by bicubic interpolation with
    antialiasing, then the centre.

    Args:
        clip: as `Clip.load` gives it.

    Attributes:
        name: "clip:primitives, bicubic 128".
        dimension: E.
    """

    def __init__(self, clip: Clip):
        self.clip, self.dimension = clip, clip.embedding_size
        self.name = f"clip:{clip.name}, bicubic {clip.image_size}"

    @property
    def digest(self) -> str:
        """Of the weights."""
        return self.clip.digest

    @torch.no_grad()
    def __call__(self, pictures: Pictures) -> Tensor:
        """See `Features`."""
        found = torch.empty(len(pictures), self.dimension)
        for positions, batch in batches(pictures, _BATCH):
            found[positions] = self.clip.image_embeddings(as_floats(batch)).cpu()
        return found

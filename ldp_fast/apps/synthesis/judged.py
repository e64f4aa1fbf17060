"""What a metric sees of a run of image synthesis: its picture."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from .configuration import NAME, Synthesis


def described(configuration: Synthesis) -> dict[str, Any]:
    """The run's plain settings, with `prompt`, `method` and `seed` among them.

    Raises:
        UsageError: it has several prompts or seeds, whose pictures are not told apart by a folder.
    """
    plain = configuration.plain()
    prompts, seeds = plain.pop("prompts"), plain.pop("seeds")
    if len(prompts) != 1 or len(seeds) != 1:
        raise UsageError("a run of synthesize is measured if it has one prompt and one seed, as those of a sweep have")
    return {"prompt": prompts[0], "seed": seeds[0], "method": NAME, **plain}


def elevations(configuration: Synthesis) -> tuple[float, float]:
    """A picture has one side only."""
    return 0.0, 0.0


def pictures(
    folder: pathlib.Path,
    configuration: Synthesis,
    views: Sequence[tuple[float, float]],
    device: str | None = None,
    load: Callable[..., Any] | None = None,
) -> list[Tensor]:
    """The picture [3, H, W] in [0, 1], as often as there are views."""
    from PIL import Image

    with Image.open(folder / "image.png") as image:
        array = np.array(image.convert("RGB"))
    return [torch.from_numpy(array).permute(2, 0, 1).float() / 255] * len(views)

"""Pictures and figures as files, replaced atomically."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from .files import write_atomically


def to_pixels(images: torch.Tensor) -> Any:
    """`[B, 3, H, W]` in [0, 1] to a uint8 array `[B, H, W, 3]`."""
    return (images.permute(0, 2, 3, 1) * 255 + 0.5).clamp(0, 255).byte().cpu().numpy()


def save_png(path: pathlib.Path, image: torch.Tensor) -> None:
    """Writes one image `[3, H, W]` in [0, 1], atomically."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_pixels(image[None])[0]).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def read_images(paths: Sequence[pathlib.Path]) -> torch.Tensor:
    """Pictures of one size as `[B, 3, H, W]` in [0, 1]."""
    import numpy as np
    from PIL import Image

    arrays = []
    for path in paths:
        with Image.open(path) as image:
            arrays.append(np.array(image.convert("RGB")))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def contact_sheet(images: torch.Tensor, columns: int | None = None) -> torch.Tensor:
    """Images `[B, 3, H, W]` as one picture `[3, rows·H, columns·W]`, the rest of it white."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = images.new_ones(rows * columns, channels, height, width)
    sheet[:count] = images
    return (
        sheet.view(rows, columns, channels, height, width)
        .permute(2, 0, 3, 1, 4)
        .reshape(channels, rows * height, columns * width)
    )


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A matplotlib figure and its axes [rows, columns], for `save_figure`.

    Without pyplot, whose choice of a backend is the host's: a notebook goes on to show its own plots.

    Args:
        rows, columns: of axes.
        size: inches, width first.
    """
    from matplotlib.figure import Figure

    made = Figure(figsize=size, layout="constrained")
    return made, made.subplots(rows, columns, squeeze=False)


def save_figure(path: pathlib.Path, figure: Any) -> None:
    """Writes a matplotlib figure as PNG, atomically."""
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())

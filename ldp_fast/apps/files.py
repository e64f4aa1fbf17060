"""What every run folder needs: files replaced atomically, pictures, versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
from typing import Any

import torch

from ..errors import UsageError


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Writes a file so that a reader, or an interruption, sees the old one or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # A full disk does not say which file did not fit.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def plain(value: Any) -> Any:
    """A value as JSON gives it back (tuples become lists), so that a record and its origin compare equal."""
    return json.loads(json.dumps(value))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: pathlib.Path) -> Any:
    """Reads JSON.

    Raises:
        UsageError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} holds no run: there is no {path.name} in it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is damaged: {error}") from None


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("ldp-fast", "torch", "diffusers", "transformers", "numpy", "triton"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


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


def contact_sheet(images: torch.Tensor, columns: int | None = None) -> torch.Tensor:
    """Images `[B, 3, H, W]` as one picture `[3, rows·H, columns·W]`, white where there is none."""
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

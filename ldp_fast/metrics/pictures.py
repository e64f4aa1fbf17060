"""Reads folders of pictures for metrics: every file is a picture that is read, or is named."""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, reason

WHITE = (255, 255, 255)
FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MOST_PIXELS = 2**26  # of one picture: a file of some kilobytes may claim to have billions
HEAD = 12  # bytes that tell the formats apart
SAMPLES = "samples.json"  # what `ldp-fast generate` says of the pictures that it makes
# Written beside pictures by this package, or read with them.
KNOWN = ("evaluation", "captions.json", "captions.csv", SAMPLES)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        pictures: PNG, JPEG and WebP files, by their names.
        others: names of files that are not pictures, and of folders, which are not looked into.
    """

    pictures: list[pathlib.Path]
    others: list[str]


def find_pictures(folder: str | os.PathLike[str]) -> Found:
    """The pictures of a folder, told by how their files begin, or by their suffixes where that says nothing.

    What ends in a picture's suffix counts as one even if it does not begin like one, so that reading it says that it
    is damaged. Hidden files, captions.json, captions.csv, samples.json and `evaluation/` are known and are not listed.

    Raises:
        UsageError: there is no such folder, it cannot be read, or it does not hold a picture.
    """
    place = pathlib.Path(folder)
    if not place.is_dir():
        raise UsageError(f"{place} {'is not a folder' if place.exists() else 'does not exist'}")
    pictures, others = [], []
    try:
        entries = sorted(place.iterdir(), key=lambda path: path.name)
        for path in entries:
            if path.name.startswith(".") or path.name in KNOWN:
                continue
            if path.is_dir():
                others.append(f"{path.name}/")
            elif path.exists() and not path.is_file():
                others.append(path.name)  # a pipe would be waited for; a link to nothing is to be an error
            elif path.suffix.lower() in SUFFIXES or (path.is_file() and _format_of(_head(path)) is not None):
                pictures.append(path)
            else:
                others.append(path.name)
    except OSError as error:
        raise UsageError(f"{place} cannot be read ({reason(error)})") from None
    if not pictures:
        raise UsageError(f"{place} does not hold pictures (PNG, JPEG or WebP): {held(others)}")
    return Found(pictures, others)


def held(others: Sequence[str]) -> str:
    """What a folder without pictures holds, for a sentence."""
    return f"it holds {some(others)}" if others else "it is empty"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many there are: `a.txt, b.txt, c.txt and 4 more`."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _head(path: pathlib.Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEAD)


def _format_of(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def read_picture(path: str | os.PathLike[str], background: Sequence[int] = WHITE) -> Tensor:
    """One picture; see `decode_picture`.

    Raises:
        UsageError: it cannot be read; the message begins with its name.
    """
    place = pathlib.Path(path)
    try:
        data = place.read_bytes()
    except OSError as error:
        raise UsageError(f"{place} cannot be read ({reason(error)})") from None
    return decode_picture(data, str(place), background)


def decode_picture(data: bytes, name: str, background: Sequence[int] = WHITE) -> Tensor:
    """A picture's pixels from what its file holds.

    It is turned as its EXIF says. What is transparent is laid over the background, in sRGB values as browsers do it.
    Grey and palettes become RGB; grey of 16 bits is rounded to 8 (65535 is 255), colour of 16 bits loses its lower
    byte, as Pillow does it. CMYK becomes RGB by Pillow's formula; colour profiles are not applied.

    Args:
        data: of a PNG, JPEG or WebP file.
        name: for messages.
        background: RGB, 0 to 255.

    Returns:
        `[3, H, W]` uint8.

    Raises:
        UsageError: another format, damaged or cut off, several frames, or more than 2²⁶ pixels.
    """
    from PIL import Image, ImageOps

    if _format_of(data[:HEAD]) is None:
        raise UsageError(f"{name} cannot be read as a picture: it does not begin like a PNG, JPEG or WebP file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise UsageError(f"{name}: expected at most {MOST_PIXELS} pixels, got {width} × {height}")
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # a JPEG of a telephone, with its preview or the other eye's view
                raise UsageError(f"{name}: expected one picture, got an animation of {frames} frames")
            if image.format == "PNG":
                with Image.open(io.BytesIO(data), formats=FORMATS) as copy:
                    copy.verify()  # Pillow compares checksums of a PNG nowhere else
            image.load()
            pixels = _as_rgb(ImageOps.exif_transpose(image), background)
    except UsageError:
        raise
    except Image.DecompressionBombError:
        raise UsageError(f"{name}: expected at most {MOST_PIXELS} pixels, got more than twice as many") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever the bytes lead them to
        raise UsageError(f"{name} cannot be read as a picture: {reason(error)}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _as_rgb(image: Any, background: Sequence[int]) -> np.ndarray:
    """An image of Pillow's as [H, W, 3] uint8."""
    from PIL import Image

    if image.mode.startswith("I"):
        # Grey of 16 bits, which Pillow's own conversion would clip at 255.
        if "transparency" in image.info:
            raise ValueError("grey of 16 bits in which one value is transparent is not read")
        grey = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
        image = Image.fromarray(grey.astype(np.uint8))
    clear = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if not clear:
        return np.array(image.convert("RGB"))
    pixels = np.asarray(image.convert("RGBA")).astype(np.int64)
    alpha = pixels[..., 3:]
    shown = pixels[..., :3] * alpha + np.asarray(background, dtype=np.int64) * (255 - alpha)
    return ((shown + 127) // 255).astype(np.uint8)

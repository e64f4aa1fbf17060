"""Reading pictures: every kind is read right, or is refused by its name."""

from __future__ import annotations

import io
import pathlib
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ldp_fast.errors import UsageError
from ldp_fast.metrics.pictures import decode_picture, find_pictures, read_picture

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
LARGE = RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)


def encoded(array: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes, **options: Any) -> np.ndarray:
    found = decode_picture(data, "it", **options)
    assert found.dtype == torch.uint8 and found.is_contiguous()
    return found.permute(1, 2, 0).numpy()


def png_of(width: int, height: int) -> bytes:
    """A PNG whose head claims a size that its data do not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_what_loses_nothing_comes_back(kind: str, options: dict[str, Any]) -> None:
    assert np.array_equal(decoded(encoded(RGB, kind, **options)), RGB)


def test_jpeg_and_cmyk_come_near() -> None:
    smooth = np.stack([np.add.outer(np.arange(32) * 3, np.arange(32) * 2) + 40 + 20 * c for c in range(3)], axis=-1)
    smooth = smooth.astype(np.uint8)
    for image in (Image.fromarray(smooth), Image.fromarray(smooth).convert("CMYK")):
        assert np.abs(decoded(encoded(image, "JPEG", quality=95)).astype(int) - smooth).mean() < 3


def test_grey_palette_and_bits_become_colours() -> None:
    grey = RGB[..., 0]
    assert np.array_equal(decoded(encoded(grey, "PNG")), np.repeat(grey[..., None], 3, axis=2))
    assert set(np.unique(decoded(encoded(Image.fromarray(grey > 127), "PNG")))) <= {0, 255}
    few = Image.fromarray(RGB // 128 * 255)
    palette = few.convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(decoded(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=4, max_size=12))
def test_grey_of_16_bits_is_rounded(values: list[int]) -> None:
    array = np.array([values], dtype=np.uint16)
    expected = np.round(array / 257).astype(int)
    assert np.array_equal(decoded(encoded(array, "PNG"))[..., 0], expected)


def test_what_is_transparent_lies_on_the_background() -> None:
    alpha = np.dstack([RGB, RNG.integers(0, 256, RGB.shape[:2], dtype=np.uint8)])
    for background in ((255, 255, 255), (0, 177, 64)):
        share = alpha[..., 3:] / 255
        expected = np.round(alpha[..., :3] * share + np.array(background) * (1 - share))
        found = decoded(encoded(alpha, "PNG"), background=background)
        assert np.abs(found - expected).max() <= 0.5
    grey = Image.fromarray(alpha).convert("LA")
    assert decoded(encoded(grey, "PNG")).shape == RGB.shape
    clear = Image.new("P", (2, 2), 0)
    clear.putpalette([10, 20, 30])
    assert np.array_equal(decoded(encoded(clear, "PNG", transparency=0)), np.full((2, 2, 3), 255))


def test_exif_turns_a_picture() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    assert np.array_equal(decoded(encoded(RGB, "PNG", exif=exif)), np.rot90(RGB, -1))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "does not begin like a PNG, JPEG or WebP file"),
        (b"hello", "does not begin like a PNG, JPEG or WebP file"),
        (encoded(RGB, "BMP"), "does not begin like a PNG, JPEG or WebP file"),
        (encoded(LARGE, "PNG")[:-400], "cannot be read as a picture"),
        (encoded(LARGE, "JPEG")[:-400], "truncated"),
        (encoded(LARGE, "WEBP")[:-400], "cannot be read as a picture"),
        (encoded(RGB, "WEBP", save_all=True, append_images=[Image.fromarray(RGB[::-1])]), "animation of 2 frames"),
        (png_of(9000, 9000), "expected at most 67108864 pixels, got 9000 × 9000"),
        (png_of(60000, 60000), "expected at most 67108864 pixels"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes, said: str) -> None:
    with pytest.raises(UsageError, match=r"^dir/it\.png") as raised:
        decode_picture(data, "dir/it.png")
    assert said in str(raised.value) and "\n" not in str(raised.value)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_of_a_png_is_found_or_does_not_matter(place: int, change: int) -> None:
    data = bytearray(encoded(RGB, "PNG"))
    data[place % len(data)] ^= change
    try:
        assert np.array_equal(decoded(bytes(data)), RGB)
    except UsageError as error:
        assert str(error).startswith("it")


def test_a_folder(tmp_path: pathlib.Path) -> None:
    for name, kind in (("b.png", "PNG"), ("a.JPG", "JPEG"), ("c", "WEBP")):
        (tmp_path / name).write_bytes(encoded(RGB, kind))
    (tmp_path / "damaged.png").write_bytes(b"text")
    for name in ("notes.txt", ".hidden", "captions.json"):
        (tmp_path / name).write_text("text")
    for name in ("evaluation", "more"):
        (tmp_path / name).mkdir()
    found = find_pictures(tmp_path)
    assert [path.name for path in found.pictures] == ["a.JPG", "b.png", "c", "damaged.png"]
    assert found.others == ["more/", "notes.txt"]
    assert np.array_equal(read_picture(tmp_path / "b.png").permute(1, 2, 0).numpy(), RGB)
    with pytest.raises(UsageError, match=r"damaged.png cannot be read as a picture"):
        read_picture(tmp_path / "damaged.png")


def test_folders_without_pictures(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"does not hold pictures .*: it is empty"):
        find_pictures(tmp_path)
    for i in range(5):
        (tmp_path / f"{i}.txt").touch()
    with pytest.raises(UsageError, match=r"it holds 0.txt, 1.txt, 2.txt and 2 more"):
        find_pictures(tmp_path)
    with pytest.raises(UsageError, match=r"0\.txt is not a folder"):
        find_pictures(tmp_path / "0.txt")
    with pytest.raises(UsageError, match="none does not exist"):
        find_pictures(tmp_path / "none")
    with pytest.raises(UsageError, match=r"none\.png cannot be read"):
        read_picture(tmp_path / "none.png")

"""Films of frames: H.264 in MP4 through PyAV, GIF through Pillow; both replaced atomically."""

from __future__ import annotations

import io
import pathlib
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from ..errors import UsageError
from . import files

# Constant quality of x264, from 0 (lossless) to 51; below 18 nobody sees a difference.
QUALITY = 16
# A GIF's delays are in hundredths of a second, and browsers slow down what is faster than two of them.
GIF_TICK, GIF_SHORTEST = 100, 2


def require_mp4() -> None:
    """Says before a long rendering that its film could not be written.

    Raises:
        ModuleNotFoundError: PyAV (`av`) is not installed.
        UsageError: it was built without an H.264 encoder.
    """
    import av

    if "libx264" not in av.codecs_available:
        raise UsageError("mp4: expected the package av with the encoder libx264, as its wheels have; this one lacks it")


def write_mp4(path: pathlib.Path, frames: Iterable[Any], fps: int = 25) -> None:
    """Writes H.264 with 4:2:0 chroma and the index at the front: what every player and browser takes.

    Args:
        path: where to.
        frames: uint8 arrays [H, W, 3], taken one at a time; an odd height or width is extended by a pixel.
        fps: frames per second.

    Raises:
        ModuleNotFoundError, UsageError: see `require_mp4`.
    """
    require_mp4()
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    # The index can be moved to the front only in a file; the finished one is then put in place at once.
    with tempfile.TemporaryDirectory() as folder:
        film = pathlib.Path(folder) / "film.mp4"
        with av.open(str(film), "w", options={"movflags": "+faststart"}) as container:
            stream: Any = None
            for frame in frames:
                height, width, _ = frame.shape
                frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                if stream is None:
                    stream = container.add_stream("libx264", rate=Fraction(fps))
                    stream.height, stream.width = frame.shape[:2]
                    stream.pix_fmt = "yuv420p"
                    stream.options = {"crf": str(QUALITY), "preset": "medium"}
                    # Said explicitly: players guess the matrix from the height otherwise, and colours shift.
                    context = stream.codec_context
                    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
                    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)))
            if stream is not None:
                container.mux(stream.encode())
        files.write_atomically(path, film.read_bytes())


def write_gif(path: pathlib.Path, frames: Iterable[Any], fps: int = 25) -> None:
    """Writes a GIF that loops, all frames in one palette so that flat colours do not flicker.

    Args:
        path: where to.
        frames: uint8 arrays [H, W, 3]; at least one.
        fps: frames per second; 50 at most are shown, and the delay is rounded to a hundredth of a second.
    """
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    # Maximum coverage finds an object's few pixels beside much background, which median cut gives all its colours to.
    sampled = np.concatenate([np.asarray(x)[::2, ::2] for x in pictures[:: max(1, len(pictures) // 16)]])
    palette = Image.fromarray(sampled).quantize(255, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
    # Undithered: the grain of a dither would crawl from frame to frame.
    first, *others = (x.quantize(palette=palette, dither=Image.Dither.NONE) for x in pictures)
    delay = max(GIF_SHORTEST, round(GIF_TICK / fps)) * (1000 // GIF_TICK)
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=delay, loop=0)
    files.write_atomically(path, buffer.getvalue())

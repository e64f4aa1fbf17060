"""Renderings as pictures for people: decoded, raw latents, depth, normals or opacity, in batches of bounded memory."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import UsageError
from ....nerf import Cameras, LearnedBackground

if TYPE_CHECKING:
    from ..scene import Scene

CHANNELS = ("decoded", "latents", "depth", "normals", "opacity")
SOLID = ("depth", "normals", "opacity")
# Rays marched at once: with 256 samples each, the field's activations stay within a gigabyte or so.
RAYS = 2**14
# Latents decoded at once: 16 views of the embedded model, one of Stable Diffusion.
LATENTS = 2**12
# Rays per side of depth, normals and opacity: without a decoder, 16 would look coarse.
SOLID_SIZE = 64
# Standard deviation, in latents, of what a training view shows of a place: finer than this a field is noise.
FOOTPRINT = 0.4
# Pictures are enlarged by whole factors until they have so many pixels per side.
SMALLEST = 256
# Latents have about unit variance: so many standard deviations either way fill the range of brightness.
SPREAD = 3.0


@dataclasses.dataclass(frozen=True)
class Views:
    """What is kept of a `RenderOutput`: the pictures, not the samples.

    Attributes:
        latents: [V, C, h, w].
        opacity: [V, 1, h, w] in [0, 1].
        depth: [V, 1, h, w] Σ w·distance, world units.
        normals: [V, 3, h, w] Σ w·normal in world coordinates, or None.
    """

    latents: Tensor
    opacity: Tensor
    depth: Tensor
    normals: Tensor | None = None

    @classmethod
    def of(cls, out: Any) -> Views:
        """From a `RenderOutput`."""
        return cls(out.latents.float(), out.opacity.float(), out.depth.float(), out.normals)

    def map(self, function: Callable[[Tensor], Tensor]) -> Views:
        """A function of one picture applied to each."""
        normals = None if self.normals is None else function(self.normals)
        return Views(function(self.latents), function(self.opacity), function(self.depth), normals)


@dataclasses.dataclass(frozen=True)
class DepthRange:
    """The distances between which depth is shown, in world units."""

    near: float
    far: float

    @classmethod
    def among(cls, views: Views, margin: float = 0.01) -> DepthRange:
        """The nearest and the farthest seen, leaving out a share of the pixels at either end, which may be specks."""
        seen = views.opacity > 0.5
        if not seen.any():
            return cls(0.0, math.inf)
        distances = (views.depth[seen] / views.opacity[seen]).sort().values
        cut = int(margin * len(distances))
        near, far = float(distances[cut]), float(distances[len(distances) - 1 - cut])
        return cls(near, max(far, near + 1e-3))


def render_views(
    scene: Scene,
    cameras: Cameras,
    size: int,
    *,
    normals: bool = False,
    shade: float = 0.5,
    greys: bool = True,
    rays: int = RAYS,
) -> Views:
    """`Scene.render` in bounded memory: not more than `rays` at once, a large view in tiles (but not before a texture).

    Args:
        scene: what to render.
        cameras: V of them.
        size: latents per side (refined: pixels), each of as many rays as in training.
        normals: whether to render normals too.
        shade: brightness of the background, 0 to 1.
        greys: whether that background stands behind the latents; where only depth, opacity and normals are looked at,
            encoding it would be for nothing.
        rays: how many are marched at once.
    """
    # Several rays make one latent of the embedded model.
    factor = 1 if scene.refined else scene.supersample
    # A texture is stretched over whatever is rendered, so that a tile would show all of it.
    whole = isinstance(scene.background, LearnedBackground)
    if whole or (size * factor) ** 2 <= rays:
        count = max(1, rays // (size * factor) ** 2)
        parts = [cameras[i : i + count] for i in range(0, len(cameras), count)]
        whole_views = [scene.render(x, size, normals=normals, shade=shade, greys=greys) for x in parts]
        return _concatenate([Views.of(x) for x in whole_views], 0)
    tile = math.ceil(size / math.ceil(size / max(1, math.isqrt(rays) // factor)))
    starts = range(0, size, tile)
    views = []
    for camera in cameras:
        rows = []
        for top in starts:
            row = []
            for left in starts:
                # A tile is a camera whose focal length and principal point are in units of the tile.
                corner = camera.centre.new_tensor([left, top])
                part = Cameras(camera.poses, camera.focal * size / tile, (camera.centre * size - corner) / tile)
                row.append(Views.of(scene.render(part, tile, normals=normals, greys=False)))
            rows.append(_concatenate(row, 3))
        views.append(_concatenate(rows, 2).map(lambda x: x[..., :size, :size]))
    found = _concatenate(views, 0)
    if not greys:
        return found
    # Encoded greys have borders, which belong to the whole view's.
    shades = torch.full((len(found.latents),), float(shade), device=found.latents.device)
    return dataclasses.replace(found, latents=scene.behind(found.latents, found.opacity, shades))


def colour(scene: Scene, views: Views, channel: str, span: DepthRange | None = None) -> Tensor:
    """One channel as pictures [V, 3, H, W], float32 in [0, 1].

    Args:
        scene: whose decoder `decoded` takes.
        views: what was rendered (with normals, if they are asked for).
        channel: one of `CHANNELS`: `latents` shows the first three, ±3 about grey (after the RGB refinement they
            are the colours themselves); `depth` is bright where it is near; `normals` has x as red, y as green, z as
            blue, in world coordinates. Depth, normals and opacity lie on black.
        span: of `depth`; by default what the views themselves show.
    """
    if channel == "decoded":
        return scene.decode(views.latents).float()
    if channel == "latents":
        if views.latents.shape[1] == 3:
            return views.latents.clamp(0, 1)
        shown = (views.latents[:, :3] / (2 * SPREAD) + 0.5).clamp(0, 1)
        return shown if shown.shape[1] == 3 else shown[:, :1].expand(-1, 3, -1, -1)
    opacity = views.opacity.clamp(0, 1)
    if channel == "opacity":
        return opacity.expand(-1, 3, -1, -1)
    if channel == "normals":
        if views.normals is None:
            raise ValueError("colour: normals: expected views rendered with normals=True")
        return (F.normalize(views.normals.float(), dim=1) * 0.5 + 0.5) * opacity
    span = span or DepthRange.among(views)
    distance = views.depth / opacity.clamp(min=1e-6)
    # From 1, the nearest, to 0.25: the farthest part of an object still stands out from the black behind it.
    nearness = 1 - 0.75 * ((distance - span.near) / (span.far - span.near)).clamp(0, 1)
    return _heat(nearness) * opacity


def render_frames(
    scene: Scene,
    cameras: Cameras,
    channels: Sequence[str] = ("decoded",),
    *,
    size: int | None = None,
    pixels: int | None = None,
    shade: float = 0.5,
) -> Iterator[Tensor]:
    """Views as pictures, one after another; several channels stand side by side.

    Args:
        scene: what to render.
        cameras: V of them.
        channels: some of `CHANNELS` (see `colour`); depth has one range for all views.
        size: latents per side. By default the scene's `display_size`, at least 64 for depth, opacity and normals, where
            normals are means over what a latent of the training shows (`FOOTPRINT`).
        pixels: height of the pictures; by default what the decoder makes, times a whole number that makes it 256.
        shade: brightness of the background behind decoded views, 0 to 1.

    Returns:
        An iterator over V pictures [3, pixels, len(channels)·pixels], float32 in [0, 1], on the CPU.

    Raises:
        UsageError: an unknown channel, or a value out of its range.
    """
    for name in channels or ["nothing"]:
        if name not in CHANNELS:
            raise UsageError(f"channels: expected some of {', '.join(CHANNELS)}; got {name}")
    for argument, value in (("size", size), ("pixels", pixels)):
        if value is not None and value < 1:
            raise UsageError(f"{argument}: expected at least 1, got {value}")
    if not 0 <= shade <= 1:
        raise UsageError(f"shade: expected a number from 0 to 1, got {shade:g}")
    return _frames(scene, cameras, tuple(channels), size, pixels, shade)


def _frames(
    scene: Scene, cameras: Cameras, channels: tuple[str, ...], size: int | None, pixels: int | None, shade: float
) -> Iterator[Tensor]:
    flat_size, solid_size = size or scene.display_size, size or solid_size_of(scene)
    solid = [name for name in channels if name in SOLID]
    flat = [name for name in channels if name not in SOLID]
    span = _depth_range(scene, cameras) if "depth" in solid else None
    count = max(1, LATENTS // flat_size**2 if flat else RAYS // solid_size**2)
    for start in range(0, len(cameras), count):
        part, pictures = cameras[start : start + count], {}
        if flat:
            views = render_views(scene, part, flat_size, shade=shade)
            pictures = {name: colour(scene, views, name) for name in flat}
        if pixels is None:
            native = pictures["decoded"].shape[2] if "decoded" in pictures else flat_size if flat else solid_size
            pixels = native * math.ceil(SMALLEST / native)
        pictures = {
            name: resize(x, pixels, "nearest" if name == "latents" else "bicubic") for name, x in pictures.items()
        }
        if solid:
            views = render_views(scene, part, solid_size, normals="normals" in solid, greys=False)
            if size is None:
                views = with_even_normals(scene, views)
            # Enlarged before they are coloured: colours in between two depths need not belong to one in between.
            views = views.map(functools.partial(resize, pixels=pixels))
            pictures.update({name: colour(scene, views, name, span) for name in solid})
        yield from torch.cat([pictures[name].cpu() for name in channels], dim=3).clamp(0, 1)


def solid_size_of(scene: Scene) -> int:
    """Rays per side of depth, opacity and normals where nothing else is said."""
    return max(SOLID_SIZE, scene.display_size)


def with_even_normals(scene: Scene, views: Views) -> Views:
    """Views whose normals are means over what a latent of the training shows; views without normals as they are."""
    # Refinement trains pixels, but the density comes from latents.
    latents, size = getattr(scene, "latent_size", scene.size), views.opacity.shape[-1]
    if views.normals is None or latents >= size:
        return views
    # What the gradient of a density does below is noise.
    return dataclasses.replace(views, normals=blurred(views.normals, FOOTPRINT * size / latents))


def blurred(pictures: Tensor, deviation: float) -> Tensor:
    """Pictures [V, C, H, W] under a Gaussian whose standard deviation is in pixels; borders go on as they are."""
    reach = math.ceil(3 * deviation)
    offsets = torch.arange(-reach, reach + 1, device=pictures.device, dtype=pictures.dtype)
    weights = (-0.5 * (offsets / deviation).square()).exp()
    weights = (weights / weights.sum()).view(1, 1, 1, -1)
    found = pictures.flatten(0, 1)[:, None]
    for kernel, border in ((weights, [reach, reach, 0, 0]), (weights.transpose(2, 3), [0, 0, reach, reach])):
        found = F.conv2d(F.pad(found, border, mode="replicate"), kernel)
    return found.view(pictures.shape)


def resize(pictures: Tensor, pixels: int, mode: str = "bicubic") -> Tensor:
    """Square pictures [V, C, h, w] as [V, C, pixels, pixels]."""
    if pictures.shape[2:] == (pixels, pixels):
        return pictures
    if mode == "nearest":
        return F.interpolate(pictures, size=(pixels, pixels), mode="nearest-exact")
    return F.interpolate(pictures, size=(pixels, pixels), mode=mode, antialias=True)


def _depth_range(scene: Scene, cameras: Cameras, views: int = 8, size: int = 32) -> DepthRange:
    chosen = torch.linspace(0, len(cameras) - 1, min(views, len(cameras))).round().long()
    return DepthRange.among(render_views(scene, cameras[chosen], size, greys=False))


def _heat(values: Tensor) -> Tensor:
    """Numbers [V, 1, H, W] in [0, 1] as colours [V, 3, H, W] from black through red to pale yellow."""
    import matplotlib

    table = torch.as_tensor(matplotlib.colormaps["inferno"].resampled(256)(range(256))[:, :3], dtype=torch.float32)
    index = (values[:, 0] * 255).round().long()
    return table.to(values.device)[index].permute(0, 3, 1, 2)


def _concatenate(views: Sequence[Views], dimension: int) -> Views:
    def joined(name: str) -> Tensor:
        return torch.cat([getattr(view, name) for view in views], dimension)

    normals = None if views[0].normals is None else joined("normals")
    return Views(joined("latents"), joined("opacity"), joined("depth"), normals)

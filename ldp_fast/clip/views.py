"""Text2LIVE's views of a picture: the whole and random crops, flipped, warped and jittered as torchvision does it.

    views = text2live_views(images, short_side=224, longest=320, count=16, numbers=(seed, step))

What is drawn, is drawn on the images' device from the numbers alone, and the host never waits for it. So a view that is
not warped or jittered costs as much as one that is: which one it is, only the device knows.

Source: omerbt/Text2LIVE, `models/clip_extractor.py` (Bar-Tal et al. 2022); the distributions are those of torchvision's
RandomHorizontalFlip, RandomAffine, RandomPerspective, ColorJitter and RandomGrayscale. What differs: the order in which
a step jitters brightness, contrast, saturation and hue is drawn once for all its views; at the rim of a warped view the
fill is blended in once (torchvision multiplies the picture by its coverage twice); and crops are resized with
antialiasing. On a GPU the gradient of a warp adds up in no fixed order, so that its last bits vary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .augment import apply_matrices, check_counts, resize_matrix, seed_sequence, step_generator

CROP = (0.6, 1.0)  # share of each side
FLIP = 0.5
AFFINE, DEGREES, SHIFT = 0.8, 15.0, 0.1
PERSPECTIVE, DISTORTION = 0.5, 0.4
JITTER, AMOUNT = 0.7, 0.1
GREY = 0.15
FILL = 1.0
JITTERS = ("brightness", "contrast", "saturation", "hue")


@dataclasses.dataclass(frozen=True)
class Draws:
    """What N views were drawn, on the device; shares and probabilities are the source's.

    Attributes:
        top, left, height, width: of the crops in pixels, [N].
        flip, warp, tilt, jitter, grey: whether a view is flipped, affinely warped, tilted in perspective, jittered,
            grey; [N] bool.
        angle: of the rotation in radians, clockwise, [N].
        shift: of the picture in pixels to the right and down, [N, 2].
        corners: how far each corner moves inwards in pixels, in the order top left, top right, bottom right, bottom
            left, x and y, [N, 4, 2].
        factors: of brightness, contrast, saturation, and turns of the hue, [4, N].
        order: in which those four are applied; of all views.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    warp: Tensor
    tilt: Tensor
    jitter: Tensor
    grey: Tensor
    angle: Tensor
    shift: Tensor
    corners: Tensor
    factors: Tensor
    order: tuple[str, ...]


def view_size(height: int, width: int, short_side: int, longest: int) -> tuple[int, int]:
    """Height and width with `short_side` as the shorter one, or less where the longer would exceed `longest`."""
    short, long = sorted((height, width))
    new_short, new_long = short_side, int(short_side * long / short)
    if new_long > longest:
        new_short, new_long = max(1, int(longest * new_short / new_long)), longest
    return (new_short, new_long) if height <= width else (new_long, new_short)


def draw(
    size: Sequence[int], view: Sequence[int], count: int, batch: int, numbers: Sequence[int], device: torch.device
) -> Draws:
    """Draws `count` views of each of `batch` pictures, the first of each the whole picture.

    Args:
        size: height and width of the pictures.
        view: height and width of the views.
        count, batch: rows are v·batch + b for view v of picture b.
        numbers: what the draws come from, such as (seed, step).
        device: where they are drawn.
    """
    generator, rows = step_generator(device, *numbers), count * batch

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, device=device)

    def chance(probability: float) -> Tensor:
        return torch.rand(rows, generator=generator, device=device) < probability

    whole = torch.arange(rows, device=device) < batch
    share = uniform(*CROP, rows)
    crop = []
    for side in size:
        length = torch.where(whole, side, (side * share).floor().clamp(min=1))
        room = side - length
        crop += [(uniform(0, 1, rows) * (room + 1)).floor().minimum(room), length]
    # The images' own side in each direction: whole pixels, as in torchvision.
    sides = torch.stack([torch.full((1,), float(side), device=device) for side in reversed(view)], -1)
    inward = (DISTORTION * (sides // 2)).floor()
    return Draws(
        top=crop[0],
        height=crop[1],
        left=crop[2],
        width=crop[3],
        flip=chance(FLIP),
        warp=chance(AFFINE),
        tilt=chance(PERSPECTIVE),
        jitter=chance(JITTER),
        grey=chance(GREY),
        angle=uniform(-DEGREES, DEGREES, rows).deg2rad(),
        shift=(uniform(-SHIFT, SHIFT, rows, 2) * sides).round(),
        corners=(uniform(0, 1, rows, 4, 2) * (inward + 1)).floor().minimum(inward),
        factors=torch.cat([uniform(1 - AMOUNT, 1 + AMOUNT, 3, rows), uniform(-AMOUNT, AMOUNT, 1, rows)]),
        order=tuple(JITTERS[i] for i in np.random.default_rng(seed_sequence(*numbers)).permutation(4)),
    )


def text2live_views(
    images: Tensor, *, short_side: int, longest: int, count: int, numbers: Sequence[int], antialias: bool = True
) -> Tensor:
    """Text2LIVE's views of pictures in [0, 1].

    Args:
        images: [B, 3, H, W], floating; gradients flow into them.
        short_side: pixels of a view's shorter side (the source: 224, CLIP's).
        longest: pixels that a view's longer side has at most (the source: 320).
        count: views of each picture (the source: 16); the first of them is of the whole, the others of crops that cover
            .6 to 1 of each side, all of one size.
        numbers: what is drawn from, such as (seed, step), each at least 0.
        antialias: of the resizing; the source's torchvision had none.

    Returns:
        [count·B, 3, h, w], row v·B + b the v-th view of picture b.

    Raises:
        UsageError: pictures of another shape, or a number below 1.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or not images.numel():
        raise UsageError(f"images: expected floating-point [B, 3, H, W], got {images.dtype} {list(images.shape)}")
    check_counts(short_side=short_side, longest=longest, count=count)
    batch, size = len(images), images.shape[-2:]
    view = view_size(size[0], size[1], short_side, longest)
    return apply_draws(images, draw(size, view, count, batch, numbers, images.device), view, antialias=antialias)


def apply_draws(images: Tensor, draws: Draws, view: Sequence[int], *, antialias: bool = True) -> Tensor:
    """Makes the views that were drawn: crop, flip, affine warp, perspective, jitter, grey.

    Args:
        images: [B, 3, H, W].
        draws: of V·B views.
        view: height and width of a view.
        antialias: of the crops' resizing.
    """
    height, width = images.shape[-2:]
    rows = resize_matrix(draws.top, draws.height, height, view[0], antialias=antialias)
    columns = resize_matrix(draws.left, draws.width, width, view[1], antialias=antialias)
    columns = torch.where(_each(draws.flip, 3), columns.flip(1), columns)
    x = apply_matrices(images, *(matrix.unflatten(0, (-1, len(images))) for matrix in (rows, columns)))
    x = torch.where(_each(draws.warp, 4), affine(x, draws.angle, draws.shift), x)
    x = torch.where(_each(draws.tilt, 4), perspective(x, draws.corners), x)
    jittered = x
    for name in draws.order:
        jittered = _ADJUST[name](jittered, _each(draws.factors[JITTERS.index(name)].to(x.dtype), 4))
    x = torch.where(_each(draws.jitter, 4), jittered, x)
    return torch.where(_each(draws.grey, 4), grey(x), x)


def affine(images: Tensor, angle: Tensor, shift: Tensor, fill: float = FILL) -> Tensor:
    """Rotates clockwise about the middle by `angle` [N] radians, then shifts by `shift` [N, 2] pixels (x, y)."""
    x, y = _pixels(images)
    middle = _sides(images) / 2
    offset = torch.stack([x, y], -1) - middle - shift.to(x.dtype)[:, None, None]
    cosine, sine = (_each(f(angle.to(x.dtype)), 3) for f in (torch.cos, torch.sin))
    found = torch.stack(
        [cosine * offset[..., 0] + sine * offset[..., 1], cosine * offset[..., 1] - sine * offset[..., 0]], -1
    )
    return _sample(images, found / middle, fill)


def perspective(images: Tensor, corners: Tensor, fill: float = FILL) -> Tensor:
    """Moves the four corners inwards by `corners` [N, 4, 2] pixels (x, y), and everything else with them."""
    x, y = _pixels(images)
    sides = _sides(images)
    # In units of the picture from its first to its last pixel, as torchvision counts.
    unit = corners.to(x.dtype) / (sides - 1).clamp(min=1)
    signs = torch.stack([_of(x, 1, -1, -1, 1), _of(x, 1, 1, -1, -1)], -1)
    square = torch.stack([_of(x, 0, 1, 1, 0), _of(x, 0, 0, 1, 1)], -1)
    back = _adjugate(_to_quadrilateral(square + signs * unit))
    place = torch.stack([x / (sides[0] - 1).clamp(min=1), y / (sides[1] - 1).clamp(min=1), torch.ones_like(x)], -1)
    with torch.autocast(images.device.type, enabled=False):
        found = torch.einsum("nij,hwj->nhwi", back, place)
    found = found[..., :2] / found[..., 2:] * (sides - 1).clamp(min=1)
    return _sample(images, 2 * found / sides - 1, fill)


def grey(images: Tensor) -> Tensor:
    """Luma (.2989, .587, .114) in all three channels, [N, 3, H, W]."""
    return _luma(images).expand_as(images)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """factor·image, clamped to [0, 1]; `factor` broadcasts."""
    return (factor * images).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """factor·image + (1 − factor)·mean luma of the image, clamped to [0, 1]."""
    return (factor * images + (1 - factor) * _luma(images).mean((-2, -1), keepdim=True)).clamp(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """factor·image + (1 − factor)·luma, clamped to [0, 1]."""
    return (factor * images + (1 - factor) * _luma(images)).clamp(0, 1)


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turns HSV's hue by a share of the circle; what is grey stays so, and its gradient is finite."""
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    value, chroma = images.amax(1, keepdim=True), images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    sextant = torch.where(
        red == value,
        (green - blue) / safe,
        torch.where(green == value, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    channels = []
    for k in (5, 3, 1):
        place = (k + sextant + 6 * turns) % 6
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.cat(channels, 1)


_ADJUST = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}


def _luma(images: Tensor) -> Tensor:
    return 0.2989 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]


def _each(values: Tensor, dimensions: int) -> Tensor:
    """One value a view, [N], to be multiplied with something of so many dimensions."""
    return values.view(-1, *[1] * (dimensions - 1))


def _of(like: Tensor, *values: float) -> Tensor:
    # Filled on the device: a tensor made from a list would be copied there, and the host would wait for it.
    return torch.stack([like.new_full((), value) for value in values])


def _sides(images: Tensor) -> Tensor:
    """Width and height, [2]."""
    return _of(images, images.shape[-1], images.shape[-2])


def _pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    """Middles of the pixels, x and y, each [H, W]."""
    y, x = (torch.arange(side, device=images.device, dtype=images.dtype) + 0.5 for side in images.shape[-2:])
    return x.expand(len(y), -1), y[:, None].expand(-1, len(x))


def _sample(images: Tensor, grid: Tensor, fill: float) -> Tensor:
    return F.grid_sample(images - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + fill


def _to_quadrilateral(corners: Tensor) -> Tensor:
    """The projective map that takes the unit square's corners to `corners`: [N, 4, 2] -> [N, 3, 3].

    In closed form (Heckbert 1989, Fundamentals of Texture Mapping and Image Warping, §2.2.3): a solver would look at
    the device's result.
    """
    first, second, third, fourth = corners.unbind(1)
    right, down, bend = second - third, fourth - third, first - second + third - fourth
    denominator = right[:, 0] * down[:, 1] - down[:, 0] * right[:, 1]
    g = (bend[:, 0] * down[:, 1] - down[:, 0] * bend[:, 1]) / denominator
    h = (right[:, 0] * bend[:, 1] - bend[:, 0] * right[:, 1]) / denominator
    columns = [second - first + g[:, None] * second, fourth - first + h[:, None] * fourth, first]
    bottom = torch.stack([g, h, torch.ones_like(g)], -1)
    return torch.cat([torch.stack(columns, -1), bottom[:, None]], 1)


def _adjugate(matrix: Tensor) -> Tensor:
    """The inverse of [N, 3, 3] up to a factor, which a projective map does not have."""
    a, b, c = matrix.unbind(1)
    return torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1)

"""What CLIP is shown in a picture's place: DreamFields' random crops and its three backgrounds.

    generator = step_generator(images.device, seed, step)
    views = dream_fields(images, size=224, crop=154, views=8, generator=generator)

Everything is drawn on the images' device, from (seed, step) alone, and the host never waits for it: where a crop lies
is known to the device only, so crops are taken by products with interpolation matrices and not by slices. The gradient
of a crop is that of matrix products, which add up in the same order every time. What comes after need not: on a GPU,
those of an antialiased bicubic resizing (`Clip`, of pictures of another size) and of fused attention do not.

Source: google-research, `dreamfields/dreamfields/augment.py` and `optvis.py` (Jain et al. 2022, Zero-Shot Text-Guided
Object Generation with Dream Fields); the 1/f noise is Lucid's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError

KINDS = ("noise", "checkerboard", "1/f")
BLUR = (0.0, 10.0)
BLUR_KERNEL = 15

# The first number of every seed here: what draws for another purpose from the same numbers does not draw the same.
_PURPOSE = 0xC11F

# Lucid's square root of the covariance of ImageNet's colours; columns are the decorrelated axes, light first.
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


def seed_sequence(*numbers: int) -> np.random.SeedSequence:
    """A seed from whole numbers of at least 0 and any size, another one for other numbers or another count of them."""
    # numpy takes numbers apart into words of 32 bits and leaves out zeros at the end: (1, 2), (1, 2, 0) would be alike.
    words = [_PURPOSE, len(numbers)]
    for number in numbers:
        each = [number >> shift & 0xFFFFFFFF for shift in range(0, max(1, number.bit_length()), 32)]
        words += [len(each), *each]
    return np.random.SeedSequence(words)


def step_generator(device: torch.device | str, *numbers: int) -> torch.Generator:
    """A generator on `device` for one step, such as `step_generator(device, seed, step)`.

    The numbers, each at least 0, are mixed, so that neighbouring steps share nothing, nor does this with what an
    application draws from the same numbers elsewhere. The same numbers draw the same on the same kind of device; a CPU
    and a GPU draw different ones.
    """
    mixed = seed_sequence(*numbers).generate_state(1, np.uint32)[0]
    return torch.Generator(device).manual_seed(int(mixed))


def resize_matrix(start: Tensor, length: Tensor, size: int, out: int, *, antialias: bool = True) -> Tensor:
    """Bilinear weights that take `length` pixels from `start` on, of `size`, to `out` pixels.

    Args:
        start: first pixel of each crop, [N].
        length: pixels of each crop, [N]; start + length ≤ size.
        size: pixels that there are.
        out: pixels wanted.
        antialias: whether the filter grows where pixels are merged, as `F.interpolate(antialias=True)` has it. Where
            there are more pixels wanted than there are, both are the same.

    Returns:
        [N, out, size] float64, rows that sum to 1. What lies outside of the crop has no weight.
    """
    start, length = start[:, None, None].double(), length[:, None, None].double()
    scale = length / out
    centres = start + (torch.arange(out, device=start.device, dtype=torch.float64)[:, None] + 0.5) * scale
    pixels = torch.arange(size, device=start.device, dtype=torch.float64) + 0.5
    support = scale.clamp(min=1.0) if antialias else torch.ones_like(scale)
    weights = (1 - (pixels - centres).abs() / support).clamp(min=0)
    weights = weights * ((pixels > start) & (pixels < start + length))
    return weights / weights.sum(-1, keepdim=True)


def apply_matrices(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Crops of images by matrices of `resize_matrix`.

    Args:
        images: [B, C, H, W].
        rows: [V, B, h, H].
        columns: [V, B, w, W].

    Returns:
        [V·B, C, h, w], row v·B + b the v-th crop of image b; in float32, or float64 for float64 images.
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    images, rows, columns = (x.to(dtype) for x in (images, rows, columns))
    views, batch, high, _ = rows.shape
    # One product an image for all of its views, so that the image is not copied for each of them.
    with torch.autocast(images.device.type, enabled=False):
        stacked = rows.transpose(0, 1).reshape(batch, 1, views * high, -1) @ images
        cropped = stacked.unflatten(2, (views, high)).permute(2, 0, 1, 3, 4) @ columns.transpose(-1, -2)[:, :, None]
    return cropped.flatten(0, 1)


def resized(images: Tensor, size: int) -> Tensor:
    """Whole images as squares, bilinear with antialiasing: [B, C, H, W] -> [B, C, size, size]."""
    matrices = []
    for side in images.shape[-2:]:
        start = torch.zeros(len(images), device=images.device)
        matrices.append(resize_matrix(start, torch.full_like(start, side), side, size)[None])
    return apply_matrices(images, *matrices)


def random_crops(images: Tensor, crop: int, size: int, views: int, generator: torch.Generator) -> Tensor:
    """Square crops at random places, brought to `size` bilinearly.

    Args:
        images: [B, C, H, W], floating; its gradient is that of the crops.
        crop: side of a crop in pixels, at most H and W.
        size: side of what is returned.
        views: crops of each image, each of them somewhere else.
        generator: on the images' device.

    Returns:
        [views·B, C, size, size], row v·B + b the v-th crop of image b. As in the source the first pixel is one of
        0 … H − crop − 1 (0 where crop = H): the crop at the far edge is never taken.

    Raises:
        UsageError: a crop larger than the images, or a number below 1.
    """
    _check_images(images)
    check_counts(crop=crop, size=size, views=views)
    batch, _, height, width = images.shape
    if crop > min(height, width):
        raise UsageError(f"crop: expected at most {min(height, width)}, the images' shorter side; got {crop}")
    matrices = []
    for side in (height, width):
        start = torch.randint(max(1, side - crop), (views * batch,), generator=generator, device=images.device)
        matrix = resize_matrix(start, torch.full_like(start, crop), side, size)
        matrices.append(matrix.unflatten(0, (views, batch)))
    return apply_matrices(images, *matrices)


def uniform_noise(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Every value for itself uniform in [0, 1), [count, 3, size, size]."""
    return torch.rand(count, 3, size, size, generator=generator, device=generator.device)


def checkerboard(count: int, size: int, generator: torch.Generator, squares: int = 8) -> Tensor:
    """`squares`² fields in two uniform colours a picture, [count, 3, size, size]; `size` need not be a multiple."""
    colours = torch.rand(2, count, 3, 1, 1, generator=generator, device=generator.device)
    fields = torch.arange(size, device=generator.device) * squares // size
    return torch.where((fields[:, None] + fields) % 2 == 0, colours[0], colours[1])


def pink_noise(count: int, size: int, generator: torch.Generator, deviation: float = 0.2, decay: float = 1.5) -> Tensor:
    """1/f noise in ImageNet's correlations of colours, [count, 3, size, size] in (0, 1).

    The spectrum is complex normal noise times `deviation` · size / f^`decay`, f in cycles a pixel and at least 1/size;
    its inverse transform over 4 is taken from decorrelated colours to RGB and through a sigmoid.
    """
    device = generator.device
    down, across = torch.fft.fftfreq(size, device=device)[:, None], torch.fft.rfftfreq(size, device=device)
    frequency = (down.square() + across.square()).sqrt().clamp(min=1 / size)
    parts = torch.randn(2, count, 3, *frequency.shape, generator=generator, device=device)
    spectrum = torch.complex(*(deviation * size * parts / frequency**decay))
    flat = torch.fft.irfft2(spectrum, s=(size, size)) / 4
    mixing = torch.cat([_row(values, device) for values in _COLOURS])
    mixing = mixing / mixing.norm(dim=0).max()
    with torch.autocast(device.type, enabled=False):
        return torch.einsum("rc,bchw->brhw", mixing, flat).sigmoid()


def gaussian_blur(images: Tensor, deviation: Tensor, kernel: int = BLUR_KERNEL) -> Tensor:
    """Blurs each image by a Gaussian of its own, with a kernel of `kernel` × `kernel` pixels.

    Beyond the edge there is black, as in the source (dm_pix pads with zeros): a wide blur darkens the rim.

    Args:
        images: [B, C, H, W].
        deviation: in pixels, [B]; 0 leaves the image as it is.
        kernel: pixels of the kernel, odd.
    """
    reach = torch.arange(kernel, device=images.device) - kernel // 2
    weights = torch.exp(-0.5 * (reach / deviation.clamp(min=1e-3)[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).to(images.dtype).repeat_interleave(images.shape[1], 0)
    planes, half = images.flatten(0, 1)[None], kernel // 2
    with torch.autocast(images.device.type, enabled=False):
        planes = F.conv2d(planes, weights[:, None, :, None], padding=(half, 0), groups=len(weights))
        planes = F.conv2d(planes, weights[:, None, None, :], padding=(0, half), groups=len(weights))
    return planes[0].unflatten(0, images.shape[:2])


_MAKERS: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "noise": uniform_noise,
    "checkerboard": checkerboard,
    "1/f": pink_noise,
}


def backgrounds(
    count: int,
    size: int,
    generator: torch.Generator,
    *,
    kinds: Sequence[str] = KINDS,
    blur: tuple[float, float] | None = BLUR,
) -> Tensor:
    """Random backgrounds, each of one kind drawn for it alone and blurred by an amount drawn for it alone.

    Args:
        count: how many.
        size: their side in pixels.
        generator: on the device where they are wanted.
        kinds: of `KINDS`, equally likely (the source: .333, .333, .334).
        blur: range of the Gaussian's standard deviation in pixels; None does not blur.

    Returns:
        [count, 3, size, size] in [0, 1], float32.

    Raises:
        UsageError: no kind, or an unknown one; a range of blurs that is not from low to high, or begins below 0.
    """
    check_counts(count=count, size=size)
    check_blur(blur)
    if not kinds or not {*kinds} <= {*KINDS}:
        raise UsageError(f"kinds: expected one or more of {', '.join(KINDS)}; got {list(kinds)}")
    # Which kind a picture has is known to the device only, so all are made, as in the source.
    made = torch.stack([_MAKERS[kind](count, size, generator) for kind in kinds])
    picked = torch.randint(len(kinds), (count,), generator=generator, device=generator.device)
    chosen = made[picked, torch.arange(count, device=generator.device)]
    if blur is None:
        return chosen
    low, high = blur
    return gaussian_blur(chosen, low + (high - low) * torch.rand(count, generator=generator, device=generator.device))


def over(colour: Tensor, opacity: Tensor, background: Tensor, *, premultiplied: bool = False) -> Tensor:
    """colour·α + background·(1 − α); with `premultiplied` colour + background·(1 − α).

    DreamFields has colours on black, which are multiplied by α already, and multiplies by α again: that is the former.

    Args:
        colour: [B, 3, H, W].
        opacity: α, [B, 1, H, W].
        background: [B, 3, H, W].
        premultiplied: whether colours are multiplied by α already, and shall not be again.
    """
    return (colour if premultiplied else colour * opacity) + background * (1 - opacity)


def dream_fields(
    images: Tensor,
    size: int,
    crop: int | None,
    views: int,
    generator: torch.Generator,
    *,
    kinds: Sequence[str] = KINDS,
    blur: tuple[float, float] | None = BLUR,
    premultiplied: bool = False,
) -> Tensor:
    """DreamFields' views of renderings: random crops, each over a random background of its own.

    Args:
        images: [B, 4, H, W] in [0, 1], the last channel opacity, which have a background drawn; or [B, 3, H, W], which
            have none.
        size: side of the views, CLIP's.
        crop: side of a crop in pixels; None takes the whole image, which is resized.
        views: of each image; the source takes 8.
        generator: on the images' device, see `step_generator`.
        kinds, blur: of the backgrounds, see `backgrounds`.
        premultiplied: see `over`.

    Returns:
        [views·B, 3, size, size], row v·B + b the v-th view of image b.

    Raises:
        UsageError: images of another shape, a crop larger than they are, an unknown kind of background.
    """
    _check_images(images)
    if images.shape[1] not in (3, 4):
        raise UsageError(f"images: expected [B, 3, H, W], or [B, 4, H, W] with opacity; got {list(images.shape)}")
    check_counts(size=size, views=views)
    if crop is not None:
        cropped = random_crops(images, crop, size, views, generator)
    else:
        cropped = resized(images, size).repeat(views, 1, 1, 1)
    if images.shape[1] == 3:
        return cropped
    behind = backgrounds(len(cropped), size, generator, kinds=kinds, blur=blur).to(cropped.dtype)
    return over(cropped[:, :3], cropped[:, 3:], behind, premultiplied=premultiplied)


def _row(values: Sequence[float], device: torch.device) -> Tensor:
    # Filled on the device: a tensor made from a list would be copied there, and the host would wait for it.
    return torch.cat([torch.full((1,), value, device=device) for value in values])[None]


def check_blur(blur: tuple[float, float] | None) -> None:
    """Refuses what is not a range of standard deviations.

    Raises:
        UsageError: not two finite numbers, 0 ≤ low ≤ high.
    """
    if blur is None:
        return
    numbers = isinstance(blur, tuple | list) and len(blur) == 2 and all(isinstance(x, int | float) for x in blur)
    if not numbers or not 0 <= blur[0] <= blur[1] < float("inf"):
        raise UsageError(f"blur: expected None, or two numbers with 0 ≤ low ≤ high; got {blur!r}")


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or not images.numel():
        found = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"images: expected a floating-point tensor [B, C, H, W] with at least one image; got {found}")


def check_counts(**numbers: int) -> None:
    """Refuses, by name, what is not a whole number of at least 1."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise UsageError(f"{name}: expected a whole number of at least 1; got {number!r}")

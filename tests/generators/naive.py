"""StyleGAN2 once more, in NumPy and float64, by the definitions: zeros inserted, kernels laid on one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ldp_fast.generators import Settings, StyleGAN2

Array = NDArray[np.float64]


def weights_of(generator: StyleGAN2) -> dict[str, Array]:
    """The state of a generator, in float64."""
    return {name: x.double().numpy() for name, x in generator.state_dict().items()}


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.2 * x) * np.sqrt(2)


def mapped(weights: Mapping[str, Array], s: Settings, z: Array, truncation: float) -> Array:
    """z [B, Z] → w [B, W]."""
    x = z / np.sqrt((z**2).mean(1, keepdims=True) + 1e-8)
    for layer in range(s.mapping_layers):
        weight, bias = weights[f"style.fc.{layer}.weight"], weights[f"style.fc.{layer}.bias"]
        multiplier = s.mapping_multiplier
        x = leaky(x @ (weight * multiplier / np.sqrt(weight.shape[1])).T + bias * multiplier)
    mean = weights["w_mean"]
    return mean + truncation * (x - mean)


def correlated(x: Array, kernel: Array) -> Array:
    """x [I, H, V] under a kernel [O, I, k, k], where all of it lies on x."""
    k = kernel.shape[-1]
    rows, columns = x.shape[1] - k + 1, x.shape[2] - k + 1
    out = np.zeros((len(kernel), rows, columns))
    for row in range(rows):
        for column in range(columns):
            out[:, row, column] = (kernel * x[:, row : row + k, column : column + k]).sum((1, 2, 3))
    return out


def with_zeros(x: Array) -> Array:
    """[C, H, V] → [C, 2H, 2V], a zero behind each value."""
    out = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2]))
    out[:, ::2, ::2] = x
    return out


def padded(x: Array, before: int, after: int) -> Array:
    return np.pad(x, ((0, 0), (before, after), (before, after)))


def filtered(x: Array) -> Array:
    """Each channel under [1, 3, 3, 1] along both axes, with a gain of 4."""
    line = np.array([1.0, 3.0, 3.0, 1.0])
    kernel = np.outer(line, line) / 64 * 4
    return np.concatenate([correlated(channel[None], kernel[None, None]) for channel in x])


def convolved(
    weights: Mapping[str, Array], name: str, x: Array, w: Array, demodulate: bool = True, up: bool = False
) -> Array:
    """The modulated convolution of a layer, of one sample [I, H, V] by its w [W]."""
    weight, affine = weights[f"{name}.weight"], weights[f"{name}.modulation.weight"]
    style = affine @ w / np.sqrt(affine.shape[1]) + weights[f"{name}.modulation.bias"]
    weight = weight / np.sqrt(weight[0].size) * style[None, :, None, None]
    if demodulate:
        weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
    if not up:
        return correlated(padded(x, weight.shape[-1] // 2, weight.shape[-1] // 2), weight)
    # A transposed convolution turns the kernel by half a turn; its last row and column of zeros is not needed.
    return filtered(padded(correlated(padded(with_zeros(x), 2, 1), weight[:, :, ::-1, ::-1]), 1, 1))


def synthesised(weights: Mapping[str, Array], s: Settings, w: Array, noises: Sequence[Array] | None = None) -> Array:
    """w [L, W] of one sample → [3, R, R]."""
    names = ["conv1", *(f"convs.{index}" for index in range(2 * (len(s.channels) - 1)))]
    if noises is None:
        noises = [weights[f"{name}.noise"] for name in names]

    def clamped(x: Array) -> Array:
        return x if s.clamp is None else np.clip(x, -s.clamp, s.clamp)

    x, image = weights["constant"], None
    for index, name in enumerate(names):
        x = convolved(weights, name, x, w[index], up=index % 2 == 1)
        x = x + weights[f"{name}.noise_strength"] * noises[index] + weights[f"{name}.bias"][:, None, None]
        x = clamped(leaky(x))
        if index % 2 == 0:
            rgb = "to_rgb1" if index == 0 else f"to_rgbs.{index // 2 - 1}"
            colour = convolved(weights, rgb, x, w[index + 1], demodulate=False)
            colour = clamped(colour + weights[f"{rgb}.bias"][:, None, None])
            image = colour if image is None else colour + filtered(padded(with_zeros(image), 2, 1))
    assert image is not None
    return image

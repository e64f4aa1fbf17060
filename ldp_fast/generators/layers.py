"""The layers of StyleGAN2 (Karras et al. 2020, Analyzing and improving the image quality of StyleGAN).

Letters: B samples, I and O channels, W numbers of a w, H and V rows and columns. Weights are kept as they were drawn,
N(0, 1) over the layer's multiplier, and scaled where they are used (equalised learning rates, Karras et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = math.sqrt(2)  # of leaky ReLU, which keeps the variance
SLOPE = 0.2
EPSILON = 1e-8
FIR = (1.0, 3.0, 3.0, 1.0)
HALF = (torch.float16, torch.bfloat16)


def at_least_float32(x: Tensor) -> Tensor:
    """Numbers of half precision as float32; others as they are."""
    return x.float() if x.dtype in HALF else x


def activated(x: Tensor) -> Tensor:
    """√2 · leaky ReLU with a slope of 0.2."""
    return F.leaky_relu(x, SLOPE) * GAIN


def normalised(z: Tensor) -> Tensor:
    """z [B, Z] over its root mean square."""
    return z * (z.square().mean(1, keepdim=True) + EPSILON).rsqrt()


class EqualLinear(nn.Module):
    """x [B, I] → [B, O] with an equalised learning rate.

    Args:
        inputs: I.
        outputs: O.
        bias: what its bias is at the start.
        multiplier: of its learning rate, by which both are multiplied where they are used.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, multiplier: float = 1.0):
        super().__init__()
        self.multiplier, self.gain = multiplier, multiplier / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias / multiplier))

    def forward(self, x: Tensor) -> Tensor:
        """See the class; in the dtype of x."""
        return F.linear(x, self.weight.to(x.dtype) * self.gain, self.bias.to(x.dtype) * self.multiplier)


class Resample(nn.Module):
    """The filter [1, 3, 3, 1] along both axes."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor(FIR)
        self.register_buffer("kernel", torch.outer(line, line) / line.sum() ** 2, persistent=False)

    def doubled(self, x: Tensor) -> Tensor:
        """x [B, C, H, V] → [B, C, 2H, 2V]: zeros between its values, and the filter with a gain of 4."""
        weight = (self.kernel * 4).to(x.dtype).expand(x.shape[1], 1, 4, 4)
        return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])

    def smoothed(self, x: Tensor) -> Tensor:
        """x [B, C, 2H + 1, 2V + 1], of an upsampling convolution, → [B, C, 2H, 2V], with a gain of 4."""
        weight = (self.kernel * 4).to(x.dtype).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, weight, padding=1, groups=x.shape[1])


def demodulation(weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """What normalises a weight that a style scales: 1 / √(Σ (weight · style)² + 1e-8) for each output.

    In the precision of both, under autocast as well: half precision would round squares, or overflow.

    Args:
        weight: [O, I, k, k] float32, scaled.
        style: [B, I] float32.

    Returns:
        The style over its largest absolute value, and the norms' reciprocals [B, O] for that one. Half precision so
        does not overflow where it is multiplied by the style, and the factor cancels in what comes out.
    """
    with torch.autocast(weight.device.type, enabled=False):
        largest = style.detach().abs().amax(1, keepdim=True).clamp_min(1e-12)
        style = style / largest
        squares = style.square() @ weight.square().sum((2, 3)).t()
        return style, (squares + EPSILON / largest.square()).rsqrt()


def modulated(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool, up: bool = False, grouped: bool = False
) -> Tensor:
    """A convolution whose weight each sample scales by its own style, and normalises.

    weight′ = weight · style over its input channels; demodulated, weight′ / √(Σ weight′² + 1e-8) for each output.
    Multiplying x by the style before and the result by that root after, with one convolution for all samples, is the
    same and what is done by default. `grouped` makes B weights, and one convolution of B groups.

    Args:
        x: [B, I, H, V].
        weight: [O, I, k, k] float32, scaled.
        style: [B, I] float32.
        demodulate: whether to normalise.
        up: transposed with a stride of 2, without padding: [B, O, 2H + 1, 2V + 1] for k = 3.
        grouped: see above.
    """
    scale = None
    if demodulate:
        style, scale = demodulation(weight, style)
    convolve: Callable[..., Tensor] = F.conv_transpose2d if up else F.conv2d
    how = {"stride": 2} if up else {"padding": weight.shape[-1] // 2}
    b, (o, i, k, _) = len(x), weight.shape
    if not grouped:
        shared = (weight.transpose(0, 1) if up else weight).to(x.dtype)
        out = convolve(x * style.to(x.dtype)[:, :, None, None], shared, **how)
        if scale is None:
            return out
        # Of an output whose weights are 0 it may be beyond half precision, and 0 times infinity is not 0.
        return out * scale.clamp_max(torch.finfo(out.dtype).max).to(out.dtype)[:, :, None, None]
    own = weight[None] * style[:, None, :, None, None]
    if scale is not None:
        own = own * scale[:, :, None, None, None]
    own = own.transpose(1, 2).reshape(b * i, o, k, k) if up else own.reshape(b * o, i, k, k)
    out = convolve(x.reshape(1, b * i, *x.shape[2:]), own.to(x.dtype), groups=b, **how)
    return out.reshape(b, o, *out.shape[2:])


class Modulated(nn.Module):
    """What a styled convolution and a ToRGB share: a weight, and the style that a w makes.

    Args:
        inputs, outputs: channels.
        kernel: its side.
        w_dim: W.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, w_dim: int):
        super().__init__()
        self.gain = 1 / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(w_dim, inputs, bias=1.0)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def convolved(self, x: Tensor, w: Tensor, *, demodulate: bool, up: bool = False, grouped: bool = False) -> Tensor:
        """x [B, I, H, V] by w [B, W]; styles and norms are computed without autocast."""
        with torch.autocast(x.device.type, enabled=False):
            # The least style and 1e-8 are 0 in half precision.
            weight = at_least_float32(self.weight) * self.gain
            style = self.modulation(w.to(weight.dtype))
        return modulated(x, weight, style, demodulate=demodulate, up=up, grouped=grouped)


class StyledConv(Modulated):
    """Modulated 3×3 convolution, noise, bias, leaky ReLU.

    Args:
        inputs, outputs: channels.
        resolution: of what comes out; its noise has as many rows and columns.
        w_dim: W.
        up: whether it doubles rows and columns.
        clamp: largest absolute value that comes out; None: any.
    """

    noise: Tensor

    def __init__(self, inputs: int, outputs: int, resolution: int, w_dim: int, *, up: bool, clamp: float | None):
        super().__init__(inputs, outputs, 3, w_dim)
        self.up, self.clamp = up, clamp
        self.resample = Resample() if up else None
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor, grouped: bool = False) -> Tensor:
        """x [B, I, H, V] by w [B, W], with noise [B or 1, 1, rows, columns]."""
        x = self.convolved(x, w, demodulate=True, up=self.up, grouped=grouped)
        if self.resample is not None:
            x = self.resample.smoothed(x)
        added = noise * self.noise_strength + self.bias[:, None, None]
        x = activated(x + added.to(x.dtype))
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class ToRGB(Modulated):
    """Modulated 1×1 convolution to colours, without demodulation.

    Args:
        inputs: channels.
        w_dim: W.
        clamp: largest absolute value that comes out; None: any.
    """

    def __init__(self, inputs: int, w_dim: int, clamp: float | None):
        super().__init__(inputs, 3, 1, w_dim)
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor, grouped: bool = False) -> Tensor:
        """x [B, I, H, V] by w [B, W] → [B, 3, H, V], in float32 under autocast."""
        x = self.convolved(x, w, demodulate=False, grouped=grouped)
        x = x.to(self.bias.dtype) + self.bias[:, None, None]
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)

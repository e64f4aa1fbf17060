"""What the samples of all operators share: shapes, dtypes, layouts, and how tensors are drawn."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, int, int, int]

SHAPE: Shape = (2, 4, 8, 8)
SHAPES: tuple[Shape, ...] = (
    (2, 4, 8, 8),
    (1, 4, 16, 16),
    (3, 16, 5, 7),  # no multiple of anything
    (1, 1, 1, 1),
    (2, 1, 1, 1030),  # more than one block, and a tail
    (0, 4, 8, 8),
)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LAYOUTS = ("contiguous", "channels_last", "every_other", "cropped", "misaligned", "expanded", "mixed")

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow", "sigma")


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """Returns the same values in another layout: a name of `LAYOUTS` (`mixed` is channels-last here)."""
    if layout == "contiguous":
        return tensor.contiguous()
    if layout in ("channels_last", "mixed"):
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "every_other":
        return tensor.repeat_interleave(2, 0)[::2]
    if layout == "cropped":
        return torch.nn.functional.pad(tensor, (1, 2))[..., 1:-2]
    if layout == "misaligned":
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
    if layout == "expanded":
        return tensor[:1].expand_as(tensor) if tensor.shape[0] > 1 else tensor
    raise ValueError(f"layout: expected one of {LAYOUTS}, got {layout!r}")


class Maker:
    """Draws tensors of one shape, dtype, device, layout and magnitude from one seed.

    Args:
        shape: of the latents.
        dtype: of the latents and their like.
        device: where everything is.
        layout: a name of `LAYOUTS`.
        magnitude: factor on the latents and their like.
        seed: of the values.

    Attributes:
        alpha: [B], drawn first.
        sigma: [B], the square root of 1 − α².
    """

    def __init__(
        self,
        *,
        shape: Shape = SHAPE,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        layout: str = "contiguous",
        magnitude: float = 1.0,
        seed: int = 0,
    ):
        self.shape, self.dtype, self.device, self.layout, self.magnitude = shape, dtype, device, layout, magnitude
        self.generator = torch.Generator().manual_seed(seed)
        self.made = 0
        self.alpha = self.coefficient(0.1, 0.99)
        self.sigma = (1 - self.alpha.double().square()).sqrt().float()

    def latents(self, mean: float = 0.0, *, copies: int = 1) -> Tensor:
        """A tensor of normal numbers; the first of a `mixed` sample is contiguous, the others channels-last."""
        batch, *rest = self.shape
        shape = (copies * batch, *rest)
        values = self.magnitude * (torch.randn(shape, dtype=torch.float64, generator=self.generator) + mean)
        first = self.made == 0
        self.made += 1
        layout = "contiguous" if self.layout == "mixed" and first else self.layout
        return lay_out(values.to(self.dtype).to(self.device), layout)

    def coefficient(self, low: float, high: float, columns: int | None = None) -> Tensor:
        """A float32 tensor [B] between two bounds, or [B, columns]."""
        batch = self.shape[0]
        values = torch.rand(batch * (columns or 1), dtype=torch.float64, generator=self.generator)
        values = (low + (high - low) * values).to(torch.float32).to(self.device)
        return values if columns is None else values.view(batch, columns)


def drawing(**given: Any) -> tuple[Maker, dict[str, Any]]:
    """Returns what draws the inputs of an operator on latents, and the options that are not `Maker`'s."""
    about = inspect.signature(Maker).parameters
    made = Maker(**{name: value for name, value in given.items() if name in about})
    return made, {name: value for name, value in given.items() if name not in about}


@dataclass
class Given:
    """Tensors that the argument tuples of the operators on latents are put together from, in one dtype.

    Attributes:
        v, r: latents and a residual in float32, contiguous.
        a, s: coefficients [B].
    """

    v: Tensor
    r: Tensor
    a: Tensor
    s: Tensor

    @classmethod
    def draw(cls, dtype: torch.dtype, shape: Shape) -> Given:
        generator = torch.Generator().manual_seed(0)
        v, r = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
        a, s = (0.1 + 0.8 * torch.rand(shape[0], dtype=torch.float64, generator=generator) for _ in range(2))
        return cls(v.to(dtype), r.float(), a.float(), s.float())

    @property
    def nhwc(self) -> Tensor:
        """v, channels-last."""
        return lay_out(self.v, "channels_last")

    def with_gradient(self) -> tuple[Tensor, Tensor]:
        """v and `nhwc`, requiring a gradient."""
        return self.v.clone().requires_grad_(), self.nhwc.clone().requires_grad_()


def widen(inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the same inputs with every floating tensor in float64."""
    return {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in inputs.items()}

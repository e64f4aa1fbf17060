"""The limit of the truncated decoder: the time of its bare convolutions.

Every convolution up to the deepest level, forward and input gradient, channels-last, for the two samples v and v′, the
upsampling folded into transposed convolutions, and nothing else: no bias, no norm, no attention, nothing kept. It is
the limit of torch's own (direct) convolutions: an implementation with fewer multiplications, Winograd's, may be faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .baselines import fold

SAMPLES = 2


@dataclass(frozen=True)
class Convolution:
    """One convolution as it is computed: weights, and the sizes of what goes in and comes out."""

    weight: Tensor
    folded: bool
    stride: int
    padding: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    @property
    def multiplications(self) -> int:
        """Multiply-accumulates of the forward."""
        per_pixel = self.weight.numel()
        pixels = self.input_shape if self.folded else self.output_shape
        return pixels[0] * pixels[2] * pixels[3] * per_pixel


def convolutions(vae: Any, side: int) -> list[Convolution]:
    """Those of an AutoencoderKL's decoder up to the output of up-block 2, in order, for latents of side × side."""
    from diffusers.models.upsampling import Upsample2D

    decoder = vae.decoder
    stages = [vae.post_quant_conv, decoder.conv_in, decoder.mid_block, *decoder.up_blocks[:3]]
    stages = [stage for stage in stages if stage is not None]
    upsampled = {m.conv for stage in stages for m in stage.modules() if isinstance(m, Upsample2D)}
    seen: list[tuple[Any, tuple[int, ...], tuple[int, ...]]] = []

    def note(conv: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Only noted: under the fake tensors' mode a weight that is touched becomes a fake one.
        seen.append((conv, tuple(inputs[0].shape), tuple(output.shape)))

    hooks = [m.register_forward_hook(note) for s in stages for m in s.modules() if isinstance(m, nn.Conv2d)]
    try:
        _shapes_only(stages, torch.zeros(SAMPLES, vae.config.latent_channels, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    return [_as_computed(conv, conv in upsampled, taken, given) for conv, taken, given in seen]


def _as_computed(conv: Any, folded: bool, taken: tuple[int, ...], given: tuple[int, ...]) -> Convolution:
    weight = conv.weight.detach()
    stride, padding = (2, 1) if folded else (conv.stride[0], conv.padding[0])
    if folded:
        weight, taken = fold(weight), (*taken[:2], taken[2] // 2, taken[3] // 2)
    return Convolution(weight.to(memory_format=torch.channels_last), folded, stride, padding, taken, given)


def _shapes_only(stages: list[nn.Module], latents: Tensor) -> None:
    """Runs the stages on fake tensors: the hooks see every shape, and nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    weight = next(stages[0].parameters())
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        x = torch.empty(latents.shape, device=weight.device, dtype=weight.dtype)
        for stage in stages:
            x = stage(x)


def prepare(vae: Any, side: int, keep: bool = False) -> Callable[[], list[tuple[Tensor, Tensor]]]:
    """One pass over all of them, forward and input gradient; `keep` returns them, else they are let go at once."""
    layers = convolutions(vae, side)
    weight = layers[0].weight
    shapes = {layer.input_shape for layer in layers} | {layer.output_shape for layer in layers}
    buffers = {
        shape: torch.randn(shape, device=weight.device).to(weight.dtype).to(memory_format=torch.channels_last)
        for shape in shapes
    }

    def run() -> list[tuple[Tensor, Tensor]]:
        results = []
        with torch.no_grad():
            for layer in layers:
                x, grad = buffers[layer.input_shape], buffers[layer.output_shape]
                options: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding}
                output = (F.conv_transpose2d if layer.folded else F.conv2d)(x, layer.weight, **options)
                back = torch.ops.aten.convolution_backward(
                    grad,
                    x,
                    layer.weight,
                    None,
                    [layer.stride] * 2,
                    [layer.padding] * 2,
                    [1, 1],
                    layer.folded,
                    [0, 0],
                    1,
                    [True, False, False],
                )
                if keep:
                    results.append((output, back[0]))
        return results

    return run


def multiply_accumulates(vae: Any, side: int) -> int:
    """Of one pass: forward and input gradient cost the same."""
    return 2 * sum(layer.multiplications for layer in convolutions(vae, side))

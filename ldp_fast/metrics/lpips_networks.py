"""What LPIPS looks through: AlexNet and VGG16 up to their last ReLU, a CLIP's vision tower, a VAE's encoder.

Each gives levels, `[B, C, H, W]` one after another, and weights for the channels of each.
"""

from __future__ import annotations

import importlib.util
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..clip import Clip
from ..errors import UsageError
from ..guidance.components import load_network, reading
from ..guidance.loading import embedded_folder
from .weights import digest_of, find_weights, read_weights, require_keys

# Mean and standard deviation of ImageNet's channels over [−1, 1], as LPIPS has them.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
ADDRESS = "https://download.pytorch.org/models/"
# Of a level's ReLU, among torchvision's `features`.
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
WIDTHS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
LEAST_SIDE = {"alex": 31, "vgg": 16}
MOST_SIDE = 256  # that is taken unasked: features grow with the square of it


class Levels(Protocol):
    """A network, frozen, in evaluation mode.

    Attributes:
        name: of it, "alex" or "vae:primitives".
        weights: of the channels of each level, `[C]` float32, at least 0.
        calibrated: whether the weights are LPIPS', fitted to people's judgements.
        side: pixels per side that it is made for.
        digest: of networks and weights.
    """

    name: str
    weights: list[Tensor]
    calibrated: bool
    side: int
    digest: str

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Levels `[B, C, H, W]` of square pictures `[B, 3, S, S]` float32 in [0, 1]."""
        ...

    def refuse(self, side: int) -> str:
        """What is expected of pixels per side where `side` will not do; else ''."""
        ...


def load_levels(
    backbone: str, weights: str | pathlib.Path | None, heads: str | pathlib.Path | None, device: torch.device
) -> Levels:
    """Loads the network that a backbone names.

    Raises:
        UsageError: an unknown name, or what cannot be loaded; the reason is in the message.
    """
    kind, _, name = backbone.partition(":")
    if backbone in FILES:
        return ImageNet(backbone, weights, heads, device)
    if kind not in ("clip", "vae") or not name:
        raise UsageError(f"backbone: expected alex, vgg, clip:NAME or vae:NAME, got {backbone!r}")
    if weights is not None or heads is not None:
        raise UsageError(f"weights: expected only with alex and vgg; {backbone} names its own")
    return ClipLevels(Clip.load(name, device)) if kind == "clip" else VaeLevels.load(name, device)


def feature_stack(kind: str) -> nn.Sequential:
    """AlexNet's or VGG16's layers with torchvision's numbers, up to the last ReLU that LPIPS looks at."""
    if kind == "alex":
        convolutions = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1)]
        convolutions += [(256, 256, 3, 1, 1)]
        pooled, window = {0, 1}, 3
    else:
        widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
        convolutions = [(a, b, 3, 1, 1) for a, b in itertools.pairwise(widths)]
        pooled, window = {1, 3, 6, 9}, 2
    layers: list[nn.Module] = []
    for number, (inside, outside, size, stride, padding) in enumerate(convolutions):
        layers += [nn.Conv2d(inside, outside, size, stride, padding), nn.ReLU(inplace=True)]
        if number in pooled:
            layers.append(nn.MaxPool2d(window, 2))
    return nn.Sequential(*layers)


class ImageNet:
    """AlexNet or VGG16 with LPIPS' heads of version 0.1 (Zhang et al. 2018, arXiv:1801.03924).

    Args:
        kind: "alex" or "vgg".
        weights: a state dict of torchvision's network (its classifier is not looked at); None looks into torch's hub
            cache.
        heads: weights of the channels, `lin0.model.1.weight` [1, C, 1, 1] and on; None takes the file that torchmetrics
            or lpips brings.
        device: of the network.

    Raises:
        UsageError: a file is missing or of another network, or a head has weights below 0.
    """

    calibrated, side = True, MOST_SIDE

    def __init__(self, kind: str, weights: Any, heads: Any, device: torch.device):
        self.name, self._taps = kind, TAPS[kind]
        with torch.device("meta"):
            self._stack = feature_stack(kind)
        prefix = "features."
        path = find_weights(weights, FILES[kind], ADDRESS + FILES[kind])
        found = {k: v.float() for k, v in read_weights(path).items() if not k.startswith("classifier.")}
        wanted = {prefix + k: v for k, v in self._stack.state_dict().items()}
        require_keys(f"torchvision's {'alexnet' if kind == 'alex' else 'vgg16'}", path, found, wanted)
        self._stack.load_state_dict({k.removeprefix(prefix): v for k, v in found.items()}, assign=True)
        self._stack = self._stack.to(device).eval().requires_grad_(False)
        self.weights = [x.to(device) for x in _heads(kind, heads)]
        self._shift, self._scale = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (SHIFT, SCALE))
        self.digest = digest_of(self._stack, {str(i): x for i, x in enumerate(self.weights)})

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """See `Levels`."""
        x, found = (2 * pixels - 1 - self._shift) / self._scale, []
        for number, layer in enumerate(self._stack):
            x = layer(x)
            if number in self._taps:
                found.append(x)
        return found

    def refuse(self, side: int) -> str:
        """See `Levels`."""
        least = LEAST_SIDE[self.name]
        return "" if side >= least else f"at least {least}"


def _heads(kind: str, given: str | pathlib.Path | None) -> list[Tensor]:
    path = pathlib.Path(given) if given is not None else _heads_of_a_package(kind)
    found = read_weights(path)
    wanted = {f"lin{i}.model.1.weight": torch.empty(1, width, 1, 1) for i, width in enumerate(WIDTHS[kind])}
    require_keys(f"LPIPS' heads for {kind}", path, found, wanted)
    if any(bool((value < 0).any()) for value in found.values()):
        raise UsageError(f"weights: expected LPIPS' heads to have no weight below 0; {path} has some")
    return [found[name].flatten().float() for name in wanted]


def _heads_of_a_package(kind: str) -> pathlib.Path:
    places = {"torchmetrics": f"functional/image/lpips_models/{kind}.pth", "lpips": f"weights/v0.1/{kind}.pth"}
    for package, inside in places.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (path := pathlib.Path(folder) / inside).is_file():
                return path
    raise UsageError(
        "weights: LPIPS' weights of the channels come with torchmetrics, which is not installed: "
        "pip install 'ldp-fast[metrics]'"
    )


class _Hooked:
    """Levels that hooks take from modules of a network while it runs; all channels and levels count alike.

    Args:
        modules: in the order in which they run.
        side: pixels per side of a picture that the network takes.
        device: of the network.
    """

    calibrated = False

    def __init__(self, modules: Sequence[nn.Module], side: int, device: torch.device):
        self.side, self._modules = side, modules
        with torch.no_grad():
            found = self(torch.zeros(1, 3, side, side, device=device))
        self.weights = [torch.full((x.shape[1],), 1 / len(found), device=device) for x in found]

    def _run(self, pixels: Tensor) -> None:
        raise NotImplementedError

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """See `Levels`."""
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        hooks = [module.register_forward_hook(keep) for module in self._modules]
        try:
            self._run(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        return [x.float() for x in found]


class ClipLevels(_Hooked):
    """The tokens after every block of a CLIP's vision tower, the class token among them, as `[B, D, 1 + P, 1]`."""

    def __init__(self, clip: Clip):
        self.name, self._clip, self.digest = f"clip:{clip.name}", clip, clip.digest
        network = clip.towers.network
        vision = getattr(network, "vision_model", None)
        blocks = vision.encoder.layers if vision is not None else _resblocks(network)
        if blocks is None:
            raise UsageError(f"backbone: {self.name}: expected a vision transformer, got {type(network).__name__}")
        super().__init__(list(blocks), clip.image_size, clip.device)

    def _run(self, pixels: Tensor) -> None:
        self._clip.image_embeddings(pixels)

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """See `Levels`."""
        return [tokens.transpose(1, 2).unsqueeze(-1) for tokens in super().__call__(pixels)]

    def refuse(self, side: int) -> str:
        """See `Levels`."""
        return "" if side == self.side else str(self.side)


def _resblocks(network: Any) -> Any:
    """The blocks of open_clip's vision transformer, None where there is none."""
    return getattr(getattr(getattr(network, "visual", None), "transformer", None), "resblocks", None)


class VaeLevels(_Hooked):
    """The levels of an AutoencoderKL's encoder, and its middle block."""

    def __init__(self, vae: Any, name: str):
        self.name, encoder = f"vae:{name}", vae.encoder.eval().requires_grad_(False)
        self._encoder = encoder.to(memory_format=torch.channels_last)
        self._multiple = 2 ** (len(vae.config.block_out_channels) - 1)
        self.digest = digest_of(encoder)
        side = min(int(vae.config.sample_size), MOST_SIDE)
        super().__init__([*encoder.down_blocks, encoder.mid_block], side, next(vae.parameters()).device)

    @classmethod
    def load(cls, name: str, device: torch.device) -> VaeLevels:
        """Loads the VAE of an embedded model, of a folder (its own or one with `vae/` inside), or of a hub name.

        Raises:
            UsageError: it cannot be loaded or is not whole.
        """
        from diffusers import AutoencoderKL

        folder = embedded_folder(name) or pathlib.Path(name).expanduser()
        own = (folder / "config.json").is_file() and not (folder / "vae").is_dir()
        where = str(folder) if folder.is_dir() else name
        with reading("backbone", repr(f"vae:{name}"), folder):
            vae = load_network(AutoencoderKL, where, subfolder="" if own else "vae", what=f"the vae of {name!r}")
        return cls(vae.to(device), name)

    def _run(self, pixels: Tensor) -> None:
        self._encoder((2 * pixels - 1).contiguous(memory_format=torch.channels_last))

    def refuse(self, side: int) -> str:
        """See `Levels`."""
        return "" if side % self._multiple == 0 else f"a multiple of {self._multiple}"

"""What draws a mesh with gradients, also those of its outline: DEODR on a CPU, nvdiffrast on a GPU.

Neither is part of this package, and neither draws textures here: DEODR 0.2.3 adds up the gradient of a texture wrongly
(of several pixels in a texel it keeps the last one). Triangles are about a pixel wide instead, shaded at their corners.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError, reason
from .subdivision import edges_of

Name = Literal["deodr", "nvdiffrast"]
ON_GPU: Name = "nvdiffrast"
NAMES: tuple[Name, ...] = ("deodr", ON_GPU)
# Of the device; what draws there, and what to type where it is missing.
HOW = {
    "deodr": "pip install 'ldp-fast[mesh]' (it brings DEODR, which draws on a CPU)",
    "nvdiffrast": "pip install --no-build-isolation git+https://github.com/NVlabs/nvdiffrast.git (mind its licence)",
}
# Of nvdiffrast: before 0.3.2 sides of pictures had to be multiples of 8, before 0.3.3 more than 2048 failed in CUDA.
OLDEST = (0, 3, 3)
# Pixels over which DEODR blends an outline with what is behind it.
BLENDED = 1.0
# Depth along the view up to which nothing is drawn, world units.
NEAREST = 0.1


class Rasteriser(Protocol):
    """Draws a closed mesh of coloured corners from several cameras."""

    def __call__(self, places: Tensor, colours: Tensor, behind: Tensor) -> Tensor:
        """Pictures.

        Args:
            places: [V, N, 4] homogeneous positions in each camera's picture, as OpenGL has them: x to the right and y
                up over w in [-1, 1], w the depth along the view. Gradients flow into them.
            colours: [V, N, 3] of the corners in each picture. Gradients flow into them.
            behind: [V, 3, H, W] what is behind the object.

        Returns:
            [V, 3, H, W].
        """


def default_for(kind: str) -> Name:
    """The rasteriser of a kind of device, such as `cuda`: there nvdiffrast, where it is installed."""
    return ON_GPU if kind == "cuda" and drawn_by_gpu() else "deodr"


def drawn_by_gpu() -> bool:
    """Whether what draws on a GPU is installed."""
    return _installed(ON_GPU)


def require(name: str) -> None:
    """Checks that a rasteriser is installed, in a version that draws what is asked for here.

    Raises:
        UsageError: it is not; says how it is installed.
    """
    other = ", or choose --rasteriser deodr, which draws on the CPU" if name == ON_GPU else ""
    if not _installed(name):
        raise UsageError(f"--rasteriser: {name} is not installed: {HOW[name]}{other}")
    if name == ON_GPU:
        version = _version_of(name)
        numbers = tuple(int(x) for x in re.findall(r"\d+", version)[:3])
        if numbers < OLDEST:
            raise UsageError(
                f"--rasteriser: expected nvdiffrast {'.'.join(map(str, OLDEST))} or later, got "
                f"{version or 'one that does not say its version'}: {HOW[name]}{other}"
            )


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        # A folder on the path, as its source is.
        return str(getattr(importlib.import_module(name), "__version__", ""))


def load(name: str, faces: np.ndarray, device: torch.device) -> Rasteriser:
    """A rasteriser of a mesh.

    Args:
        name: of `NAMES`.
        faces: [F, 3] of a closed mesh, counterclockwise seen from outside.
        device: of the pictures.

    Raises:
        UsageError: it is not installed, or nvdiffrast on another device than a GPU, or on one where it cannot draw.
    """
    require(name)
    if name == "deodr":
        return Deodr(faces)
    if device.type != "cuda":
        raise UsageError(f"--rasteriser: nvdiffrast needs a GPU of NVIDIA, got {device}: choose deodr")
    try:
        return NvDiffRast(faces, device)
    except Exception as error:  # its CUDA code may be compiled only now, and everything can go wrong in that
        raise UsageError(
            f"--rasteriser: nvdiffrast cannot draw on {device}: {reason(error)}; mend that, or choose deodr"
        ) from error


class Deodr:
    """DEODR's antialiased rasteriser in C++, a picture after the other, on the CPU in float64 (M. de La Gorce, BSD).

    Colours are linear in the picture, not in space; of triangles of a pixel or two that cannot be told apart.

    Args:
        faces: [F, 3] of a closed mesh, counterclockwise seen from outside.
    """

    def __init__(self, faces: np.ndarray):
        self.faces = faces.astype(np.uint32)
        self.across = edges_of(faces).across
        self._all, self._none = np.ones(len(faces), dtype=bool), np.zeros(len(faces), dtype=bool)

    def __call__(self, places: Tensor, colours: Tensor, behind: Tensor) -> Tensor:
        """See `Rasteriser`."""
        drawn = [
            _Drawn.apply(place.double().cpu(), colour.double().cpu(), back.double().cpu(), self).to(behind)
            for place, colour, back in zip(places, colours, behind, strict=True)
        ]
        return torch.stack(drawn)

    def scene(self, pixels: np.ndarray, depths: np.ndarray, colours: np.ndarray, behind: np.ndarray) -> Any:
        """What DEODR draws.

        Args:
            pixels: [N, 2] places in pixels, (0, 0) the middle of the left upper one.
            depths: [N], the nearer the smaller, linear over the picture; below 0 for corners whose faces are left out.
            colours: [N, 3].
            behind: [H, W, 3].
        """
        from deodr.differentiable_renderer import Scene2D

        a, b, c = (pixels[self.faces[:, k]] for k in range(3))
        area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
        front = area < 0  # rows go down
        height, width, channels = behind.shape
        return Scene2D(
            faces=self.faces,
            faces_uv=self.faces,
            ij=pixels,
            depths=depths,
            textured=self._none,
            uv=np.zeros((len(pixels), 2)),
            shade=np.ones(len(pixels)),
            colors=colours,
            shaded=self._none,
            edgeflags=front[:, None] & ~front[self.across],
            height=height,
            width=width,
            nb_colors=channels,
            texture=np.zeros((0, 0, channels)),
            background_image=behind,
            clockwise=False,
            backface_culling=True,
        )


class _Drawn(torch.autograd.Function):
    """One picture of DEODR."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, colours: Tensor, behind: Tensor, deodr: Deodr) -> Tensor:
        from deodr.differentiable_renderer import renderScene

        _, height, width = behind.shape
        x, y, _, w = places.numpy().T
        depths = np.where(w > NEAREST, 1 - NEAREST / w.clip(NEAREST), -1.0)
        w = w.clip(NEAREST)
        pixels = np.stack([(1 + x / w) * width / 2 - 0.5, (1 - y / w) * height / 2 - 0.5], axis=1)
        scene = deodr.scene(pixels, depths, colours.numpy(), np.ascontiguousarray(behind.permute(1, 2, 0).numpy()))
        image, depth = np.empty((height, width, 3)), np.empty((height, width))
        renderScene(scene, BLENDED, image, depth)
        # As tensors, so that what counts saved memory sees them.
        ctx.save_for_backward(places, *map(torch.from_numpy, (image, depth, scene.background_image, scene.ij)))
        ctx.scene = scene
        return torch.from_numpy(image.copy()).permute(2, 0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        from deodr.differentiable_renderer import renderSceneB

        scene = ctx.scene
        places, image, depth = ctx.saved_tensors[0], *(x.numpy() for x in ctx.saved_tensors[1:3])
        (gradient,) = gradients
        height, width, _ = image.shape
        scene.clear_gradients()
        # It takes the blended outlines out of the picture again.
        renderSceneB(scene, BLENDED, image.copy(), depth, np.ascontiguousarray(gradient.permute(1, 2, 0).numpy()))
        on_pixels = torch.from_numpy(scene.ij_b)
        x, y, _, w = places.unbind(1)
        w = w.clamp(min=NEAREST)
        right, down = on_pixels[:, 0] * width / 2, -on_pixels[:, 1] * height / 2
        on_places = torch.stack([right / w, down / w, torch.zeros_like(w), -(right * x + down * y) / w**2], dim=1)
        return on_places, torch.from_numpy(scene.colors_b), None, None


class NvDiffRast:
    """nvdiffrast's rasteriser and its antialiasing, on a GPU (S. Laine et al. 2020; its licence is NVIDIA's own).

    Args:
        faces: [F, 3] of a closed mesh, counterclockwise seen from outside.
        device: a GPU.
    """

    def __init__(self, faces: np.ndarray, device: torch.device):
        import nvdiffrast.torch as drawing

        self.faces = torch.from_numpy(faces.astype(np.int32)).to(device)
        # Its own rasteriser in CUDA: OpenGL's needs a display's driver.
        self.context = drawing.RasterizeCudaContext(device=device)
        # Which faces meet at an edge, for the antialiasing.
        self.edges = drawing.antialias_construct_topology_hash(self.faces)

    def __call__(self, places: Tensor, colours: Tensor, behind: Tensor) -> Tensor:
        """See `Rasteriser`."""
        import nvdiffrast.torch as drawing

        places, colours = places.float().contiguous(), colours.float().contiguous()
        # Derivatives by the picture's axes are for textures.
        covered, _ = drawing.rasterize(
            self.context, places, self.faces, resolution=list(behind.shape[-2:]), grad_db=False
        )
        inside, _ = drawing.interpolate(colours, covered, self.faces)
        # OpenGL's first row is the lowest.
        beyond = behind.flip(2).permute(0, 2, 3, 1)
        pictures = torch.where(covered[..., 3:] > 0, inside, beyond)
        # Before that what is behind has to be in it: the outline is blended with it.
        smooth = drawing.antialias(pictures.contiguous(), covered, places, self.faces, topology_hash=self.edges)
        return smooth.permute(0, 3, 1, 2).flip(2)

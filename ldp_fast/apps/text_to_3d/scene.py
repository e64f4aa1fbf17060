"""The object of a run: field, occupancy, background, renderer, and the model that decodes what is rendered."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...guidance.loading import usable
from ...guidance.models import LatentDiffusionModel
from ...nerf import (
    Blob,
    Cameras,
    DirectionalBackground,
    HashGrid,
    LatentField,
    LatentRenderer,
    LearnedBackground,
    OccupancyGrid,
    RenderOutput,
    VoxelField,
)
from ...nerf.hash_grid import INITIAL
from ...runs import checkpoints
from ...runs.configuration import read_yaml
from ...runs.flags import from_file
from ...runs.folder import require
from ..options import load_prior
from .cameras import CameraRanges, EncodedGreys
from .colours import Colours
from .compiled import check_renderer
from .refinement import PICTURES, LatentToRgb
from .sections import NAME, DreamFields, HashGridOptions, PriorGuided, TextTo3D, VoxelOptions, class_of


def field_of(options: HashGridOptions | VoxelOptions, channels: int, *, colours: bool = False) -> nn.Module:
    """The field at the start.

    Args:
        options: of a configuration.
        channels: C of the latents.
        colours: whether the channels are RGB, of which each lies in [0, 1] (a hash grid's).

    Raises:
        ValueError: a number that the field does not take.
    """
    blob = Blob(*options.blob)
    if isinstance(options, VoxelOptions):
        return VoxelField(
            options.resolution,
            channels,
            density_shift=options.density_shift,
            density_bias=blob,
            density_scale=options.density_scale,
            latent_scale=options.latent_scale,
        )
    grid = HashGrid(
        n_levels=options.levels,
        log2_table_size=options.log2_table_size,
        base_resolution=options.base_resolution,
        finest_resolution=options.finest_resolution,
        initial=INITIAL if options.initial is None else options.initial,
    )
    outside = options.outside
    activation = "sigmoid" if colours else "identity"
    field = LatentField(
        grid,
        options.hidden,
        channels=channels,
        bias=outside is not None,
        density_bias=blob,
        activation=activation,
    )
    if outside is not None:
        # The density is e to the power of the network's first output and the blob.
        *_, (_, bias) = field.linear_layers()
        assert bias is not None
        with torch.no_grad():
            bias[0] = math.log(outside)
    return field


def background_of(configuration: TextTo3D, channels: int) -> nn.Module | None:
    """The trained background at the start, of C `channels`; None where it is not trained."""
    behind = configuration.background
    if behind.kind == "network":
        return DirectionalBackground(channels)
    if behind.kind == "texture" and behind.size is not None:
        return LearnedBackground(channels, size=behind.size, scale=1.0)
    return None


def occupancy_of(configuration: TextTo3D) -> OccupancyGrid | None:
    """The occupancy grid at the start, if there is one.

    Raises:
        ValueError: a number of cells that the grid does not take.
    """
    grid = configuration.occupancy
    if grid is None:
        return None
    step = 2 * 3**0.5 / configuration.steps_per_ray
    return OccupancyGrid(resolution=grid.resolution, step=step, seed=configuration.seed)


class Scene(nn.Module):
    """What is optimised, and how it is shown.

    Parameters are the field's, the background's and, after refinement began, the linear layer to RGB.

    Args:
        configuration: of a run (config.yaml).
        prior: decodes; its VAE makes the greys of the background. A field in RGB has `Colours`.

    Attributes:
        renderer: a `LatentRenderer`.
        to_rgb: `LatentToRgb`, None if the method runs without a refinement.
        refined: whether the field is shown through `to_rgb` rather than through the decoder.
        step: of the run.
        size: latents per side in training (after refinement: pixels).
    """

    def __init__(self, configuration: TextTo3D, prior: LatentDiffusionModel | Colours):
        super().__init__()
        self.configuration, self.prior = configuration, prior
        channels = prior.latent_shape[0]
        self.latent_size = configuration.size
        self.supersample = configuration.supersample
        self.ranges = CameraRanges.of(configuration.cameras)
        # Initial values must not depend on what ran before, nor change what runs after.
        cuda = [prior.device] if prior.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(configuration.seed)
            field = field_of(configuration.field, channels, colours=isinstance(configuration, DreamFields))
            background = background_of(configuration, channels)
        behind = configuration.background
        self.greys: EncodedGreys | None = None
        if behind.kind == "greys" and behind.low is not None and behind.high is not None:
            self.greys = EncodedGreys(prior, behind.low, behind.high)
        occupancy = occupancy_of(configuration)
        self.renderer = LatentRenderer(field, occupancy, background, steps_per_ray=configuration.steps_per_ray)
        self.to_rgb = LatentToRgb(channels) if configuration.refinement else None
        self.refined, self.step = False, 0
        self.to(prior.device)

    @property
    def field(self) -> nn.Module:
        """The field."""
        return self.renderer.field

    @property
    def occupancy(self) -> OccupancyGrid | None:
        """The occupancy grid, if there is one."""
        return self.renderer.occupancy

    @property
    def background(self) -> nn.Module | None:
        """The trained background, if there is one."""
        return self.renderer.background

    @property
    def size(self) -> int:
        """Latents per side in training; pixels once the field is refined."""
        refinement = self.configuration.refinement
        return refinement.size if self.refined and refinement is not None else self.latent_size

    @property
    def rays_per_pixel(self) -> int:
        """Rays along an axis for each latent (refined: pixel)."""
        return 1 if self.refined else self.supersample

    @property
    def display_size(self) -> int:
        """Latents (refined: pixels) per side of pictures for people: twice the training's, as Latent-NeRF has it."""
        return self.latent_size * self.prior.pixels_per_latent if self.refined else 2 * self.size

    @property
    def orbit(self) -> dict[str, Any]:
        """From where the object shows well: elevation, radius and fov of `Cameras.orbit`."""
        low, high = self.ranges.elevation
        middle = [sum(x) / 2 for x in (self.ranges.radius, self.ranges.fov)]
        return {"elevation": min(max(20.0, low), high), "radius": middle[0], "fov": middle[1]}

    def training_view(self, cameras: Cameras, seed: int, shade: Tensor) -> tuple[Tensor, RenderOutput]:
        """One rendering of training, with its graph.

        Args:
            cameras: V of them.
            seed: of the jitter.
            shade: [V] in [0, 1], of the grey background.

        Returns:
            Latents [V, C, h, w] (before refinement) or RGB [V, 3, H, W], with the background; the rendering itself.
        """
        picture, opacity, out = self.training_layers(cameras, seed)
        return self.behind(picture, opacity, shade), out

    def training_layers(self, cameras: Cameras, seed: int) -> tuple[Tensor, Tensor, RenderOutput]:
        """One rendering of training without greys, with its graph.

        Args:
            cameras: V of them.
            seed: of the jitter.

        Returns:
            Latents [V, C, h, w] or RGB on black, multiplied by the opacity; opacity [V, 1, h, w]; the rendering itself.
        """
        factor = self.rays_per_pixel
        out = self.renderer(cameras, self.size * factor, self.size * factor, seed=seed)
        return (*self._picture(out, factor), out)

    def _picture(self, out: RenderOutput, factor: int) -> tuple[Tensor, Tensor]:
        """Latents (refined: RGB) without greys, and opacity, one for each `factor` × `factor` rays."""
        picture, opacity = out.latents, out.opacity
        if factor > 1:
            picture, opacity = (nn.functional.avg_pool2d(x, factor) for x in (picture, opacity))
        if self.refined:
            assert self.to_rgb is not None
            # In front of greys the layer's offset belongs to the object alone.
            picture = self.to_rgb(picture, None if self.greys is None else opacity)
        return picture, opacity

    def behind(self, latents: Tensor, opacity: Tensor, shade: Tensor) -> Tensor:
        """Puts the grey background, if the scene has one, behind what `render` made without it.

        Args:
            latents: [V, C, h, w] (refined: RGB).
            opacity: [V, 1, h, w].
            shade: [V], 0 (the darkest) to 1.
        """
        if self.greys is None:
            return latents
        if not self.refined:
            return latents + (1 - opacity) * self.greys(shade, latents.shape[-1])
        grey = self.greys.low + (self.greys.high - self.greys.low) * shade
        return latents + (1 - opacity) * grey[:, None, None, None].to(latents)

    @torch.no_grad()
    def render(
        self,
        cameras: Cameras,
        size: int | None = None,
        *,
        normals: bool = False,
        shade: float = 0.5,
        greys: bool = True,
    ) -> RenderOutput:
        """Renders views for people: no jitter, no gradients.

        Args:
            cameras: V of them; moved to the scene's device.
            size: latents (refined: pixels) per side; `display_size` by default.
            normals: whether to render normals too.
            shade: of a grey background, 0 (its darkest) to 1.
            greys: whether that background stands behind (see `behind`); a trained one always does.

        Returns:
            RenderOutput; `latents` are RGB [V, 3, H, W] once the field is refined.
        """
        size = size or self.display_size
        training = self.training
        self.eval()
        try:
            factor = self.rays_per_pixel
            out = self.renderer(cameras.to(self.prior.device), size * factor, size * factor, normals=normals)
        finally:
            self.train(training)
        latents, opacity = self._picture(out, factor)
        if greys:
            shades = torch.full((len(cameras),), float(shade), device=self.prior.device)
            latents = self.behind(latents, opacity, shades)

        def pooled(x: Tensor | None) -> Any:
            return x if x is None or factor == 1 else nn.functional.avg_pool2d(x, factor)

        return dataclasses.replace(
            out,
            latents=latents,
            opacity=opacity,
            depth=pooled(out.depth),
            distortion=pooled(out.distortion),
            emptiness=pooled(out.emptiness),
            normals=pooled(out.normals),
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """What `render` calls latents, as images [V, 3, H, W] float32 in [0, 1]."""
        return latents.float().clamp(0, 1) if self.refined else self.prior.decode(latents)

    def begin_refinement(self, part: int = 1) -> None:
        """From now on the field is shown as RGB, through a linear layer fitted to the prior's own VAE.

        Args:
            part: 1, or 2 or 4 for a fit to a half or a quarter of the pictures, which takes so much of the time.
        """
        assert self.to_rgb is not None
        azimuths = [30.0 * view for view in range(12 // part)]
        elevations = ([self.orbit["elevation"], 60.0] * 6)[: 12 // part]
        cameras = Cameras.orbit(azimuths, elevations, self.orbit["radius"], self.orbit["fov"])
        # One after the other: at full size twelve at once would be the most memory of the whole run.
        latents = torch.cat([self.render(camera, self.size).latents for camera in cameras])
        self.to_rgb.fit(self.prior, latents, PICTURES // part)
        self.refined = True


def scene_state(scene: Scene) -> dict[str, Tensor]:
    """Parameters and buffers, by `scene.NAME`, on the CPU."""
    return {f"scene.{name}": x.detach().cpu().contiguous() for name, x in scene.state_dict().items()}


def apply_scene_state(scene: Scene, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Puts a checkpoint's parameters and buffers into a scene.

    Raises:
        ValueError: they do not fit; nothing is changed then.
    """
    state = {name.removeprefix("scene."): x for name, x in tensors.items() if name.startswith("scene.")}
    own = scene.state_dict()
    if {k: (v.shape, v.dtype) for k, v in state.items()} != {k: (v.shape, v.dtype) for k, v in own.items()}:
        raise ValueError("its tensors are not those of this configuration's field")
    if facts.get("refined") not in ("0", "1"):
        raise ValueError("it does not say whether the field is refined")
    scene.load_state_dict(state)
    scene.step, scene.refined = int(facts["step"]), facts["refined"] == "1"


def load_scene_state(path: pathlib.Path, scene: Scene) -> None:
    """Reads a checkpoint into a scene, to look at it.

    Raises:
        UsageError: it is damaged, or belongs to another configuration.
    """
    held = checkpoints.read(path, scene.configuration.fingerprint())
    try:
        apply_scene_state(scene, *held)
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from None


def read_configuration(folder: pathlib.Path) -> TextTo3D:
    """The configuration of a run of text-to-3D.

    Raises:
        UsageError: it is missing, damaged, or of another command.
    """
    require(folder, NAME, f"only runs of {NAME} can be exported, viewed or rendered")
    path = folder / "config.yaml"
    plain = read_yaml(path)
    plain.pop("application", None)
    return from_file(class_of(plain), plain, path)


def decoder_of(configuration: TextTo3D) -> LatentDiffusionModel | Colours:
    """What shows a scene. What guided a field in RGB is not needed for that, and is not loaded.

    Raises:
        UsageError: an unknown model or device; a model that cannot be fetched.
    """
    if isinstance(configuration, PriorGuided):
        return load_prior(configuration)
    return Colours(usable(configuration.device or "cpu"), configuration.size)


def load_scene(folder: pathlib.Path, step: int | None = None, device: str | None = None) -> Scene:
    """The object of a run folder.

    Args:
        folder: of `ldp-fast text-to-3d`.
        step: of the checkpoint; None is the newest.
        device: where to; None is the run's own if it is there, else the CPU or GPU that is.

    Raises:
        UsageError: no run, no such checkpoint, a damaged one, one of another configuration, or no renderer for it.
    """
    configuration = read_configuration(folder)
    steps = checkpoints.steps(folder)
    if not steps:
        raise UsageError(f"{folder} has no checkpoint yet")
    if step is not None and step not in steps:
        raise UsageError(f"--checkpoint: expected one of {', '.join(map(str, steps))}, which {folder} has; got {step}")
    where = device or configuration.device
    if device is None and where and where.startswith("cuda") and not torch.cuda.is_available():
        where = "cpu"
    check_renderer(configuration, where)
    # What a GPU computes in half precision a CPU shows in full.
    dtype = configuration.dtype if where and where.startswith("cuda") else "float32"
    scene = Scene(configuration, decoder_of(dataclasses.replace(configuration, device=where, dtype=dtype)))
    load_scene_state(checkpoints.path_of(folder, steps[-1] if step is None else step), scene)
    return scene.eval()

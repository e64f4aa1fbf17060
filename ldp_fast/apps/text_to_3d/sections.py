"""The sections of a run of text-to-3D, and one configuration of them all (config.yaml)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

from ...guidance.loading import edition_of
from ...runs.schedule import Ramp, constant
from ...runs.settings import Wrong, hyphens, setting
from ..options import RUN, BaseConfiguration, ModelConfiguration, seed_setting
from .clip_sections import BACKGROUNDS as BEHIND
from .clip_sections import ClipGuided

NAME = "text-to-3d"
METHODS = {"latent-nerf": "latent_nerf", "jacobian-nerf": "jacobian_nerf"}  # of the prior, and the preset of each
DREAM_FIELDS = "dream-fields"
ALL_METHODS = (*METHODS, DREAM_FIELDS)
# Of the embedded model. With half as many one object in nine was wrong, striped or checkered all of them.
EMBEDDED_STEPS = {"latent-nerf": 800, "jacobian-nerf": 1200, DREAM_FIELDS: 600}
EMBEDDED_REFINEMENT = 240
BACKGROUNDS = ("greys", "network", "texture", "none")
REGULARISERS = {
    "sparsity": "pushes each ray to hit the object or miss it (Latent-NeRF)",
    "emptiness": "clears thin fog (SJC)",
    "opacity": "clears whatever the picture does not need",
    "distortion": "pulls the density along each ray together (mip-NeRF 360)",
    "hollowness": "fills what is behind surfaces, which no view shows",
    "depth": "brings the middle of the picture nearer than its border (SJC)",
}
SCENE = "scene"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """Where the cameras of training stand."""

    azimuth: tuple[float, float] | None = setting(
        "directions from which the cameras look, in degrees (default: all around)",
        flag="azimuth",
        metavar="LOW HIGH",
        group=SCENE,
        low=-360,
        high=720,
        ordered=True,
        default=None,
        omitted=True,
    )
    elevation: tuple[float, float] = setting(
        "height of the cameras, in degrees above the horizon",
        flag="elevation",
        metavar="LOW HIGH",
        group=SCENE,
        low=-90,
        high=90,
        ordered=True,
    )
    radius: tuple[float, float] = setting(
        "distance of the cameras from the middle, in world units",
        flag="radius",
        metavar="LOW HIGH",
        group=SCENE,
        low=1e-3,
        ordered=True,
    )
    fov: tuple[float, float] = setting(
        "field of view, in degrees", flag="fov", metavar="LOW HIGH", group=SCENE, low=1, high=179, ordered=True
    )
    overhead: float = setting(
        "share of the views that look from above, 0 to 1",
        flag="overhead",
        metavar="SHARE",
        group=SCENE,
        low=0,
        high=1,
        expected="a share between 0 and 1",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HashGridOptions:
    """The field of latent-nerf: a hash grid and a small network."""

    levels: int = setting("levels of the hash grid", low=1, high=32)
    log2_table_size: int = setting("base-2 logarithm of the entries of a level", low=3, high=30)
    base_resolution: int = setting("vertices along an axis, coarsest level", low=2, high=10**6)
    finest_resolution: int = setting("vertices along an axis, finest level", low=2, high=10**6)
    hidden: int = setting("width of the network, a multiple of 16", low=16, high=128)
    blob: tuple[float, float] = setting(
        "Gaussian in the density's logarithm at the start: height, and standard deviation in world units"
    )
    initial: float | None = setting(
        "entries of the hash grid start within ± this number (default: 0.0001; embedded model: 0.03)",
        low=0,
        high=60000,
        default=None,
        omitted=True,
    )
    outside: float | None = setting(
        "density far from the blob at the start, per unit of length, by biases of the network, which it otherwise "
        "lacks (default: 1, without biases; embedded model: 0.37)",
        above=0,
        high=1000,
        default=None,
        omitted=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VoxelOptions:
    """The field of jacobian-nerf: a lattice of density and latents."""

    resolution: int = setting(
        "vertices of the voxel grid along an axis (jacobian-nerf)",
        flag="voxels",
        metavar="N",
        group=SCENE,
        low=2,
        high=512,
    )
    density_shift: float = setting("number added to the density before its softplus")
    density_scale: float = setting("factor of the density", above=0)
    latent_scale: float = setting("factor of the latents", above=0)
    blob: tuple[float, float] = setting(
        "Gaussian before the density's softplus at the start: height, and standard deviation in world units"
    )
    smoothing: Ramp | None = setting(
        "how far neighbouring voxels move together over the run, in voxels: FIRST LAST FROM TO (default: not at all; "
        "embedded model: 2 0 0 0.6)",
        default=None,
        omitted=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OccupancyOptions:
    """The grid that says where space is empty."""

    resolution: int = setting("cells along an axis, a power of two", low=8, high=512)
    every: int = setting("steps between two updates", low=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackgroundOptions:
    """What is behind the object."""

    kind: Literal["greys", "network", "texture", "none"] = setting(
        f"what is behind the object: {', '.join(BACKGROUNDS)}", flag="background", metavar="KIND", group=SCENE
    )
    low: float | None = setting("darkest of the greys, 0 to 1", low=0, high=1, default=None, omitted=True)
    high: float | None = setting("lightest of the greys, 0 to 1", low=0, high=1, default=None, omitted=True)
    size: int | None = setting("texels along a side of the texture", low=1, high=1024, default=None, omitted=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How the parameters are optimised."""

    kind: Literal["adam", "adamax"] = setting("adam or adamax")
    learning_rate: float = setting(
        "step size of the optimiser (default: the method's)",
        flag="learning-rate",
        metavar="LR",
        group=RUN,
        above=0,
    )
    final_rate: float = setting(
        "learning rate at the end, as a fraction of that at the start (default: 1; embedded model: 0.1)",
        flag="final-rate",
        metavar="F",
        group=RUN,
        low=0,
        high=1,
        expected="a fraction between 0 and 1",
    )
    warm_up: float = setting(
        "fraction of the run over which the learning rate rises, from a tenth (default: 0; dream-fields: 0.15)",
        low=0,
        high=1,
        default=0.0,
        omitted=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefinementOptions:
    """The steps in RGB that follow (latent-nerf)."""

    steps: int = setting(
        "iterations in RGB that follow, 0 for none; latent-nerf only "
        f"(default: 2000; embedded model: {EMBEDDED_REFINEMENT})",
        flag="refinement-steps",
        metavar="N",
        group=RUN,
        low=0,
    )
    size: int = setting(
        "pixels per side of a view in these iterations (default: 128)",
        flag="refinement-size",
        metavar="N",
        group=RUN,
        low=1,
    )
    views: int = setting("views a step", low=1)
    learning_rate: float = setting("step size of the optimiser", above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    prompt: str = setting("what to make")
    method: Literal["latent-nerf", "jacobian-nerf", "dream-fields"] = setting(
        f"how the object is made: {', '.join(METHODS)} or {DREAM_FIELDS} (default: latent-nerf)",
        flag="method",
        metavar="M",
        group=RUN,
        spelling=hyphens,
    )
    seed: int = seed_setting()
    steps: int = setting(
        f"iterations (default: the preset's, dream-fields: 10000; embedded model: "
        f"{', '.join(map(str, EMBEDDED_STEPS.values()))})",
        flag="steps",
        metavar="N",
        group=RUN,
        low=1,
    )
    size: int = setting(
        "latents per side of a view (default: 64; embedded model: 16; dream-fields: pixels, 168 and 64)",
        flag="size",
        metavar="N",
        group=RUN,
        low=1,
    )
    supersample: int = setting(
        "rays per latent along an axis (default: 1; embedded model: 2; dream-fields: 1)",
        flag="supersample",
        metavar="N",
        group=RUN,
        low=1,
    )
    views: int = setting(
        "views in each step (default: 1; embedded model: 2; dream-fields: 1)",
        flag="views",
        metavar="N",
        group=RUN,
        low=1,
    )
    cameras: CameraOptions
    field: HashGridOptions | VoxelOptions
    steps_per_ray: int = setting(
        "samples along a ray from corner to corner of the box", flag="steps-per-ray", metavar="N", group=SCENE, low=2
    )
    occupancy: OccupancyOptions | None = setting("the grid that says where space is empty")
    background: BackgroundOptions
    optimizer: OptimizerOptions
    regularisers: dict[Literal["sparsity", "emptiness", "opacity", "distortion", "hollowness", "depth"], Ramp] = (
        setting("weights over the run, each FIRST LAST FROM TO")
    )
    refinement: RefinementOptions | None = setting("the steps in RGB that follow")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTo3D(BaseConfiguration, _Run):
    """A run of text-to-3D; of which method, its class says: see `class_of`."""

    application: ClassVar[str] = NAME

    def check(self) -> None:
        """See `Configuration.check`."""
        super().check()
        field, cells = self.field, self.occupancy and self.occupancy.resolution
        ramps = {f"regularisers.{name}": ramp for name, ramp in self.regularisers.items()}
        if isinstance(field, VoxelOptions) and field.smoothing is not None:
            ramps["field.smoothing"] = field.smoothing
        for name, ramp in ramps.items():
            if not (0 <= ramp.begin <= ramp.end <= 1 and all(0 <= x < math.inf for x in (ramp.first, ramp.last))):
                shown = " ".join(f"{x:g}" for x in (ramp[:1] if ramp == constant(ramp.first) else ramp))
                one = "" if name == "field.smoothing" else "a weight >= 0, or "
                form = "FIRST LAST FROM TO with FIRST, LAST >= 0 and 0 <= FROM <= TO <= 1"
                raise Wrong(name, f"expected {one}{form}; got {shown}")
        if isinstance(field, VoxelOptions) and field.smoothing is not None:
            widest = max(field.smoothing.first, field.smoothing.last)
            if widest > field.resolution:
                expected = f"expected at most the {field.resolution} voxels there are"
                raise Wrong("field.smoothing", f"{expected}, got {widest:g}")
        if isinstance(field, HashGridOptions):
            if field.hidden % 16:
                raise Wrong("field.hidden", f"expected a multiple of 16, got {field.hidden}")
            if field.finest_resolution < field.base_resolution:
                coarsest, finest = field.base_resolution, field.finest_resolution
                raise Wrong("field.finest_resolution", f"expected at least base_resolution, {coarsest}, got {finest}")
        low, high = self.background.low, self.background.high
        if low is not None and high is not None and low > high:
            raise Wrong("background.high", f"expected at least low, {low:g}, got {high:g}")
        if field.blob[1] <= 0:
            raise Wrong("field.blob", f"expected a radius above 0 as the second number, got {field.blob[1]:g}")
        if cells and cells & (cells - 1):
            raise Wrong("occupancy.resolution", f"expected a power of two, got {cells}")
        behind = self.background
        for name in {"greys": ("low", "high"), "texture": ("size",)}.get(behind.kind, ()):
            if getattr(behind, name) is None:
                raise Wrong(f"background.{name}", f"expected a number for {behind.kind}, got nothing")
        if self.method != "latent-nerf" and self.refinement is not None:
            raise Wrong("refinement", f"expected nothing, as {self.method} runs without one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorGuided(TextTo3D, ModelConfiguration):
    """A run that the prior guides."""

    view_prompts: bool = setting(
        'do not add "front view", "side view" and so on to the prompt', flag="no-view-prompts", group=RUN, default=True
    )
    variance_reduction: bool = setting(
        "do not subtract the sampled noise from the gradient (SJC's var_red False)",
        flag="no-variance-reduction",
        group=RUN,
        default=True,
    )
    sigma_range: tuple[float, float] | None = setting(
        "lowest and highest noise level σ/α, in place of --timestep-range",
        flag="sigma-range",
        metavar="LOW HIGH",
        group=RUN,
        default=None,
        low=0,
        ordered=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentNerf(PriorGuided):
    """A run of Latent-NeRF's way."""

    field: HashGridOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class JacobianNerf(PriorGuided):
    """A run of SJC's way."""

    field: VoxelOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class DreamFields(ClipGuided, TextTo3D):
    """A run of DreamFields' way: CLIP guides, and the field is in RGB."""

    field: HashGridOptions

    @property
    def edition(self) -> int:
        """Of the CLIP's weights; the model is not computed with."""
        return edition_of(self.guide)

    def check(self) -> None:
        """See `Configuration.check`."""
        super().check()
        if self.regularisers:
            raise Wrong("regularisers", f"expected none, as {DREAM_FIELDS} has the transmittance loss instead")
        if self.background.kind != "greys":
            said = f"expected greys, as {DREAM_FIELDS} has random backgrounds in training; got {self.background.kind}"
            raise Wrong("background.kind", said)
        if self.augmentation.side > self.size:
            raise Wrong(
                "augmentation.side",
                f"expected at most the {self.size} pixels of a view, got {self.augmentation.side}",
            )
        if not self.augmentation.backgrounds:
            raise Wrong("augmentation.backgrounds", f"expected some of {', '.join(BEHIND)}, got nothing")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyMethod(ClipGuided, JacobianNerf):
    """What has a flag for all that any of the methods has; not a run."""


_CLASSES: dict[str, type[TextTo3D]] = {
    "latent-nerf": LatentNerf,
    "jacobian-nerf": JacobianNerf,
    DREAM_FIELDS: DreamFields,
}


def class_of(plain: Any) -> type[TextTo3D]:
    """The class of the method that plain settings name."""
    method, field = plain.get("method"), plain.get("field")
    if not isinstance(method, str) or hyphens(method) not in _CLASSES:
        # Whatever is wrong with the method is then the only thing that is wrong.
        method = "jacobian-nerf" if isinstance(field, dict) and "resolution" in field else "latent-nerf"
    return _CLASSES[hyphens(method)]

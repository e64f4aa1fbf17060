"""What a run of CLIP-Mesh is made from (config.yaml), and what holds where nothing is said."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, ClassVar, Literal

from ...errors import UsageError
from ...guidance.loading import embedded_models
from ...runs import flags
from ...runs.configuration import merged
from ...runs.names import as_typed
from ...runs.settings import Wrong, setting
from ..config_flag import start_from
from ..options import MODEL, RUN, BaseConfiguration, seed_setting, settle
from .rasterisers import NEAREST, Name, default_for

NAME = "clip-mesh"
CHECKPOINT_EVERY = 200
SCENE = "scene"
BackgroundKind = Literal["random", "greys"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """Where the cameras stand."""

    elevation: tuple[float, float] = setting(
        "height of the cameras, in degrees above the horizon (default: 0 90; embedded model: -5 55)",
        flag="elevation",
        metavar="LOW HIGH",
        group=SCENE,
        low=-90,
        high=90,
        ordered=True,
    )
    low_share: float = setting("how much more often low ones are drawn: 1 alike, 5 as CLIP-Mesh's Beta(1, 5)", low=1)
    radius: tuple[float, float] = setting(
        "distance of the cameras from the middle, in world units (default: 5 12; embedded model: 3.31 3.96)",
        flag="radius",
        metavar="LOW HIGH",
        group=SCENE,
        low=1e-3,
        ordered=True,
    )
    fov: tuple[float, float] = setting(
        "field of view, in degrees (default: 30 90; embedded model: 40 40)",
        flag="fov",
        metavar="LOW HIGH",
        group=SCENE,
        low=1,
        high=179,
        ordered=True,
    )
    offset: float = setting("how far the middle is from the picture's, at most, in picture widths", low=0, high=0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightOptions:
    """How the mesh is lit."""

    ambient: float = setting("light from everywhere; 1 shows the texture as it is", low=0, high=10)
    power: float = setting("light of a lamp that shines straight on a face", low=0, high=100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    prompt: str = setting("what to make")
    seed: int = seed_setting()
    steps: int = setting("iterations (default: 5000; embedded model: 600)", flag="steps", metavar="N", group=RUN, low=1)
    learning_rate: float = setting(
        "step size of Adam (default: 0.01)", flag="learning-rate", metavar="LR", group=RUN, above=0
    )
    final_rate: float = setting(
        "learning rate at the end, as a fraction of that at the start (default: 0.1)",
        flag="final-rate",
        metavar="F",
        group=RUN,
        above=0,
        high=1,
        expected="a fraction above 0 and at most 1",
    )
    views: int = setting(
        "pictures in each step (default: 25; embedded model: 8)", flag="views", metavar="N", group=RUN, low=1
    )
    size: int = setting(
        "pixels per side of a picture, which is then resized to CLIP's (default: 512; embedded model: 128)",
        flag="size",
        metavar="N",
        group=RUN,
        low=8,
        high=4096,
    )
    untextured: float = setting(
        "part of the run in which half of the pictures, rounded down, show the mesh without its texture (default: 0.5)",
        flag="untextured",
        metavar="SHARE",
        group=RUN,
        low=0,
        high=1,
        expected="a share between 0 and 1",
    )
    laplacian: tuple[float, float] = setting(
        "weight of the Laplacian regulariser at the start and in the end (default: 30 0.6; embedded model: 300 60)",
        flag="laplacian",
        metavar="FIRST LAST",
        group=RUN,
        low=0,
    )
    rasteriser: Name = setting(
        "what draws: deodr, on the CPU, or nvdiffrast, on a GPU (default: nvdiffrast on a GPU that has it, else deodr)",
        flag="rasteriser",
        metavar="NAME",
        group=MODEL,
    )
    level: int = setting(
        "subdivisions of the icosahedron that the control points are: 3 are 642 points (default: 3)",
        flag="level",
        metavar="N",
        group=SCENE,
        low=0,
        high=6,
    )
    refinement: int = setting(
        "how many subdivisions more the drawn mesh has (default: 3; embedded model: 1)",
        flag="refinement",
        metavar="N",
        group=SCENE,
        low=0,
        high=5,
    )
    texture: int = setting(
        "texels along a side of the texture (default: 512; embedded model: 64)",
        flag="texture",
        metavar="N",
        group=SCENE,
        low=4,
        high=4096,
    )
    ball: float = setting("radius of the ball that it starts as, world units", above=0, high=100)
    background: BackgroundKind = setting(
        "what is behind the object: random (noise, checkerboards and colours) or greys (default: random; embedded "
        "model: greys)",
        flag="background",
        metavar="KIND",
        group=SCENE,
    )
    cameras: CameraOptions
    light: LightOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipMesh(BaseConfiguration, _Run):
    """A run of CLIP-Mesh."""

    application: ClassVar[str] = NAME

    model: str = setting(
        "CLIP that guides: that of an embedded model, a folder of transformers' CLIPModel, owner/name on the Hugging "
        "Face hub, or open_clip:ARCHITECTURE:WEIGHTS",
        flag="model",
        group=MODEL,
        default="primitives",
    )

    def check(self) -> None:
        """See `Configuration.check`."""
        super().check()
        if self.level + self.refinement > 7:
            raise Wrong(
                "refinement",
                f"expected at most {7 - self.level} with a level of {self.level}, for there would "
                f"be {10 * 4 ** (self.level + self.refinement) + 2:,} vertices; got {self.refinement}",
            )
        nearest, closest = self.cameras.radius[0], self.ball + NEAREST
        if nearest <= closest:
            raise Wrong(
                "cameras.radius",
                f"expected cameras outside the ball of radius {self.ball:g} that it starts as: more than {closest:g} "
                f"away, got {nearest:g}",
            )


# CLIP-Mesh's configs/paper.yml; what differs is in docs/clip_mesh.md.
FULL: dict[str, Any] = {
    "seed": 0,
    "steps": 5000,
    "learning_rate": 0.01,
    "final_rate": 0.1,
    "views": 25,
    "size": 512,
    "untextured": 0.5,
    "laplacian": [30.0, 0.6],
    "level": 3,
    "refinement": 3,
    "texture": 512,
    "ball": 1.0,
    "background": "random",
    "cameras": {
        "elevation": [0.0, 90.0],
        "low_share": 5.0,
        "radius": [5.0, 12.0],
        "fov": [30.0, 90.0],
        # Two units of a picture that is ten wide in the middle of those ranges.
        "offset": 0.2,
    },
    # A light power of 5 over Lambert's π.
    "light": {"ambient": 0.0, "power": 1.59},
    "checkpoint_every": CHECKPOINT_EVERY,
}
# Small pictures of one solid on grey, as the embedded CLIP knows them: a minute on a core.
EMBEDDED: dict[str, Any] = {
    "steps": 600,
    "views": 8,
    "size": 128,
    # With 30 and 0.6 the surface of a run this short folds over itself, and petals cover it.
    "laplacian": [300.0, 60.0],
    "refinement": 1,
    "texture": 64,
    "ball": 0.7,
    "background": "greys",
    "cameras": {
        "elevation": [-5.0, 55.0],
        "low_share": 1.0,
        "radius": [3.31, 3.96],
        "fov": [40.0, 40.0],
        "offset": 0.03,
    },
    "light": {"ambient": 0.7, "power": 0.34},
}


def configure(args: argparse.Namespace, **more: Any) -> ClipMesh:
    """Checks the flags and resolves them to what config.yaml records.

    Args:
        args: the command line.
        more: settings in place of what it says, such as `prompt`.

    Raises:
        UsageError: a value that is out of range, a name that is not known.
    """
    said, file = start_from(args, NAME)
    words = {**flags.given(args, ClipMesh), **more}
    if "prompt" not in more and getattr(args, "prompt", None) is not None:
        words["prompt"] = args.prompt
    if not str(words.get("prompt", said.get("prompt")) or "").strip():
        raise UsageError('prompt: expected one, such as ldp-fast clip-mesh "a red torus"')
    if isinstance(words.get("prompt"), str):
        words["prompt"] = as_typed(words["prompt"], "prompt")
    own = {"seed": "--seeds"} if isinstance(getattr(args, "seed", None), list) else None
    return flags.build(ClipMesh, resolve(merged(said, words)), args, file, own)


def resolve(known: dict[str, Any]) -> dict[str, Any]:
    """All settings of a run, plain, from those that were said."""
    found = {"model": "primitives", **known}
    embedded = str(found["model"]).partition("/")[0] in embedded_models()
    # A CLIP is small, so that half precision has to be asked for.
    found["dtype"] = found.get("dtype") or "float32"
    settle(found)
    base = merged(FULL, EMBEDDED) if embedded else FULL
    kind = str(found["device"]).partition(":")[0]
    return merged({**base, "rasteriser": default_for(kind)}, found)

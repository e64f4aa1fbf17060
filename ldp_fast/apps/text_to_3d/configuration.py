"""The methods' defaults, and what a command line and a file make of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ...checks import is_real
from ...errors import UsageError
from ...guidance.loading import embedded_models
from ...guidance.presets import PRESETS, find_preset
from ...runs.configuration import merged
from ...runs.schedule import Ramp, constant
from ...runs.settings import Wrong, as_plain, hyphens
from ...zoo import world
from ..options import PriorOptions, settle
from . import dream_configuration
from .grids import EMBEDDED_GRID, FULL_GRID
from .sections import ALL_METHODS, DREAM_FIELDS, EMBEDDED_REFINEMENT, EMBEDDED_STEPS, METHODS

# Steps; where nothing else is said.
CHECKPOINT_EVERY = 200
_DARK, _LIGHT = world.BACKGROUNDS
BACKGROUND_OPTIONS: dict[str, dict[str, Any]] = {"greys": {"low": _DARK, "high": _LIGHT}, "texture": {"size": 4}}


def _always(value: float) -> list[float]:
    return list(constant(float(value)))


_LATENT, _JACOBIAN = (find_preset(name) for name in METHODS.values())
# Full size: the paper's §4.1 and what Latent-NeRF and SJC do where it is silent.
FULL: dict[str, dict[str, Any]] = {
    "latent-nerf": {
        "size": 64,
        "supersample": 1,
        "views": 1,
        "cameras": {"elevation": [-15.0, 45.0], "radius": [2.6, 3.4], "fov": [40.0, 50.0], "overhead": 0.1},
        "field": FULL_GRID,
        "steps_per_ray": 512,
        "occupancy": {"resolution": 128, "every": 16},
        "background": {"kind": "network"},
        "optimizer": {"kind": _LATENT.optimizer, "learning_rate": _LATENT.learning_rate, "final_rate": 1.0},
        "regularisers": {"sparsity": _always(_LATENT.extra["sparsity"])},
        "refinement": {
            "steps": _LATENT.extra["refinement_iterations"],
            "size": 128,
            "views": 1,
            "learning_rate": _LATENT.learning_rate,
        },
    },
    "jacobian-nerf": {
        # SJC leaves out the ends of its table of noise levels: t from 10 to 969 of 1000.
        "prior": {"timestep_range": [0.01, 0.969]},
        "size": 64,
        "supersample": 1,
        "views": 1,
        "cameras": {"elevation": [-10.0, 45.0], "radius": [2.6, 3.4], "fov": [40.0, 50.0], "overhead": 0.1},
        "field": {
            "resolution": 100,
            "density_shift": -10.0,
            "density_scale": 1.0,
            "latent_scale": 1.0,
            "blob": [10.0, 0.5],
        },
        "steps_per_ray": 128,
        "occupancy": None,
        "background": {"kind": "texture", **BACKGROUND_OPTIONS["texture"]},
        "optimizer": {"kind": _JACOBIAN.optimizer, "learning_rate": _JACOBIAN.learning_rate, "final_rate": 1.0},
        # SJC's weight of 10⁴ on a mean over rays and samples, twenty times as much in the second half.
        "regularisers": {"emptiness": [0.02, 0.4, 0.5, 0.5], "depth": _always(1.0)},
        "refinement": None,
    },
}
# The embedded model: small pictures of small solids on grey, minutes on two cores.
_PRIOR = {"guidance_scale": 2.5, "anneal_to": 0.3, "scale": "balanced", "lambda_fm": 0.3, "lambda_kl": 0.02}
_SHARED: dict[str, Any] = {
    "prior": _PRIOR,
    "size": 16,
    "supersample": 2,
    "views": 2,
    "cameras": {"elevation": [-5.0, 55.0], "radius": [3.31, 3.96], "fov": [40.0, 40.0], "overhead": 1 / 6},
    "steps_per_ray": 64,
    "background": {"kind": "greys", **BACKGROUND_OPTIONS["greys"]},
}
EMBEDDED: dict[str, dict[str, Any]] = {
    "latent-nerf": {
        **_SHARED,
        "field": EMBEDDED_GRID,
        "occupancy": {"resolution": 32, "every": 16},
        "optimizer": {"kind": "adam", "learning_rate": 3e-3, "final_rate": 0.1},
        # Without `hollowness` solids end hollow and open below, where no camera looks: what carves the outside lowers
        # the network's density everywhere. At 0.01 it filled the hole of a torus.
        "regularisers": {
            "emptiness": [0.0, 0.005, 0.2, 0.8],
            "opacity": _always(0.001),
            "hollowness": _always(0.003),
        },
        "refinement": {"steps": EMBEDDED_REFINEMENT, "size": 128, "views": 1, "learning_rate": 5e-4},
    },
    "jacobian-nerf": {
        **_SHARED,
        # The hole of a torus shows from above only, and has to be carved out of the ball.
        "cameras": {**_SHARED["cameras"], "overhead": 0.3},
        # SJC's w(t) = 1 makes the lowest t, which says nothing about shapes, as loud as the others.
        "prior": {**_PRIOR, "weighting": _LATENT.settings.weighting},
        # A solid ball in space that is nearly empty: what has to be carved is done sooner than what has to grow, and a
        # shift of −4 was a fog of 0.2 per unit of length all over the box.
        "field": {
            "resolution": 32,
            "density_shift": -6.0,
            "density_scale": 10.0,
            "latent_scale": 0.1,
            "blob": [9.0, 0.5],
            # A torus' hole stays full of grey where each voxel moves by its own noisy gradient.
            "smoothing": [2.0, 0.0, 0.0, 0.6],
        },
        "optimizer": {"kind": "adamax", "learning_rate": 0.25, "final_rate": 0.1},
        # Strong while the ball is carved. With opacity as it begins to the end and emptiness up to 0.04 the tubes of
        # tori were thin.
        "regularisers": {"emptiness": [0.0, 0.02, 0.3, 0.6], "opacity": [0.02, 0.001, 0.3, 0.6]},
    },
}
# What takes more time, and what it changes. Of a full-size model no quality but the paper's is known.
QUALITIES: dict[str, dict[str, Any]] = {"normal": {}, "high": {"settings": {"noises": 3}}}


def defaults(method: str, embedded: bool) -> dict[str, Any]:
    """A method's plain settings without prompt, seed and prior.

    Raises:
        Wrong: an unknown method.
    """
    if method not in ALL_METHODS:
        raise Wrong("method", f"expected one of {', '.join(ALL_METHODS)}; got {method!r}")
    if method == DREAM_FIELDS:
        return dream_configuration.defaults(embedded)
    found = {**FULL[method], **(EMBEDDED[method] if embedded else {})}
    return copy.deepcopy({name: value for name, value in found.items() if name != "prior"})


def _off(refinement: Any) -> bool:
    return refinement is None or (isinstance(refinement, dict) and refinement.get("steps") == 0)


def resolve(said: dict[str, Any], words: dict[str, Any], quality: str = "normal") -> dict[str, Any]:
    """All settings of a run, plain, from those that were said.

    Args:
        said: by a file.
        words: by flags, which win.
        quality: one of `QUALITIES`, a flag as well; the other flags win over it.

    Raises:
        Wrong: an unknown method or preset, or a refinement that the method does not have.
        UsageError: a quality that the model lacks, or flags that exclude each other.
    """
    known = merged(said, words)
    method, model = hyphens(str(known.get("method", "latent-nerf"))), known.get("model", "primitives")
    if method == DREAM_FIELDS:
        return dream_configuration.resolve(said, words, quality, CHECKPOINT_EVERY)
    embedded = model in embedded_models()
    if quality not in QUALITIES:
        raise UsageError(f"--quality: expected one of {', '.join(QUALITIES)}; got {quality!r}")
    if quality != "normal" and not embedded:
        raise UsageError(
            f"--quality: expected normal with {model!r}, whose settings are the paper's; for more time give --steps, "
            f"--views or --noises"
        )
    base = defaults(method, embedded)
    if not isinstance(said.get("settings") or {}, dict):
        raise Wrong("settings", f"expected a section of settings, got {said['settings']!r}")
    known = merged(merged(said, QUALITIES[quality]), words)
    own = (EMBEDDED if embedded else FULL)[method].get("prior", {}) if "preset" not in known else {}
    name = str(known.get("preset", METHODS[method])).replace("-", "_")
    if name not in PRESETS:
        raise Wrong("preset", f"expected one of {', '.join(PRESETS)}; got {name!r}")
    preset = PRESETS[name]
    settings = known.get("settings") or {}
    if known.get("sigma_range") is not None and "timestep_range" in words.get("settings", {}):
        raise UsageError("--sigma-range and --timestep-range: give one of them")
    if "timestep_range" in settings or known.get("sigma_range") is not None:
        # Who says where t lies is not to find it elsewhere later.
        own = {name: value for name, value in own.items() if name not in ("anneal_to", "timestep_range")}
    base |= {
        "method": method,
        "model": model,
        "steps": EMBEDDED_STEPS[method] if embedded else preset.iterations,
        "preset": METHODS[method],
        "checkpoint_every": CHECKPOINT_EVERY,
        "settings": {**as_plain(PriorOptions.of(preset.settings)), **own},
    }
    settle(known)
    if known["dtype"] == "float16":
        # One overflow in half precision should not end a run of hours.
        base["settings"]["nonfinite"] = "zero"
    behind = known.get("background")
    if isinstance(behind, dict) and behind.get("kind", base["background"]["kind"]) != base["background"]["kind"]:
        base["background"] = {"kind": behind["kind"], **BACKGROUND_OPTIONS.get(behind["kind"], {})}
    if "regularisers" in said:
        base["regularisers"] = {}  # a file says all of them, and flags change some
    held = said.get("field")
    if isinstance(held, dict) and FULL[method]["field"].keys() <= held.keys():
        base["field"] = {}  # a file that says all that has to be said says by its absence that there is nothing else
    if "resolution" in words.get("field", {}) and method != "jacobian-nerf":
        raise UsageError("--voxels: latent-nerf has a hash grid, not voxels")
    for name in words.get("refinement", {}):
        if known.get("refinement", base["refinement"]) is None or base["refinement"] is None:
            raise UsageError(f"--refinement-{name}: {method} runs without a refinement")
    if base["refinement"] is None and not _off(known.get("refinement")):
        raise Wrong("refinement", f"expected nothing, as {method} runs without one")
    plain = merged(base, known)
    if _off(plain["refinement"]):
        plain["refinement"] = None
    weights = plain["regularisers"]
    if isinstance(weights, dict):
        plain["regularisers"] = {name: _always(w) if is_real(w) else w for name, w in weights.items()}
    return plain


def ramp(name: str, given: Sequence[float]) -> Ramp:
    """A weight from the command line: one number, or four.

    Raises:
        UsageError: another number of numbers.
    """
    if len(given) not in (1, 4):
        raise UsageError(f"--{name}: expected a weight, or FIRST LAST FROM TO; got {len(given)} numbers")
    return constant(given[0]) if len(given) == 1 else Ramp(*given)

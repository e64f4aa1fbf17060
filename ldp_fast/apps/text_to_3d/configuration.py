"""What a run is made from: the methods' defaults, checked and as plain data (config.yaml)."""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from ...errors import UsageError
from ...guidance.presets import find_preset
from .. import files

FORMAT = 1
METHODS = {"latent-nerf": "latent_nerf", "jacobian-nerf": "jacobian_nerf"}  # and the preset of each
BACKGROUNDS = ("greys", "network", "texture", "none")
BACKGROUND_OPTIONS: dict[str, dict[str, Any]] = {"greys": {"low": 0.42, "high": 0.55}, "texture": {"size": 4}}
REGULARISERS = {
    "sparsity": "entropy of the rays' opacity (Latent-NeRF): they end in the object or pass",
    "emptiness": "Σ log(1 + 10 w) of the samples (SJC): few samples carry a ray",
    "opacity": "of the rays: what need not be there goes",
    "distortion": "of mip-NeRF 360: what carries a ray lies together",
    "depth": "the middle of the picture is nearer than its border (SJC)",
}
# What a configuration has.
NAMES = (
    *("prompt", "negative_prompt", "method", "seed", "steps", "view_prompts", "variance_reduction", "sigma_range"),
    *("checkpoint_every", "keep", "size", "supersample", "views", "cameras", "field", "steps_per_ray", "occupancy"),
    *("background", "optimizer", "regularisers", "refinement", "model", "device", "dtype", "preset", "settings"),
)
# A weight over a run: first value, last value, the fractions of the run between which it goes from one to the other.
Ramp = list[float]


def constant(value: float) -> Ramp:
    """A weight that stays."""
    return [value, value, 0.0, 0.0]


_LATENT, _JACOBIAN = (find_preset(name) for name in METHODS.values())
# Full size: the paper's §4.1 and what Latent-NeRF and SJC do where it is silent.
FULL: dict[str, dict[str, Any]] = {
    "latent-nerf": {
        "size": 64,
        "supersample": 1,
        "views": 1,
        "cameras": {"elevation": [-15.0, 45.0], "radius": [2.6, 3.4], "fov": [40.0, 50.0], "overhead": 0.1},
        "field": {
            "levels": 16,
            "log2_table_size": 19,
            "base_resolution": 16,
            "finest_resolution": 2048,
            "hidden": 64,
            "blob": [5.0, 0.2],
        },
        "steps_per_ray": 512,
        "occupancy": {"resolution": 128, "every": 16},
        "background": {"kind": "network"},
        "optimizer": {"kind": _LATENT.optimizer, "learning_rate": _LATENT.learning_rate, "final_rate": 1.0},
        "regularisers": {"sparsity": constant(_LATENT.extra["sparsity"])},
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
        "regularisers": {"emptiness": [0.02, 0.4, 0.5, 0.5], "depth": constant(1.0)},
        "refinement": None,
    },
}
# The embedded model: small pictures of small solids on grey, minutes on two cores.
_PRIOR = {"guidance_scale": 7.5, "anneal_to": 0.3, "scale": "balanced", "lambda_fm": 0.3}
_SHARED: dict[str, Any] = {
    "steps": 400,
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
        "prior": {**_PRIOR, "lambda_kl": 0.02},
        "field": {
            "levels": 8,
            "log2_table_size": 14,
            "base_resolution": 8,
            "finest_resolution": 64,
            "hidden": 32,
            "blob": [5.0, 0.3],
        },
        "occupancy": {"resolution": 32, "every": 16},
        "optimizer": {"kind": "adam", "learning_rate": 3e-3, "final_rate": 0.1},
        "regularisers": {"emptiness": [0.0, 0.01, 0.2, 0.8], "opacity": constant(0.003)},
        "refinement": {"steps": 120, "size": 128, "views": 1, "learning_rate": 5e-4},
    },
    "jacobian-nerf": {
        **_SHARED,
        "field": {
            "resolution": 32,
            "density_shift": -4.0,
            "density_scale": 10.0,
            "latent_scale": 0.1,
            "blob": [2.0, 0.5],
        },
        "optimizer": {"kind": "adamax", "learning_rate": 0.4, "final_rate": 0.1},
        "regularisers": {"emptiness": [0.0, 0.1, 0.2, 0.8], "opacity": constant(0.05)},
    },
}


def defaults(method: str, embedded: bool) -> dict[str, Any]:
    """A method's configuration without prompt, seed and prior.

    Raises:
        UsageError: an unknown method.
    """
    if method not in METHODS:
        raise UsageError(f"--method: expected one of {', '.join(METHODS)}; got {method!r}")
    found = {**FULL[method], **(EMBEDDED[method] if embedded else {})}
    return files.plain({name: value for name, value in found.items() if name not in ("prior", "steps")})


def fingerprint(configuration: Mapping[str, Any]) -> str:
    """A digest of what a run's result depends on; checkpoints carry it."""
    relevant = {k: v for k, v in configuration.items() if k not in ("checkpoint_every", "keep", "device")}
    return hashlib.sha256(json.dumps(files.plain(relevant), sort_keys=True).encode()).hexdigest()


def write_configuration(folder: pathlib.Path, configuration: Mapping[str, Any]) -> None:
    """Writes config.yaml, atomically."""
    import yaml

    text = yaml.safe_dump({"format": FORMAT, **files.plain(configuration)}, sort_keys=False, allow_unicode=True)
    files.write_atomically(folder / "config.yaml", text.encode())


def read_configuration(folder: pathlib.Path) -> dict[str, Any]:
    """Reads config.yaml.

    Raises:
        UsageError: it is missing or damaged, or of another format.
    """
    import yaml

    path = folder / "config.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no text-to-3d run: there is no config.yaml in it") from None
    except NotADirectoryError:
        raise UsageError(f"{folder} is no folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        got = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise UsageError(f"{path}: expected a configuration of format {FORMAT}, got {got}")
    del found["format"]
    missing = [name for name in NAMES if name not in found]
    if missing:
        raise UsageError(f"{path} is damaged: it has no {', '.join(missing)}")
    return found


def check(configuration: Mapping[str, Any]) -> None:
    """Checks the numbers of a configuration.

    Raises:
        UsageError: one is out of range; names the flag.
    """
    whole = (("steps", 1), ("views", 1), ("size", 1), ("seed", 0), ("checkpoint_every", 1), ("keep", 1))
    for name, low in (*whole, ("steps_per_ray", 2), ("supersample", 1)):
        value = configuration[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise UsageError(f"--{name.replace('_', '-')}: expected a whole number of at least {low}, got {value}")
    if configuration["seed"] >= 2**31:
        raise UsageError(f"--seed: expected a whole number below 2147483648, got {configuration['seed']}")
    optimizer = configuration["optimizer"]
    if not (optimizer["learning_rate"] > 0 and math.isfinite(optimizer["learning_rate"])):
        raise UsageError(f"--learning-rate: expected a positive number, got {optimizer['learning_rate']}")
    if not 0 <= optimizer["final_rate"] <= 1:
        raise UsageError(f"--final-rate: expected a fraction between 0 and 1, got {optimizer['final_rate']}")
    if configuration["background"]["kind"] not in BACKGROUNDS:
        raise UsageError(
            f"--background: expected one of {', '.join(BACKGROUNDS)}; got {configuration['background']['kind']!r}"
        )
    for name, ramp in configuration["regularisers"].items():
        if name not in REGULARISERS:
            raise UsageError(f"regularisers: expected some of {', '.join(REGULARISERS)}; got {name!r}")
        ok = len(ramp) == 4 and all(math.isfinite(x) for x in ramp) and 0 <= ramp[2] <= ramp[3] <= 1
        if not ok or min(ramp[:2]) < 0:
            raise UsageError(
                f"--{name}: expected a weight, or FIRST LAST FROM TO with 0 <= FROM <= TO <= 1; got "
                f"{' '.join(f'{x:g}' for x in ramp)}"
            )
    _check_cameras(configuration["cameras"])
    refinement = configuration["refinement"]
    if refinement and refinement["steps"] < 0:
        raise UsageError(f"--refinement-steps: expected at least 0, got {refinement['steps']}")


def _check_cameras(cameras: Mapping[str, Any]) -> None:
    limits = {"elevation": (-90.0, 90.0), "radius": (1e-3, math.inf), "fov": (1.0, 179.0), "azimuth": (-360.0, 720.0)}
    for name, (low, high) in limits.items():
        if name in cameras:
            first, last = cameras[name]
            if not (low <= first <= last <= high and math.isfinite(last)):
                raise UsageError(f"--{name}: expected LOW HIGH between {low:g} and {high:g}, got {first:g} {last:g}")
    if not 0 <= cameras.get("overhead", 0.0) <= 1:
        raise UsageError(f"--overhead: expected a share between 0 and 1, got {cameras['overhead']}")


def weight_at(ramp: Ramp, progress: float) -> float:
    """A ramp's value at a fraction of the run."""
    first, last, begin, end = ramp
    if progress >= end:
        return last
    return first if progress <= begin else first + (last - first) * (progress - begin) / (end - begin)

"""Tiny runs of text-to-3D: a small model, a small field, a few steps."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast import cli
from ldp_fast.apps.text_to_3d import scene_trainer as module
from ldp_fast.apps.text_to_3d.configuration import defaults, resolve
from ldp_fast.apps.text_to_3d.mesh import outlines, texture
from ldp_fast.apps.text_to_3d.pictures import products
from ldp_fast.apps.text_to_3d.run import begin
from ldp_fast.apps.text_to_3d.sections import DreamFields, TextTo3D, class_of
from ldp_fast.apps.text_to_3d.trainer import Trainer
from ldp_fast.runs import checkpoints, loop
from ldp_fast.runs.configuration import merged, write

METHODS = ("latent-nerf", "jacobian-nerf")
SMALL: dict[str, dict[str, Any]] = {
    "latent-nerf": {
        "field": {
            "levels": 3,
            "log2_table_size": 8,
            "base_resolution": 4,
            "finest_resolution": 16,
            "hidden": 16,
            "blob": [5.0, 0.3],
        },
        "occupancy": {"resolution": 8, "every": 2},
        "refinement": {"steps": 4, "size": 16, "views": 1, "learning_rate": 1e-3},
    },
    "jacobian-nerf": {
        "field": {
            "resolution": 6,
            "density_shift": -1.0,
            "density_scale": 1.0,
            "latent_scale": 1.0,
            "blob": [2.0, 0.5],
        }
    },
}


DREAM_FIELDS: dict[str, Any] = {
    **{"prompt": "a red torus", "seed": 3, "steps": 6, "size": 12, "steps_per_ray": 16, "checkpoint_every": 3},
    "field": {
        **{"levels": 3, "log2_table_size": 8, "base_resolution": 4, "finest_resolution": 16, "hidden": 16},
        "blob": [5.0, 0.5],
    },
    "occupancy": {"resolution": 8, "every": 2},
    "augmentation": {"crops": 2, "side": 10},
}


def dream_fields(**changes: Any) -> DreamFields:
    """A small run's configuration of dream-fields, with other settings, plain, laid over it."""
    said = resolve({"method": "dream-fields", "device": "cpu"}, {})
    return DreamFields.from_plain(merged(said, merged(DREAM_FIELDS, changes)))


def configuration(model: str, method: str = "latent-nerf", **changes: Any) -> TextTo3D:
    """A small run's configuration; `settings` are changed one by one, everything else is replaced."""
    settings = {
        **{"lambda_fm": 0.05, "lambda_kl": 0.1, "lambda_lsd": 1.0, "guidance_scale": 3.0, "guidance": "from_uncond"},
        **{"weighting": "uniform", "scale": "latent", "nonfinite": "propagate", "levels": ["up0"]},
        **{"timestep_range": [0.1, 0.9], "anneal_to": None},
        **changes.pop("settings", {}),
    }
    plain = {
        **{"prompt": "abc", "negative_prompt": "", "method": method, "seed": 3, "steps": 8, "view_prompts": True},
        **{"variance_reduction": True, "sigma_range": None, "checkpoint_every": 4, "keep": 3},
        **defaults(method, embedded=False),
        **SMALL[method],
        **{"model": model, "device": "cpu", "dtype": None, "preset": method.replace("-", "_"), "settings": settings},
        **{"size": 8, "steps_per_ray": 16, "views": 1},
        **changes,
    }
    return class_of(plain).from_plain(plain)


def changed(given: TextTo3D, **changes: Any) -> TextTo3D:
    """A configuration with other settings, plain, laid over it."""
    return type(given).from_plain(merged(given.plain(), changes))


def trainer(given: TextTo3D, **ranks: int) -> Trainer:
    """A trainer at step 0."""
    return begin(given, **ranks)


def prepared(folder: pathlib.Path, given: TextTo3D) -> pathlib.Path:
    """A run folder in which nothing has happened yet, to be run with `--resume`."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, given)
    return folder


def command(*words: object) -> int:
    """`ldp-fast text-to-3d WORDS`: its exit code."""
    return cli.main(["text-to-3d", *map(str, words)])


def signalled(number: signal.Signals, step: int, threads: int, *words: object) -> int:
    """`ldp-fast text-to-3d WORDS`, which gets a signal at the end of a step; for a process of its own."""
    torch.set_num_threads(threads)
    advance = Trainer.advance

    def and_signal(self: Trainer, *arguments: Any) -> None:
        advance(self, *arguments)
        if self.step == step:
            os.kill(os.getpid(), number)

    Trainer.advance = and_signal  # type: ignore[method-assign]
    return command(*words)


@contextlib.contextmanager
def before_step(step: int, action: Any) -> Iterator[None]:
    """Calls action(trainer) before the step after `step` steps."""
    original = Trainer.advance

    def advance(self: Trainer, *arguments: Any) -> None:
        if self.step == step:
            action(self)
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", advance)
        yield


def save(made: Trainer, path: pathlib.Path) -> None:
    """Writes a checkpoint as the loop does."""
    checkpoints.write(path, made.state(), made.facts(), made.step, made.configuration.fingerprint())


def load(made: Trainer, path: pathlib.Path) -> None:
    """Goes on from a checkpoint as the loop does."""
    made.load_state(*checkpoints.read(path, made.configuration.fingerprint()))


def newest(folder: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of a run's newest checkpoint."""
    from safetensors.torch import load_file

    return load_file(checkpoints.path_of(folder, checkpoints.steps(folder)[-1]))


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """Runs end with their last checkpoint; what is made of it has tests of its own."""
    patch.setattr(loop._Loop, "_finish", lambda self: None)


def with_quick_products(patch: pytest.MonkeyPatch) -> None:
    """Runs end with all that they make, from the same code: pictures and a film of few views, a coarse mesh with few
    texels, coloured from every sixth view and compared with two outlines."""
    film, mesh = module.pictures.write_turntable, module.export_mesh
    cameras = texture.baking_cameras
    patch.setattr(products, "VIEWS", 2)
    patch.setattr(texture, "baking_cameras", lambda orbit: cameras(orbit)[::6])
    patch.setattr(outlines, "RINGS", ((15.0, 2),))
    patch.setattr(outlines, "RAYS", 24)
    patch.setattr(module.pictures, "write_turntable", functools.partial(film, frames=4))
    patch.setattr(module, "export_mesh", functools.partial(mesh, resolution=24, faces=1000, texture=128))


def diverge(trainer: Trainer) -> None:
    """From now on the prior's gradients are not finite."""
    original = trainer.prior.gradient

    def gradient(*arguments: Any, **options: Any) -> Any:
        found, statistics = original(*arguments, **options)
        return found * float("nan"), statistics

    trainer.prior.gradient = gradient  # type: ignore[method-assign]

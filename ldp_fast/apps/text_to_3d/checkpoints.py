"""Checkpoints of a run: safetensors, replaced atomically, the last few kept."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..files import write_atomically
from .configuration import fingerprint

if TYPE_CHECKING:
    from .scene import Scene


def path_of(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Where a step's checkpoint lies."""
    return folder / "checkpoints" / f"step-{step:06d}.safetensors"


def scene_state(scene: Scene) -> dict[str, Tensor]:
    """Parameters and buffers, by `scene.NAME`, on the CPU."""
    return {f"scene.{name}": x.detach().cpu().contiguous() for name, x in scene.state_dict().items()}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bytes: a disk's silent faults are not taken for an object."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].contiguous()
        total.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        total.update(x.reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b"")
    return total.hexdigest()


def write(path: pathlib.Path, tensors: Mapping[str, Tensor], scene: Scene) -> None:
    """Writes a checkpoint, atomically; a full disk leaves what was there."""
    from safetensors.torch import save

    metadata = {
        "digest": digest(tensors),
        "step": str(scene.step),
        "refined": str(int(scene.refined)),
        "fingerprint": fingerprint(scene.configuration),
    }
    write_atomically(path, save(dict(tensors), metadata))


def read(path: pathlib.Path, configuration: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a checkpoint whole, before anything is changed.

    Raises:
        UsageError: it is damaged, or belongs to another configuration.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
        found, _, _ = metadata["fingerprint"], int(metadata["step"]), int(metadata["refined"])
        if metadata["digest"] != digest(tensors):
            raise ValueError("its contents are not what was written")
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UsageError(
            f"{path} is damaged ({' '.join(str(error).split())}); delete it to go on from the one before it"
        ) from None
    if found != fingerprint(configuration):
        raise UsageError(f"{path} belongs to another configuration than {path.parents[1] / 'config.yaml'} describes")
    return tensors, metadata


def apply_scene_state(
    path: pathlib.Path, scene: Scene, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Puts a checkpoint's parameters and buffers into a scene.

    Raises:
        UsageError: they do not fit; nothing is changed then.
    """
    state = {name.removeprefix("scene."): x for name, x in tensors.items() if name.startswith("scene.")}
    own = scene.state_dict()
    if {k: (v.shape, v.dtype) for k, v in state.items()} != {k: (v.shape, v.dtype) for k, v in own.items()}:
        raise UsageError(f"{path} is damaged: its tensors are not those of this configuration's field")
    scene.load_state_dict(state)
    scene.step, scene.refined = int(metadata["step"]), metadata["refined"] == "1"


def load_scene_state(path: pathlib.Path, scene: Scene, configuration: Mapping[str, Any]) -> None:
    """Reads a checkpoint into a scene, to look at it.

    Raises:
        UsageError: it is damaged, or belongs to another configuration.
    """
    apply_scene_state(path, scene, *read(path, configuration))


def optimiser_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's tensors by `optimizer.PARAMETER.NAME`, on the CPU."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(x).detach().cpu().contiguous()
        for index, held in state.items()
        for name, x in held.items()
    }


def load_optimiser_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `optimiser_state`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, x in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = x
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

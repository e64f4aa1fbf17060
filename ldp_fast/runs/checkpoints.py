"""Checkpoints of a run: safetensors with a digest, replaced atomically, the last few kept."""

from __future__ import annotations

import hashlib
import pathlib
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UsageError
from .files import write_atomically

PATTERN = "checkpoints/step-*.safetensors"


def path_of(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Where a step's checkpoint lies."""
    return folder / "checkpoints" / f"step-{step:06d}.safetensors"


def steps(folder: pathlib.Path) -> list[int]:
    """The steps of which a run folder holds a checkpoint, ascending."""
    found = (re.fullmatch(r"step-(\d+)\.safetensors", path.name) for path in folder.glob(PATTERN))
    return sorted(int(match[1]) for match in found if match)


def keep(folder: pathlib.Path, count: int) -> None:
    """Removes all but the newest."""
    for step in steps(folder)[:-count]:
        path_of(folder, step).unlink(missing_ok=True)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bytes: a disk's silent faults are not taken for a result."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].contiguous()
        total.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        total.update(x.reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b"")
    return total.hexdigest()


def write(
    path: pathlib.Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str], step: int, fingerprint: str
) -> None:
    """Writes a checkpoint, atomically; a full disk leaves what was there.

    Args:
        path: see `path_of`.
        tensors: of the experiment, on the CPU.
        facts: more that it needs to go on.
        step: steps done.
        fingerprint: of the configuration.
    """
    from safetensors.torch import save

    metadata = {"digest": digest(tensors), "step": str(step), **facts, "fingerprint": fingerprint}
    write_atomically(path, save(dict(tensors), metadata))


def read(path: pathlib.Path, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a checkpoint whole, before anything is changed: its tensors and its facts.

    Raises:
        UsageError: it is damaged, or belongs to another configuration.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            facts = file.metadata() or {}
        found, _ = facts["fingerprint"], int(facts["step"])
        if facts["digest"] != digest(tensors):
            raise ValueError("its contents are not what was written")
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UsageError(
            f"{path} is damaged ({' '.join(str(error).split())}); delete it to go on from the one before it"
        ) from None
    if found != fingerprint:
        raise UsageError(
            f"{path} belongs to another configuration than {path.parents[1] / 'config.yaml'} describes, or to another "
            f"edition of its embedded model"
        )
    return tensors, facts


def optimiser_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's tensors by `optimizer.PARAMETER.NAME`, on the CPU."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(x).detach().cpu().contiguous()
        for index, held in state.items()
        for name, x in held.items()
    }


def load_optimiser_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of `optimiser_state`; the optimiser's steps leave the tensors as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, x in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            # Of an optimiser on the CPU they may be the very state of it, and optimisers write in place.
            state.setdefault(int(index), {})[name] = x.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

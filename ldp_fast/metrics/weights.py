"""Weights of public networks that a user has: read without running code from them, never downloaded."""

from __future__ import annotations

import hashlib
import pathlib
import pickle
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import UsageError, reason
from ..guidance.components import as_path, listed


def find_weights(given: str | pathlib.Path | None, file_name: str, address: str) -> pathlib.Path:
    """The file that was given, or the one of that name in torch's hub cache.

    Args:
        given: path, or None to look into the cache (`torch.hub.get_dir()`).
        file_name: that torch's hub keeps it under.
        address: where the file can be had, for the message.

    Raises:
        UsageError: it is not there; says what to fetch and where to put it.
    """
    if given is not None:
        path = as_path("weights", given)
        if not path.is_file():
            raise UsageError(f"weights: there is no file {path}")
        return path
    cached = pathlib.Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if not cached.is_file():
        raise UsageError(
            f"weights: expected a file, or {file_name} in {cached.parent}; it is not there, and nothing is downloaded "
            f"unasked: it can be fetched from {address}"
        )
    return cached


def read_weights(path: pathlib.Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, of a `.safetensors` file or of a file of `torch.save`.

    Raises:
        UsageError: it cannot be read, or holds something other than tensors by name (which is not unpickled).
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except pickle.UnpicklingError:
        raise UsageError(f"weights: expected a state dict, tensors by name and nothing else, in {path}") from None
    except Exception as error:
        raise UsageError(f"weights: could not read {path}: {reason(error)}") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UsageError(f"weights: expected a state dict, tensors by name and nothing else, in {path}")
    return dict(found)


def require_keys(what: str, path: pathlib.Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuses weights that are not exactly those that are wanted.

    Args:
        what: whose they are, for the message.
        path: that they came from.
        found: what is there.
        wanted: names and shapes; the values do not matter.

    Raises:
        UsageError: says how many are missing, unexpected or of another shape, and names the first few.
    """
    shapes = [name for name in wanted if name in found and found[name].shape != wanted[name].shape]
    faults = [
        f"{len(names)} {word} ({listed(names)})"
        for names, word in (
            (wanted.keys() - found.keys(), "missing"),
            (found.keys() - wanted.keys(), "unexpected"),
            (shapes, "of another shape"),
        )
        if names
    ]
    if faults:
        raise UsageError(f"weights: expected those of {what} in {path}: {'; '.join(faults)}")


def digest_of(*networks: nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, dtypes and values of all weights, in hexadecimal digits."""
    total = hashlib.sha256()
    for network in networks:
        state = network.state_dict() if isinstance(network, nn.Module) else network
        for name, value in sorted(state.items()):
            total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()

"""Writes generators as other repositories do: the names, shapes and records of their files, without their code.

Every number is a function of its name and place, so that `stored.json` can hold what the real code makes of them.
"""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import pickle
import sys
import types
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Z = torch.tensor([[0.5, -1.0, 2.0, 0.25, -0.75]])
STORED = json.loads((pathlib.Path(__file__).parent / "stored.json").read_text())
FIR = torch.outer(line := torch.tensor([1.0, 3.0, 3.0, 1.0]), line) / 64


def numbers(name: str, shape: list[int]) -> Tensor:
    """What a tensor of a name holds."""
    rate = 0.7 + zlib.crc32(name.encode()) % 97 / 100
    values = np.sin(np.arange(1, math.prod(shape) + 1) * rate) * (150 if "fc" in name or "style" in name else 1.5)
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def rosinality() -> dict[str, Tensor]:
    """A state dict of rosinality's Generator: 16 pixels, channels 3, 2, 4, z and w of 5, two mapping layers."""
    gains = {"blur.kernel": 4, "upsample.kernel": 4}
    return {
        name: FIR * gains[".".join(name.split(".")[-2:])] if name.endswith("kernel") else numbers(name, shape)
        for name, shape in STORED["rosinality"]["shapes"].items()
    }


def nvidia() -> dict[str, Tensor]:
    """Parameters and buffers of NVIDIA's Generator: 16 pixels, channels 4, 4, 2, z of 5, w of 6, two mapping layers."""
    return {
        name: FIR.clone() if name.endswith("resample_filter") else numbers(name, shape)
        for name, shape in STORED["nvidia"]["shapes"].items()
    }


class Persistent:
    """A module of a class that carries its source code."""

    def __init__(self, kind: str, state: Mapping[str, Any]):
        self.kind, self.state = kind, dict(state)

    def __reduce__(self) -> tuple[Any, ...]:
        record = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('the code in the file was run')",
            "class_name": self.kind,
            "state": self.state,
        }
        return _reconstruct_persistent_obj, (record,)


def _reconstruct_persistent_obj(meta: object) -> None:
    raise AssertionError("the file was unpickled")


class EasyDict(dict[str, Any]):
    """A dict of dnnlib's."""


@contextlib.contextmanager
def names_of_nvidia() -> Iterator[None]:
    """Within it, pickles name these classes as NVIDIA's do."""
    found = {"torch_utils.persistence": _reconstruct_persistent_obj, "dnnlib.util": EasyDict}
    for module, what in found.items():
        for name in (module.partition(".")[0], module):
            sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[module], what.__name__, what)
        what.__module__ = module
    try:
        yield
    finally:
        for module, what in found.items():
            del sys.modules[module], sys.modules[module.partition(".")[0]]
            what.__module__ = __name__


def network(tensors: Mapping[str, Tensor], more: Mapping[str, Mapping[str, Any]] | None = None) -> Persistent:
    """A Generator of NVIDIA's.

    Args:
        tensors: by their names.
        more: attributes that replace those of a part, or of all that end in its name.
    """
    more = more or {}

    def part(path: str) -> Persistent:
        inside = path and f"{path}."
        below = [name.removeprefix(inside) for name in tensors if name.startswith(inside)]
        own = {name: tensors[f"{inside}{name}"] for name in below if "." not in name}
        buffers = {name: x for name, x in own.items() if name in ("w_avg", "noise_const", "resample_filter")}
        last = path.rpartition(".")[2]
        state: dict[str, Any] = {
            "training": False,
            "_parameters": {k: torch.nn.Parameter(x, False) for k, x in own.items() if k not in buffers},
            "_buffers": buffers,
            "_non_persistent_buffers_set": set(),
            "_modules": {name: part(f"{inside}{name}") for name in dict.fromkeys(_first(x) for x in below if "." in x)},
            "_init_kwargs": EasyDict(num_layers=2),
            **_attributes(last),
            **more.get(last, {}),
            **more.get(path, {}),
        }
        return Persistent({"": "Generator", "mapping": "MappingNetwork"}.get(last, "SynthesisLayer"), state)

    return part("")


def _first(name: str) -> str:
    return name.partition(".")[0]


def _attributes(name: str) -> dict[str, Any]:
    if name in ("", "mapping"):
        return {"z_dim": 5, "c_dim": 0, "w_dim": 6}
    if name.startswith("fc"):
        return {"activation": "lrelu", "bias_gain": 0.01, "weight_gain": np.float64(0.01)}
    if name.startswith("conv"):
        gain = np.sqrt(2)  # numpy's own number, as theirs is
        return {"activation": "lrelu", "up": 2 if name == "conv0" else 1, "act_gain": gain, "conv_clamp": 6.0}
    if name == "affine":
        return {"activation": "linear", "bias_gain": 1}
    if name == "torgb":
        return {"conv_clamp": 6.0}
    return {"architecture": "skip", "use_fp16": True, "channels_last": True}


def pickled(found: Any, protocol: int = 4) -> bytes:
    """A pickle, with NVIDIA's names."""
    with names_of_nvidia():
        return pickle.dumps(found, protocol)


def published(
    tensors: Mapping[str, Tensor] | None = None, more: Mapping[str, Mapping[str, Any]] | None = None, protocol: int = 4
) -> bytes:
    """A pickle like those that NVIDIA publishes: G, D, G_ema, and how they were trained."""
    other = Persistent("Discriminator", {"_parameters": {}, "_buffers": {}, "_modules": {}, "table": np.ones(3)})
    made = network(nvidia() if tensors is None else tensors, more)
    about = EasyDict(class_name="training.dataset.ImageFolderDataset", path="x.zip", resolution=16)
    return pickled(
        {"G": other, "D": other, "G_ema": made, "training_set_kwargs": about, "augment_pipe": None}, protocol
    )

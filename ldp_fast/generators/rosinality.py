"""Checkpoints of rosinality's stylegan2-pytorch, which StyleGAN-NADA, StyleGANFusion and many others use too."""

from __future__ import annotations

import argparse
import pathlib
import re
import zipfile
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError, reason, shortened
from . import counted
from .foreign import Found, check_filter, check_size, settings_of
from .unpickler import Refused, kind_of

ORIGIN = "rosinality's stylegan2-pytorch"
MEAN = "latent_avg"
GAIN = 4.0  # of its filters, all of which upsample: the factor's square
_UNSUPPORTED = re.compile(r"(?:Unsupported|Trying to \w+ unsupported) (?:global: )?GLOBAL (\S+)")


def read(path: pathlib.Path) -> Found:
    """The generator of a checkpoint: `g_ema`, else `g`, else the file is its state dict.

    Args:
        path: file of `torch.save`, an archive or in the former format. Of its pickle only tensors, numbers and
            containers are built (`weights_only`), and the bare record of a training's options.

    Raises:
        UsageError: it is damaged, asks for more, or does not hold such a generator.
    """
    found = _load(path)
    notes = []
    if not isinstance(found, dict):
        raise UsageError(f"holds a {type(found).__name__}: expected a dict with g_ema, or a state dict")
    taken = next((key for key in ("g_ema", "g") if key in found), "")
    tensors: Any = found[taken] if taken else found
    if "g_ema" not in found and "g" in found:
        notes.append("g_ema is missing: the weights as they were trained, g, were taken")
    if not isinstance(tensors, dict) or not any(str(name).endswith("input.input") for name in tensors):
        keys = ", ".join(shortened(str(key), 30) for key in list(found)[:6] if isinstance(key, (str, int)))
        wrong = "expected g_ema, or a state dict"
        if taken:
            held = "a dict without input.input" if isinstance(tensors, dict) else kind_of(tensors)
            wrong = f"its {taken} is {held}, expected a generator's state dict"
        raise UsageError(f"is not a StyleGAN2 that is known: {wrong}; its keys: {keys}")
    state = {str(name).removeprefix("module."): x for name, x in tensors.items()}
    if isinstance(found.get(MEAN), Tensor):
        state[MEAN] = found[MEAN]
    size = path.stat().st_size
    for name, x in state.items():
        wrong = _not_plain(x, size)
        if wrong:
            raise UsageError(f"has {shortened(name, 100)} that is not a tensor of numbers: {wrong}")
        state[name] = x.detach()  # of a module's own dict it may be a parameter
    check_size(state, size)
    for name in [name for name in state if name.endswith(".kernel")]:
        check_filter(name, state.pop(name), GAIN)
    return Found(ORIGIN, settings_of(state, theirs), state, theirs, notes)


def theirs(own: str) -> str:
    """The name in such a checkpoint of one of our tensors."""
    if own in ("constant", "w_mean"):
        return {"constant": "input.input", "w_mean": MEAN}[own]
    layer, _, rest = own.partition(".")
    if layer == "style":  # style.fc.0.weight: theirs begins with the normalisation
        _, number, kind = rest.split(".")
        return f"style.{int(number) + 1}.{kind}"
    if layer in ("convs", "to_rgbs"):
        number, _, rest = rest.partition(".")
        layer = f"{layer}.{number}"
    if rest == "noise":
        return f"noises.noise_{0 if layer == 'conv1' else int(layer.removeprefix('convs.')) + 1}"
    if rest == "bias":
        return f"{layer}.bias" if layer.startswith("to_rgb") else f"{layer}.activate.bias"
    return f"{layer}.noise.weight" if rest == "noise_strength" else f"{layer}.conv.{rest}"


def _load(path: pathlib.Path) -> Any:
    try:
        archive = zipfile.is_zipfile(path)
        if archive:
            with zipfile.ZipFile(path) as file:  # torch.save does not compress: what grows was made to
                if sum(record.file_size for record in file.infolist()) > path.stat().st_size:
                    raise UsageError("is damaged: it claims to be larger than it is")
        counted.check(path, archive)
        # The options of a training lie beside its weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive or None)
    except UsageError:
        raise
    except Exception as error:  # whatever a damaged file makes torch say
        asked = _UNSUPPORTED.search(str(error))
        if asked is not None:
            raise Refused(asked[1].rstrip(".,`")) from None
        lines = [line.strip() for line in str(error).splitlines() if "WeightsUnpickler error" in line]
        raise UsageError(f"is damaged ({shortened(lines[0] if lines else reason(error), 200)})") from None


def _not_plain(x: Any, most: int) -> str:
    """Why something is not a tensor of numbers, of no more than some bytes where it repeats what it has; else ''."""
    if type(x) not in (Tensor, torch.nn.Parameter):
        return type(x).__name__
    if x.layout != torch.strided or x.device.type != "cpu":
        return f"a tensor of layout {_said(x.layout)} on {x.device.type}, expected strided on cpu"
    if not x.is_floating_point():
        return f"{_said(x.dtype)}, expected a floating-point dtype"
    held, claimed = x.untyped_storage().nbytes(), x.numel() * x.element_size()
    return f"{list(x.shape)} of {claimed} bytes, expanded from {held}" if claimed > max(held, most) else ""


def _said(value: torch.dtype | torch.layout) -> str:
    """A dtype's or a layout's name, for a sentence."""
    return str(value).removeprefix("torch.")

"""Pickles of StyleGAN2 networks by NVIDIA's stylegan2-ada-pytorch and stylegan3 repositories."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError, shortened
from . import pickled
from .foreign import LISTED, Found, check_filter, settings_of
from .pickled import Network, Record
from .unpickler import Damaged, Refused, kind_of

ORIGIN = "NVIDIA's stylegan2-ada-pytorch or stylegan3"
_TENSORFLOW = ("dnnlib.tflib.", "tfutil.", "tensorflow.")
_MOST = 4096  # parts of a network; the largest published one has 120


def read(data: bytes) -> Found:
    """The generator of a pickle: `G_ema`, else `G`, or the network that it is.

    Args:
        data: the pickle. Nothing in it is run, see `pickled`.

    Raises:
        UsageError: it is damaged, asks for more than data, or holds a network of another kind.
    """
    try:
        found = pickled.read(data)
    except Refused as error:
        if error.asked.startswith(_TENSORFLOW):
            raise UsageError(
                "holds a network of TensorFlow: expected one of PyTorch, which legacy.py of NVIDIA's stylegan3 "
                "repository makes of it"
            ) from None
        raise
    notes: list[str] = []
    parts = dict(_walk(_generator(found, notes)))
    _check_kind(parts)
    tensors = _tensors(parts, len(data))
    multiplier, clamp = _check_attributes(parts)
    return Found(ORIGIN, settings_of(tensors, theirs, multiplier, clamp), tensors, theirs, notes)


def theirs(own: str) -> str:
    """The name in such a network of one of our tensors."""
    if own in ("constant", "w_mean"):
        return {"constant": "synthesis.b4.const", "w_mean": "mapping.w_avg"}[own]
    layer, _, rest = own.partition(".")
    if layer == "style":
        return f"mapping.{rest.replace('fc.', 'fc')}"
    block = "b4"
    if layer in ("convs", "to_rgbs"):
        number, _, rest = rest.partition(".")
        at = int(number)
        block = f"b{8 << (at // 2 if layer == 'convs' else at)}"
        layer = f"conv{at % 2}" if layer == "convs" else "torgb"
    rest = rest.replace("modulation.", "affine.")
    return f"synthesis.{block}.{layer.replace('to_rgb1', 'torgb')}.{'noise_const' if rest == 'noise' else rest}"


def _generator(found: Any, notes: list[str]) -> Network:
    if isinstance(found, dict):
        if "G_ema" not in found and "G" in found:
            notes.append("G_ema is missing: the weights as they were trained, G, were taken")
        keys = ", ".join(shortened(key, 30) for key in list(found)[:6] if isinstance(key, str))
        taken = next((key for key in ("G_ema", "G") if key in found), None)
        if taken is None:
            raise UsageError(f"does not hold a generator: expected a dict with G_ema; its keys: {keys or 'none'}")
        found = found[taken]
        if not isinstance(found, Network):
            raise UsageError(f"does not hold a generator: its {taken} is {kind_of(found)}, expected a network")
    if not isinstance(found, Network):
        raise UsageError(f"holds {kind_of(found)}: expected a dict with G_ema, or a generator")
    return found


def _walk(network: Network, path: str = "") -> Iterator[tuple[str, Network]]:
    """The parts of a network by their paths; in a file that was made to hurt one may hold itself."""
    waiting, seen = [(path, network)], 0
    while waiting:
        path, network = waiting.pop()
        yield path, network
        below = network.part("_modules")
        if not all(isinstance(part, Network) for part in below.values()):
            raise Damaged("is damaged: a network that is not one")
        seen += len(below)
        if seen > _MOST or path.count(".") > 8:
            raise Damaged(f"is damaged: a network of more than {_MOST} parts, or inside itself")
        waiting += [(f"{path}.{name}" if path else name, below[name]) for name in reversed(below)]


def _tensors(parts: dict[str, Network], size: int) -> dict[str, Tensor]:
    records: dict[str, Record] = {}
    for path, network in parts.items():
        for name, value in {**network.part("_parameters"), **network.part("_buffers")}.items():
            if not isinstance(value, Record) or not value.storage.dtype.is_floating_point:
                of = str(value.storage.dtype).removeprefix("torch.") if isinstance(value, Record) else kind_of(value)
                raise UsageError(f"has {path}.{name} that is not a tensor of numbers: {of}")
            records[f"{path}.{name}"] = value
    if sum(record.nbytes for record in records.values()) > size:
        raise Damaged("is damaged: its tensors claim to be larger than the file")
    tensors = {name: record.tensor() for name, record in records.items()}
    for name in [name for name in tensors if name.endswith("resample_filter")]:
        check_filter(name, tensors.pop(name), 1.0)
    for path, network in parts.items():  # without noise: the same as noise of strength 0
        if network.state.get("use_noise") is False and f"{path}.weight" in tensors:
            tensors[f"{path}.noise_strength"] = torch.zeros(())
            side = network.state.get("resolution")
            if isinstance(side, int) and 4 <= side <= 4096:
                tensors[f"{path}.noise_const"] = torch.zeros(()).expand(side, side)
    return tensors


def _check_kind(parts: dict[str, Network]) -> None:
    generator = parts[""]
    kinds = ", ".join(shortened(network.kind) for path, network in parts.items() if path.count(".") == 0 and path)
    if "mapping" not in parts or "synthesis" not in parts:
        raise UsageError(f"holds a {shortened(generator.kind)} of {kinds or 'nothing'}: expected mapping and synthesis")
    labels = [network.state.get("c_dim", 0) for network in (generator, parts["mapping"])]
    if labels != [0, 0] or "mapping.embed" in parts:
        raise UsageError(f"holds a conditional network, c_dim {_said(labels[0])}: expected one without labels")
    if "synthesis.input" in parts:
        raise UsageError("holds a StyleGAN3 network: expected a StyleGAN2")
    if "synthesis.b4" not in parts:
        raise UsageError("does not hold a StyleGAN2: synthesis.b4 is missing")


def _check_attributes(parts: dict[str, Network]) -> tuple[float, float | None]:
    """Checks what shapes do not say. Returns the mapping's multiplier and the clamp."""
    multipliers: list[Any] = []
    clamps: list[Any] = []
    for path, network in parts.items():
        name = path.rpartition(".")[2]
        if path.startswith("mapping.fc"):
            _expect(path, network, activation="lrelu")
            multipliers.append(network.state.get("bias_gain", 1))
        elif name == "affine":
            _expect(path, network, activation="linear", bias_gain=1)
        elif name in ("conv0", "conv1"):
            _expect(path, network, activation="lrelu", up=2 if name == "conv0" else 1, act_gain=math.sqrt(2))
            clamps.append(network.state.get("conv_clamp"))
        elif name == "torgb":
            clamps.append(network.state.get("conv_clamp"))
        elif path.startswith("synthesis.b"):
            _expect(path, network, architecture="skip")
    for what, values in (("mapping.fc….bias_gain", multipliers), ("conv_clamp", clamps)):
        wrong = [x for x in values if not (_is_number(x) and x > 0) and not (x is None and what == "conv_clamp")]
        if wrong or any(x != values[0] for x in values):
            said = ", ".join(_said(x) for x in (wrong or values)[:LISTED])
            raise UsageError(f"has {what} of {said}: expected one number above 0 for all layers")
    clamp = clamps[0] if clamps else None
    return float(multipliers[0] if multipliers else 0.01), None if clamp is None else float(clamp)


def _expect(path: str, network: Network, **expected: Any) -> None:
    for name, wanted in expected.items():
        value = network.state.get(name, wanted)
        same = value == wanted if isinstance(wanted, str) else _is_number(value) and math.isclose(value, wanted)
        if not isinstance(value, (str, int, float)) or not same:
            raise UsageError(f"has {path}.{name} of {_said(value)}: expected {_said(wanted)}")


def _is_number(value: Any) -> bool:
    # A whole number may be larger than any other.
    largest = sys.float_info.max
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -largest <= value <= largest


def _said(value: Any) -> str:
    """A value of a file, for a sentence; of containers only what they are."""
    if isinstance(value, int) and value.bit_length() > 1024:  # Python refuses to write thousands of digits
        return f"a whole number of {value.bit_length()} bits"
    plain = value is None or isinstance(value, (str, int, float))
    return shortened(repr(value)) if plain else kind_of(value)

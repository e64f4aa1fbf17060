"""Generators on disk: safetensors, whose metadata holds the sizes as JSON, and a config.json for people.

The format is `model.safetensors` with the tensors of `StyleGAN2.state_dict()` (noise and w̄ among them), in float32 or
float16, and in its metadata, at `ldp_fast.generator`, the JSON of

    {"format": 1, "kind": "stylegan2", "settings": {…: the fields of Settings}, "about": {…: anything}}

The file alone is a generator. In a folder config.json shows the same JSON; where it says something else than the file,
that is an error, since somebody has changed it in the belief that it counts.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError, reason, shortened
from ..guidance.loading import embedded_folder, embedded_models, usable
from ..runs.files import read_json, write_atomically, write_json
from .foreign import shapes_of
from .stylegan2 import Settings, StyleGAN2

KEY, FORMAT, KIND = "ldp_fast.generator", 1, "stylegan2"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# What people have from elsewhere, for which there is a command.
FOREIGN = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin")


def save(
    folder: pathlib.Path | str,
    generator: StyleGAN2,
    about: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> list[pathlib.Path]:
    """Writes `model.safetensors` and `config.json` into a folder; each is replaced atomically.

    Args:
        folder: that it becomes.
        generator: what is written.
        about: what is to be known of it, as JSON can say it; None is the generator's own.
        dtype: of its tensors; None is its own.

    Returns:
        The files.

    Raises:
        UsageError: a tensor is not finite, or has numbers beyond that dtype; an argument of another kind, or something
            that JSON cannot say; a file in the folder's place. Nothing is written then.
    """
    from safetensors.torch import save as as_bytes

    if not isinstance(generator, StyleGAN2):
        raise UsageError(f"generator: expected a StyleGAN2, got a {type(generator).__name__}")
    if dtype is not None:
        _check_dtype(dtype)
    folder = pathlib.Path(folder)
    _check_place(folder)
    described = {
        "format": FORMAT,
        "kind": KIND,
        "settings": dataclasses.asdict(generator.settings),
        "about": _checked_about(generator.about if about is None else about),
    }
    own = {name: x.detach().cpu() for name, x in generator.state_dict().items()}
    tensors = {name: x.to(dtype or x.dtype).contiguous() for name, x in own.items()}
    wrong = not_numbers(tensors)
    if wrong:
        beyond = "" if dtype is None or not_numbers(own) else f"it has numbers beyond {as_said(dtype)}: "
        raise UsageError(f"generator: cannot be written to {folder}: {beyond}{'; '.join(wrong)}")
    data = _ordered(as_bytes(tensors, {KEY: json.dumps(described), "format": "pt"}))
    (folder / CONFIG).unlink(missing_ok=True)  # an interruption leaves the old or the new one, and no contradiction
    write_atomically(folder / WEIGHTS, data)
    write_json(folder / CONFIG, described)
    return [folder / WEIGHTS, folder / CONFIG]


def _check_dtype(dtype: object) -> None:
    if dtype not in DTYPES:
        said = as_said(dtype) if isinstance(dtype, torch.dtype) else shortened(repr(dtype))
        raise UsageError(f"dtype: expected {', '.join(map(as_said, DTYPES))}, got {said}")


def _check_place(folder: pathlib.Path) -> None:
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if there.exists() and not there.is_dir():
        raise UsageError(f"folder: expected a folder, got {folder}: {there} is a file")


def _checked_about(about: object) -> dict[str, Any]:
    if not isinstance(about, Mapping):
        raise UsageError(f"about: expected a dict, got {shortened(repr(about))}")
    try:
        json.dumps(dict(about))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"about: expected what JSON can say ({reason(error)})") from None
    return dict(about)


def _ordered(data: bytes) -> bytes:
    """A safetensors file whose metadata is in order, for the library writes it in another one each time."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)  # tensors begin at multiples of 8 bytes
    return b"".join((len(written).to_bytes(8, "little"), written, memoryview(data)[8 + length :]))


def load(name: str | pathlib.Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> StyleGAN2:
    """Reads a generator, in evaluation mode and without gradients of its parameters.

    Args:
        name: an embedded model's (`primitives`), a folder that `save` has made, or one .safetensors file of that kind.
        device: where its tensors shall be.
        dtype: of its tensors.

    Raises:
        UsageError: it is missing, damaged or of another kind; has NaN, infinity, or numbers beyond that dtype; a device
            or a dtype that cannot be used.
    """
    _check_dtype(dtype)
    path = find(name)
    settings, about, tensors = _read(path)
    wrong = mismatches(shapes_of(settings), tensors) or not_numbers(tensors)
    if wrong:
        raise UsageError(f"{path} is not the generator that it says: {'; '.join(wrong)}")
    with torch.random.fork_rng(devices=[]):  # what it draws at first is nobody's
        generator = StyleGAN2(settings)
    generator.load_state_dict(dict(tensors))
    generator = generator.to(dtype)
    beyond = not_numbers(generator.state_dict())
    if beyond:
        raise UsageError(f"{path} has numbers beyond {as_said(dtype)}: {'; '.join(beyond)}")
    generator.name, generator.about = str(name), about
    return generator.to(usable(device)).eval().requires_grad_(False)


def find(name: str | pathlib.Path) -> pathlib.Path:
    """The .safetensors file that a name stands for, see `load`.

    Raises:
        UsageError: there is none.
    """
    said = str(name)
    if not said.strip():
        raise UsageError("generator: expected a name or a path, got ''")
    path = embedded_folder(f"{said}/generator") if said in embedded_models() else None
    if path is None:
        path = pathlib.Path(said)
        if said in embedded_models():
            raise UsageError(f"generator: the embedded model {said} does not have a generator")
    if path.suffix.lower() in FOREIGN and not path.is_dir():
        there = "" if path.exists() else " does not exist, and"
        raise UsageError(
            f"generator: {said}{there} is in another format: ldp-fast convert-generator {said} --out DIR makes the "
            f"folder that is needed"
        )
    if path.is_dir():
        path = path / WEIGHTS
        if not path.is_file():
            raise UsageError(f"generator: {said} is a folder without {WEIGHTS}: not a generator of ldp-fast")
    elif not path.is_file():
        raise UsageError(
            f"generator: {said} does not exist: expected {' or '.join(embedded_models())}, a folder that "
            f"ldp-fast convert-generator or ldp-fast adapt has made, or a .safetensors file of one"
        )
    return path


def is_ours(path: pathlib.Path) -> bool:
    """Whether a file begins as one that `save` has written; the rest of it may be damaged."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= path.stat().st_size else None
    except (OSError, ValueError, RecursionError):
        return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and KEY in metadata


def mismatches(own: Mapping[str, list[int]], tensors: Mapping[str, Tensor], most: int = 6) -> list[str]:
    """What of some tensors does not fit the shapes of a generator: missing, of another shape, or not its own."""
    found = [f"{name} {shape} is missing" for name, shape in own.items() if name not in tensors]
    found += [
        f"{name} is {list(tensors[name].shape)}, expected {shape}"
        for name, shape in own.items()
        if name in tensors and list(tensors[name].shape) != shape
    ]
    found += [f"{name} {list(x.shape)} is not known" for name, x in tensors.items() if name not in own]
    return _first(found, most)


def not_numbers(tensors: Mapping[str, Tensor], most: int = 6) -> list[str]:
    """What of some tensors is not the numbers of a generator: integers, NaN and infinity."""
    found = []
    for name, x in tensors.items():
        if x.dtype not in DTYPES:
            found.append(f"{name} is {as_said(x.dtype)}, expected {', '.join(map(as_said, DTYPES))}")
        elif not bool(x.isfinite().all()):
            found.append(f"{name} has NaN or infinity")
    return _first(found, most)


def as_said(dtype: torch.dtype) -> str:
    """A dtype's name, for a sentence."""
    return str(dtype).removeprefix("torch.")


def _first(found: list[str], most: int) -> list[str]:
    return found if len(found) <= most else [*found[:most], f"and {len(found) - most} more"]


def _read(path: pathlib.Path) -> tuple[Settings, dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                names = ", ".join(list(file.keys())[:3])
                raise UsageError(
                    f"generator: {path} is a safetensors file of something else (its tensors: {names}, …): expected "
                    f"one that ldp-fast convert-generator or ldp-fast adapt has written"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        described = json.loads(metadata[KEY])
        kind, version = described["kind"], described["format"]
        if (kind, version) != (KIND, FORMAT):
            raise UsageError(
                f"generator: {path} holds a {shortened(str(kind))} of format {shortened(str(version))}: expected "
                f"{KIND} of format {FORMAT}; a later version of ldp-fast may read it"
            )
        about = dict(described["about"])
        settings = Settings(**described["settings"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            if str(error).startswith("generator:"):
                raise
            raise UsageError(f"{path} is damaged: {error}") from None
        raise UsageError(f"{path} is damaged ({' '.join(str(error).split())})") from None
    beside = path.parent / CONFIG
    if path.name == WEIGHTS and beside.is_file() and not _same(read_json(beside), described):
        raise UsageError(
            f"{beside} says something else than {path}, whose own copy counts: write the folder again, or delete "
            f"{beside.name}"
        )
    return settings, about, tensors


def _same(one: Any, other: Any) -> bool:
    # NaN, which Python's JSON knows, is not equal to itself.
    return bool(one == other) or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)

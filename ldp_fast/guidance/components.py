"""Loads one part of a model and holds it to its class: no weight missing, none left over, a vocabulary that fits."""

from __future__ import annotations

import contextlib
import functools
import logging
import pathlib
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ..errors import UsageError, of_memory, reason, shortened

_LOG = logging.getLogger(__name__)
# Weights as diffusers and transformers name them: a variant stands before or behind the number of the shard.
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<one>\w+))?(?:-\d+-of-\d+)?(?:\.(?P<two>\w+))?"
    r"\.(?:safetensors|bin)"
)
_SHOWN = 3
_PACKAGES = ("accelerate", "diffusers", "peft", "safetensors", "transformers")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the libraries' progress bars and reports: what they would warn of is an error here."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = of_transformers.is_progress_bar_enabled()
    levels = [(library, library.get_verbosity()) for library in (of_diffusers, of_transformers)]
    of_transformers.disable_progress_bar()
    for library, _ in levels:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in levels:
            library.set_verbosity(level)
        if shown:
            of_transformers.enable_progress_bar()


def listed(names: Iterable[str]) -> str:
    """The first few of these names, and how many more there are."""
    names = sorted(names)
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def require_whole(
    what: str,
    model: nn.Module,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Collection[tuple[str, Any, Any] | str] = (),
) -> None:
    """Refuses weights that are not exactly the model's.

    What a class says it can do without (`_keys_to_ignore_on_load_…`) is not a fault, and neither are buffers that it
    makes itself and older versions saved (`position_ids`).

    Args:
        what: of the message, as "the vae of 'folder'".
        model: the network that was loaded.
        missing, unexpected: names of weights.
        mismatched: name, shape that came, shape that was expected; transformers 4 gives names only.

    Raises:
        UsageError: names the part, its class, how many weights there are of each kind, and the first few.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    own = {name.removeprefix(prefix) for name, _ in model.named_buffers()} - set(model.state_dict())
    absent = _not_ignored(missing, getattr(model, "_keys_to_ignore_on_load_missing", None))
    foreign = _not_ignored(unexpected, getattr(model, "_keys_to_ignore_on_load_unexpected", None))
    foreign = [name for name in foreign if name.removeprefix(prefix) not in own]
    shapes = [
        entry if isinstance(entry, str) else f"{entry[0]} is {list(entry[1])} where {list(entry[2])} was expected"
        for entry in mismatched
    ]
    faults = [
        f"{len(names)} {word} ({listed(names)})"
        for names, word in ((absent, "missing"), (foreign, "unexpected"), (shapes, "of another shape"))
        if names
    ]
    if faults:
        raise UsageError(f"model: expected the weights of a {type(model).__name__} for {what}: {'; '.join(faults)}")


def _not_ignored(names: Iterable[str], patterns: Iterable[str] | None) -> list[str]:
    return [name for name in names if not any(re.search(pattern, name) for pattern in patterns or ())]


def load_network(
    cls: Any,
    where: str,
    *,
    what: str,
    subfolder: str = "",
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> Any:
    """`cls.from_pretrained`, where nothing may be missing, left over or of another shape.

    Args:
        cls: a model class of diffusers or transformers.
        where, subfolder: as its `from_pretrained` takes them.
        what: names the part in messages.
        dtype: of the weights.
        variant: of the files' names (`fp16`), see `variant_of`.

    Raises:
        UsageError: see `require_whole`.
    """
    extra: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    if variant is not None:
        extra["variant"] = variant
    read = functools.partial(
        cls.from_pretrained, where, torch_dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **extra
    )
    with quietly():
        try:
            model, info = read()
        except ValueError:
            # Earlier diffusers give up at a weight that does not fit, unless they make the whole network first.
            if not cls.__module__.startswith("diffusers."):
                raise
            model, info = read(low_cpu_mem_usage=False)
    require_whole(what, model, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    return model


def variant_of(folder: pathlib.Path, wanted: str | None, what: str) -> str | None:
    """The variant of the weights to load from a folder: the one asked for, else the plain one, else the only one.

    Raises:
        UsageError: several variants and no plain weights, or none of the name that was asked for.
    """
    found = [match for path in folder.iterdir() if (match := _WEIGHTS.fullmatch(path.name))]
    variants = {match["one"] or match["two"] for match in found}
    names = sorted(name for name in variants if name is not None)
    if not variants or wanted in variants:
        return wanted if variants else None
    if None in variants:
        _LOG.warning("%s has no weights of the variant %r: the plain ones are loaded", what, wanted)
        return None
    if wanted is not None or len(names) > 1:
        came = "" if wanted is None else f", got {wanted!r}"
        raise UsageError(f"variant: expected one of {', '.join(names)}, which {what} has{came}")
    _LOG.warning("%s has only weights of the variant %r: they are loaded", what, names[0])
    return names[0]


@contextlib.contextmanager
def reading(argument: str, what: str, where: str | pathlib.Path) -> Iterator[None]:
    """Says of what cannot be read what it is, in a sentence, whatever a library raises.

    Args:
        argument: that named it.
        what: is read.
        where: the folder, the file or the hub name.

    Raises:
        UsageError: for every error but one of memory, or of a package that this one needs.
    """
    try:
        yield
    except (UsageError, NameError):  # the second is a fault of ours
        raise
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _PACKAGES
        if missing or of_memory(error):
            raise
        hub = "" if pathlib.Path(where).exists() else " (from the hub; without a network, give a folder)"
        raise UsageError(f"{argument}: could not load {what}{hub}: {reason(error)}") from error


def as_path(argument: str, value: str | pathlib.Path) -> pathlib.Path:
    """A path from what a user typed, with the home folder for ~.

    Raises:
        UsageError: a text that no system takes as a path.
    """
    try:
        path = pathlib.Path(value).expanduser()
        path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{argument}: expected a path, got {shortened(str(value))!r} ({reason(error)})") from None
    return path


def load_tokenizer(cls: Any, where: str, *, subfolder: str = "", what: str) -> Any:
    """`cls.from_pretrained`, where a folder has to hold a vocabulary: transformers makes one of two words without.

    Raises:
        UsageError: CLIP's tokenizer without `tokenizer.json` and without `vocab.json` and `merges.txt`.
    """
    folder = pathlib.Path(where) / subfolder
    if folder.is_dir() and cls.__name__.startswith("CLIPTokenizer"):
        lacks = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
        if lacks and not (folder / "tokenizer.json").is_file():
            raise UsageError(
                f"model: expected tokenizer.json, or vocab.json and merges.txt, in {what}: {lacks[0]} is not there"
            )
    elif not folder.is_dir() and pathlib.Path(where).is_dir():
        raise UsageError(f"model: expected a folder for {what}: there is no {folder}")
    with quietly():
        return cls.from_pretrained(where, **({"subfolder": subfolder} if subfolder else {}))


def require_vocabularies(name: str, parts: dict[str, Any]) -> None:
    """Refuses tokenizers whose words are not the rows of their text encoders' tables.

    Args:
        name: the model's, of the message.
        parts: components by their names in `model_index.json`.

    Raises:
        UsageError: names the tokenizer, with both numbers.
    """
    for number in ("", "_2"):
        tokenizer, encoder = parts.get(f"tokenizer{number}"), parts.get(f"text_encoder{number}")
        rows = getattr(getattr(encoder, "config", None), "vocab_size", None)
        if tokenizer is not None and rows is not None and len(tokenizer) != rows:
            raise UsageError(
                f"model: expected a vocabulary of {rows} tokens, as text_encoder{number} has, in tokenizer{number} of "
                f"{name!r}; got {len(tokenizer)}"
            )


def overflows(vae: Any, dtype: torch.dtype) -> bool:
    """Whether a VAE says of itself (`force_upcast`) that it overflows in this dtype: features and pictures."""
    return dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))

"""CLIPs by what a configuration or a command line calls them, and the words that an embedded one knows."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..clip import Clip
from ..clip.of_open_clip import PREFIX
from ..errors import UsageError
from ..guidance.loading import embedded_models, notes_of
from ..guidance.prompts import check_words
from .hub import check_endpoint, reachable

_notes = functools.cache(notes_of)


def load_named(argument: str, name: str, device: str, dtype: torch.dtype | None = None) -> Clip:
    """Loads a CLIP; its `name` is what was typed, and not where its cache lies.

    Args:
        argument: that names it, for messages.
        name: as `Clip.load` takes it; a hub's name is looked for in its cache where the hub cannot be asked.
        device: of its towers.
        dtype: of its towers; None is float32.

    Raises:
        UsageError: it cannot be loaded; the reason is in the message.
    """
    check_endpoint()
    found = name if name.startswith(PREFIX) else reachable(argument, name, "config.json")
    clip = Clip.load(found, device, dtype=dtype)
    clip.name = name
    return clip


def unknown_words(name: str, caption: str) -> str:
    """What an embedded model's CLIP says of a caption with words that it does not know; '' from all others."""
    model = name.partition("/")[0]
    if model not in embedded_models():
        return ""
    try:
        check_words(caption, _notes(model))
    except UsageError as error:
        return str(error).removeprefix("prompt: ")
    return ""


def require_known(clip: Clip, prompt: str) -> None:
    """Refuses a prompt with words that an embedded CLIP does not know.

    Raises:
        UsageError: names them.
    """
    unknown = unknown_words(clip.name, prompt)
    if unknown:
        raise UsageError(f"prompt: {unknown}")


def prompt_embedding(clip: Clip, prompt: str) -> Tensor:
    """A prompt's embedding [1, E], not normalised, without a graph.

    Raises:
        UsageError: it is longer than CLIP's text tower, or has words that an embedded CLIP does not know.
    """
    require_known(clip, prompt)
    return clip.text_embeddings([prompt])

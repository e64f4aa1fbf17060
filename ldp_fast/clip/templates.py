"""Sets of prompt templates, kept as data files that say where they come from."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

from ..errors import UsageError, shortened

FOLDER = pathlib.Path(__file__).parent / "templates"
PLACE = "{}"  # of the prompt in a template


def read_lines(path: pathlib.Path) -> tuple[str, ...]:
    """The lines of a data file, without its head: the lines in front that begin with #.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist")
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return tuple(lines[first:])


def template_sets() -> list[str]:
    """Names of the sets: `imagenet` (79, StyleGAN-NADA's), `none`, `text2live` (14), `text2live_screen` (2)."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


@functools.cache
def template_set(name: str) -> tuple[str, ...]:
    """A set of templates, each with `{}` where the prompt belongs.

    * `imagenet`: 79 of the 80 of CLIP's own notebook, as StyleGAN-NADA has them. It averages directions over them.
    * `text2live`: Text2LIVE's 14 of texts. It draws some of them at each step.
    * `text2live_screen`: its 2 of the green screen.
    * `none`: the prompt alone, as DreamFields takes it.

    Raises:
        UsageError: there is no such set; names those there are.
    """
    if name not in template_sets():
        raise UsageError(f"templates: expected one of {', '.join(template_sets())}, got {shortened(name)!r}")
    return read_lines(FOLDER / f"{name}.txt")


def filled(prompt: str, templates: Sequence[str]) -> list[str]:
    """The prompt in each template; braces of the prompt's own stay as they are.

    Examples:
        >>> from ldp_fast.clip import filled, template_set
        >>> filled("a red cube", template_set("text2live_screen"))
        ['a red cube over a green screen.', 'a red cube in front of a green screen.']

    Raises:
        UsageError: a template without a place for the prompt.
    """
    for template in templates:
        if PLACE not in template:
            raise UsageError(f"templates: expected {PLACE} in each of them, got {shortened(template)!r}")
    return [template.replace(PLACE, prompt) for template in templates]

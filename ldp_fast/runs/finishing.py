"""What is made of a run at its end, and how it is told."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Collection, Sequence

from .experiment import Products

# More files of one folder are not named one by one.
MANY = 20


def make_all(products: Products, without: Collection[str]) -> tuple[list[pathlib.Path], dict[str, str]]:
    """Makes products; what cannot be made does not take the rest along.

    Args:
        products: of an experiment.
        without: names of those that are not wanted.

    Returns:
        The files, and of what was left out why.
    """
    made: list[pathlib.Path] = []
    left_out: dict[str, str] = {}
    for name, make in products.items():
        if name in without:
            left_out[name] = f"--no-{name}"
            continue
        try:
            made += make()
        except ModuleNotFoundError as error:
            left_out[name] = f"{error.name} is not installed: pip install 'ldp-fast[apps]'"
        except Exception as error:  # after a long run the result is worth more than any of its pictures
            left_out[name] = " ".join(str(error).split()) or type(error).__name__
    return made, left_out


def listed(paths: Sequence[pathlib.Path]) -> list[str]:
    """Files for people: those of a folder that has many of them are counted, `run/samples (200 files)`."""
    folders = collections.Counter(path.parent for path in paths)
    many = {folder: f"{folder} ({count} files)" for folder, count in folders.items() if count > MANY}
    return list(dict.fromkeys(many.get(path.parent, str(path)) for path in paths))

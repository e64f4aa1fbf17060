"""Captions of the pictures in a folder: `captions.json` or `captions.csv` beside them."""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from ...errors import UsageError, reason, shortened
from ...metrics.pictures import some

JSON, CSV = "captions.json", "captions.csv"
HEAD = ["name", "caption"]


def read_captions(folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, str]] | None:
    """The file with a folder's captions, and the captions by the names of pictures; None where there is not one.

    `captions.json` is an object {name: caption}; `captions.csv` has the head `name,caption` and a line a picture. Names
    are the files' whole names, `cube.png`.

    Raises:
        UsageError: both files, a damaged one, a name twice, or a caption that is empty or not text.
    """
    files = [folder / name for name in (JSON, CSV) if (folder / name).exists()]
    if not files:
        return None
    if len(files) > 1:
        raise UsageError(f"{folder} holds {JSON} and {CSV}: expected one of them")
    try:
        text = files[0].read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{files[0]}: expected UTF-8, got byte {error.object[error.start]:#04x}") from None
    except OSError as error:
        raise UsageError(f"{files[0]} cannot be read ({reason(error)})") from None
    pairs = _of_json(files[0], text) if files[0].name == JSON else _of_csv(files[0], text)
    found: dict[str, str] = {}
    for name, caption in pairs:
        if name in found:
            raise UsageError(f"{files[0]}: {name} stands in it twice")
        if not isinstance(caption, str) or not caption.strip():
            raise UsageError(f"{files[0]}: {name}: expected a caption, got {shortened(json.dumps(caption))}")
        found[name] = " ".join(caption.split())
    return files[0], found


def _of_json(file: pathlib.Path, text: str) -> list[tuple[str, Any]]:
    # As pairs, for an object would keep the last of two captions of one name.
    try:
        found = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{file} is damaged: {reason(error)}") from None
    if not isinstance(found, list) or not text.lstrip().startswith("{"):
        raise UsageError(f'{file}: expected an object, {{"cube.png": "a red cube", …}}, got {shortened(text)!r}')
    return found


def _of_csv(file: pathlib.Path, text: str) -> list[tuple[str, Any]]:
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise UsageError(f"{file} is damaged: {error}") from None
    head = [cell.strip().lower() for cell in lines[0]] if lines else []
    if head != HEAD:
        raise UsageError(f"{file}: expected the head {','.join(HEAD)}, got {','.join(head) or 'an empty file'!r}")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != 2:
            raise UsageError(
                f"{file}:{number}: expected a name and a caption, got {len(line)} cells; a caption with a comma needs "
                f"double quotes"
            )
    return [(line[0], line[1]) for line in lines[1:]]


def captions_of(
    folder: pathlib.Path, names: Sequence[str], prompt: str | None, *, needed: bool
) -> list[str] | list[None]:
    """A caption for each of a folder's pictures, or None for each where captions are not needed.

    Args:
        folder: of the pictures.
        names: of the pictures.
        prompt: the caption of all of them, in place of the files'.
        needed: whether the metric compares pictures with captions.

    Raises:
        UsageError: there are no captions, or pictures and captions that lack each other.
    """
    if not needed:
        return [None] * len(names)
    if prompt is not None:
        return [prompt] * len(names)
    read = read_captions(folder)
    if read is None:
        raise UsageError(f"{folder} holds pictures without captions: write {JSON} or {CSV} there, or give --prompt")
    file, found = read
    alone = sorted(found.keys() - set(names))
    bare = sorted(set(names) - found.keys())
    if alone or bare:
        parts = [_lacking(alone, "caption", "without a picture"), _lacking(bare, "picture", "without a caption")]
        raise UsageError(f"{file}: {'; '.join(part for part in parts if part)}{_near(alone, bare)}")
    return [found[name] for name in names]


def _lacking(names: Sequence[str], what: str, lacks: str) -> str:
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} {lacks} ({some(names)})" if names else ""


def _near(alone: Sequence[str], bare: Iterable[str]) -> str:
    """A hint where captions name pictures without their suffixes."""
    stems = {pathlib.PurePath(name).stem: name for name in bare}
    match = next((name for name in alone if name in stems), None)
    return f"; names have their suffix, {stems[match]} and not {match}" if match else ""

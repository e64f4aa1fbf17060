"""Prompts from a file, with the places where they stand."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UsageError


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt and where it stands, such as `prompts.txt:3`, for messages."""

    text: str
    place: str


def read_prompts(path: pathlib.Path, tell: Callable[[str], None]) -> list[Prompt]:
    """One prompt a line; blank lines and lines that begin with # are comments.

    Args:
        path: of the file, UTF-8.
        tell: is told of lines that repeat another one; they are left out.

    Raises:
        UsageError: the file is missing, is a folder, is not UTF-8, or does not hold a prompt.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file (one prompt a line was expected)") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: expected a file with one prompt a line, got a folder") from None
    found: dict[str, Prompt] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            text = " ".join(line.decode().split())
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}:{number}: expected UTF-8, got byte {line[error.start]:#04x}") from None
        if "\0" in text:
            raise UsageError(f"{path}:{number}: expected text, got a zero byte")
        if not text or text.startswith("#"):
            continue
        if text in found:
            tell(f"{path}:{number}: {text!r} stands at {found[text].place} already; it is made once")
            continue
        found[text] = Prompt(text, f"{path}:{number}")
    if not found:
        raise UsageError(f"{path}: expected one prompt a line, got none")
    return list(found.values())


def check_prompts(prompts: Sequence[Prompt], encode: Callable[[str], Any]) -> None:
    """Tries every prompt.

    Raises:
        UsageError: the first that cannot be encoded, with its place.
    """
    for prompt in prompts:
        try:
            encode(prompt.text)
        except UsageError as error:
            raise UsageError(f"{prompt.place}: {error}") from None

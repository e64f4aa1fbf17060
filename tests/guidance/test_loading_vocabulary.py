"""CLIP's words for a model that comes as one file: from a folder, from what is on this machine, or a sentence."""

from __future__ import annotations

import gzip
import json
import pathlib
from typing import Any

import pytest

from ldp_fast.errors import UsageError
from ldp_fast.guidance import vocabulary
from ldp_fast.guidance.vocabulary import TABLE, clip_tokenizer, write_vocabulary

from ..models import tiny_tokenizer

LINES = ["#version: 0.2", "c u", "cu b", "cub e</w>", "r e", "re d</w>"]


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "PACKAGES", ())
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)


def test_a_folder_is_taken_as_it_is(tmp_path: pathlib.Path) -> None:
    tiny_tokenizer(tmp_path / "words")
    words: Any = clip_tokenizer(str(tmp_path / "words"), "<|endoftext|>", 12)
    assert words("abc", padding="max_length").input_ids == [62, 0, 1, 28, *[63] * 8]
    with pytest.raises(UsageError, match="tokenizer: expected a folder with CLIP's vocabulary; there is no folder"):
        clip_tokenizer(tmp_path / "none", "!", 77)
    (tmp_path / "words" / "tokenizer.json").unlink(missing_ok=True)
    (tmp_path / "words" / "merges.txt").unlink()
    with pytest.raises(UsageError, match=r"expected tokenizer\.json, or vocab\.json and merges\.txt"):
        clip_tokenizer(tmp_path / "words", "!", 77)


def test_the_table_of_merges_in_a_package(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, nothing_here: None
) -> None:
    package = tmp_path / "brings_a_table"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / TABLE).write_bytes(gzip.compress("\n".join(LINES).encode()))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(vocabulary, "PACKAGES", ("is_not_installed", "brings_a_table"))
    words: Any = clip_tokenizer(None, "!", 8)
    # 256 bytes, 256 at the end of a word, the merges in their order, the two marks.
    assert len(words) == 2 * 256 + 5 + 2
    start, end = 2 * 256 + 5, 2 * 256 + 6
    # "!" is the first byte that prints, and pads as in Stable Diffusion 2; "é" is two bytes: C3 A9.
    assert words("RED cube", padding="max_length").input_ids == [start, 516, 514, end, 0, 0, 0, 0]
    write_vocabulary(package / TABLE, tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert words("é").input_ids == [start, vocab["Ã"], vocab["©</w>"], end]
    # As OpenAI's encoder numbers them.
    assert (vocab["a"], vocab["~"], vocab["¡"], vocab["a</w>"], vocab["Ā"]) == (64, 93, 94, 320, 188)


def test_the_cache_of_the_hub(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_tokenizer(tmp_path / "tokenizer")
    found = {"tokenizer/vocab.json", "tokenizer/merges.txt"}
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda name, file: str(tmp_path / file) if file in found and "xl" in name else None,
    )
    assert len(clip_tokenizer(None, "<|endoftext|>", 77)) == 64


def test_no_words_on_this_machine(nothing_here: None) -> None:
    with pytest.raises(UsageError, match=r"tokenizer: expected a folder with CLIP's vocab\.json and merges\.txt"):
        clip_tokenizer(None, "!", 77)

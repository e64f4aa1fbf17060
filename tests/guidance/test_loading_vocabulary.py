"""CLIP's words for a model that comes as one file: from a folder, or from the table that comes with the package."""

from __future__ import annotations

import json
import lzma
import pathlib
from typing import Any

import pytest

from ldp_fast.errors import UsageError
from ldp_fast.guidance.vocabulary import TABLE, clip_tokenizer, write_vocabulary

from ..support.models import tiny_tokenizer


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


def test_the_order_of_the_words(tmp_path: pathlib.Path) -> None:
    table = tmp_path / "merges.txt.xz"
    table.write_bytes(lzma.compress(b"c u\ncu b\ncub e</w>\n"))
    write_vocabulary(table, tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    # 256 bytes, 256 at the end of a word, the merges in their order, the two marks.
    assert len(vocab) == 2 * 256 + 3 + 2 and vocab["cube</w>"] == 514 and vocab["<|startoftext|>"] == 515
    # As OpenAI's encoder numbers them.
    assert (vocab["a"], vocab["~"], vocab["¡"], vocab["a</w>"], vocab["Ā"]) == (64, 93, 94, 320, 188)
    assert (tmp_path / "merges.txt").read_text().splitlines()[1:] == ["c u", "cu b", "cub e</w>"]


def test_the_table_that_comes_with_the_package_is_clips() -> None:
    words: Any = clip_tokenizer(None, "!", 10)
    assert len(words) == 49408 and words.model_max_length == 10
    # Ids that CLIP's users know; "!" is word 0, and pads as in Stable Diffusion 2.
    assert words("a photo of a CAT", padding="max_length").input_ids == [
        49406,
        320,
        1125,
        539,
        320,
        2368,
        49407,
        0,
        0,
        0,
    ]
    assert words("a photo of a dog").input_ids == [49406, 320, 1125, 539, 320, 1929, 49407]
    # "é" is two bytes, C3 A9, that a merge makes one word of.
    assert words.decode(words("café naïve").input_ids[1:-1]) == "café naïve"
    assert TABLE.stat().st_size < 200_000

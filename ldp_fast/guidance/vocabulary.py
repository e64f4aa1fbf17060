"""CLIP's tokenizer for models that come as one file, which does not hold a vocabulary."""

from __future__ import annotations

import json
import lzma
import pathlib
import tempfile
from typing import Any

from ..errors import UsageError
from .components import as_path, load_tokenizer, quietly

TABLE = pathlib.Path(__file__).parent / "clip" / "merges.txt.xz"
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(where: str | pathlib.Path | None, padding: str, limit: int) -> Any:
    """CLIP's tokenizer, from a folder or from the table of merges that comes with this package.

    Args:
        where: a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`; None is the table.
        padding: the token that fills a prompt up.
        limit: tokens of a prompt.

    Raises:
        UsageError: the folder does not exist, or does not hold a vocabulary.
    """
    from transformers import CLIPTokenizer

    if where is not None:
        folder = as_path("tokenizer", where)
        if not folder.is_dir():
            raise UsageError(f"tokenizer: expected a folder with CLIP's vocabulary; there is no folder {where}")
        made = load_tokenizer(CLIPTokenizer, str(folder), what=f"tokenizer={str(where)!r}")
    else:
        with tempfile.TemporaryDirectory() as written:
            write_vocabulary(TABLE, pathlib.Path(written))
            with quietly():
                made = CLIPTokenizer.from_pretrained(written, unk_token=END, bos_token=START, eos_token=END)
    made.pad_token, made.model_max_length = padding, limit
    return made


def write_vocabulary(table: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes `vocab.json` and `merges.txt` from a table of merges.

    The order of the words is that of byte-level BPE: 256 bytes as printable signs, the same at the end of a word, what
    the merges make, and the two marks.

    Args:
        table: two parts a line, in UTF-8, compressed by xz.
        folder: where to.
    """
    lines = lzma.decompress(table.read_bytes()).decode("utf-8").splitlines()
    # Bytes that print come first, then the others, as signs from 256 on.
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    signs = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    words = [*signs, *(sign + "</w>" for sign in signs), *(line.replace(" ", "") for line in lines), START, END]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")

"""CLIP's tokenizer for models that come as one file, which holds no vocabulary: where it may already be."""

from __future__ import annotations

import gzip
import importlib.util
import json
import pathlib
import tempfile
from typing import Any

from ..errors import UsageError
from .components import load_tokenizer, quietly

# Packages that bring OpenAI's table of merges, and repositories whose tokenizer the hub's cache may hold.
PACKAGES = ("open_clip", "clip")
TABLE = "bpe_simple_vocab_16e6.txt.gz"
CACHED = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("runwayml/stable-diffusion-v1-5", "tokenizer/"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
)
START, END = "<|startoftext|>", "<|endoftext|>"
_MERGES = 49152 - 256 - 2


def clip_tokenizer(where: str | pathlib.Path | None, padding: str, limit: int) -> Any:
    """CLIP's tokenizer, from a folder or from what this machine has; the network is not asked.

    Args:
        where: a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`; None looks into the hub's local
            cache, then for the table of merges in the packages open_clip and clip.
        padding: the token that fills a prompt up.
        limit: tokens of a prompt.

    Raises:
        UsageError: there is no such folder, or no vocabulary on this machine.
    """
    from huggingface_hub import try_to_load_from_cache
    from transformers import CLIPTokenizer

    if where is not None:
        folder = pathlib.Path(where).expanduser()
        if not folder.is_dir():
            raise UsageError(f"tokenizer: expected a folder with CLIP's vocabulary; there is no folder {where}")
        return _with(load_tokenizer(CLIPTokenizer, str(folder), what=f"tokenizer={str(where)!r}"), padding, limit)
    for name, subfolder in CACHED:
        found = [try_to_load_from_cache(name, f"{subfolder}{file}") for file in ("vocab.json", "merges.txt")]
        if all(isinstance(path, str) for path in found):
            snapshot = str(pathlib.Path(str(found[0])).parent)
            return _with(load_tokenizer(CLIPTokenizer, snapshot, what=f"the cache of {name}"), padding, limit)
    table = next((path for package in PACKAGES if (path := _table_of(package)) is not None), None)
    if table is None:
        raise UsageError(
            "tokenizer: expected a folder with CLIP's vocab.json and merges.txt (the folder `tokenizer` of any Stable "
            "Diffusion): one file holds none, and neither the hub's cache on this machine nor a package "
            "(pip install open_clip_torch) has it"
        )
    with tempfile.TemporaryDirectory() as written:
        write_vocabulary(table, pathlib.Path(written))
        with quietly():
            made = CLIPTokenizer.from_pretrained(written, unk_token=END, bos_token=START, eos_token=END)
    return _with(made, padding, limit)


def _with(tokenizer: Any, padding: str, limit: int) -> Any:
    tokenizer.pad_token, tokenizer.model_max_length = padding, limit
    return tokenizer


def _table_of(package: str) -> pathlib.Path | None:
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (table := pathlib.Path(folder) / TABLE).is_file():
            return table
    return None


def write_vocabulary(table: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes `vocab.json` and `merges.txt` from OpenAI's table of merges, of which CLIP uses the first 48894.

    The order of the words is that of byte-level BPE: 256 bytes as printable signs, the same at the end of a word, what
    the merges make, and the two marks.

    Args:
        table: `bpe_simple_vocab_16e6.txt.gz`: a line of version, then two parts a line.
        folder: where to.
    """
    lines = gzip.decompress(table.read_bytes()).decode("utf-8").split("\n")[1 : 1 + _MERGES]
    # Bytes that print come first, then the others, as signs from 256 on.
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    signs = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    words = [*signs, *(sign + "</w>" for sign in signs), *(line.replace(" ", "") for line in lines), START, END]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")

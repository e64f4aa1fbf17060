"""Files of StyleGAN2 that people have, as generators of ours; what a file is, its first bytes say."""

from __future__ import annotations

import hashlib
import pathlib

from ..errors import UsageError, reason, shortened
from . import nvidia, rosinality
from .foreign import Found, build
from .stylegan2 import StyleGAN2

_ARCHIVE = b"PK\x03\x04"
# torch.save without an archive: the pickle of a number of its own.
_FORMER = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_EXPECTED = "expected a .pt of rosinality's stylegan2-pytorch, or a .pkl of NVIDIA's stylegan2-ada-pytorch or stylegan3"


def convert(path: pathlib.Path | str) -> StyleGAN2:
    """Reads a StyleGAN2 of another format; nothing that is in the file is run.

    Args:
        path: a checkpoint of rosinality's stylegan2-pytorch, or a pickle of a StyleGAN2 by NVIDIA's
            stylegan2-ada-pytorch or stylegan3.

    Returns:
        The generator, float32 on the CPU. Its `about` says what it was made from, and under `notes` what was missing.

    Raises:
        UsageError: the file does not exist, is damaged, asks for what is not data, or holds something else; of sizes
            that do not fit together the shapes are listed.
    """
    path = pathlib.Path(path)
    try:
        if not path.is_file():
            raise UsageError(f"is {'a folder' if path.is_dir() else 'missing'}: {_EXPECTED}")
        found = _read(path)
        generator = build(found)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except UsageError as error:
        # Names in it are of the file, whose line breaks and terminal codes are not for a terminal.
        said = "".join(c if c.isprintable() else "?" for c in str(error))
        raise UsageError(f"{path} {shortened(said, 1500)}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({reason(error)})") from None
    generator.name = str(path)
    generator.about = {"made_from": path.name, "sha256": digest, "format": found.origin, "notes": found.notes}
    return generator


def _read(path: pathlib.Path) -> Found:
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith((_ARCHIVE, _FORMER)):
        return rosinality.read(path)
    if head.startswith(b"\x80"):
        return nvidia.read(path.read_bytes())
    if head[8:9] == b"{" and path.suffix == ".safetensors":
        raise UsageError("is a .safetensors file: those of ldp-fast are taken as they are, without conversion")
    begins = f"it begins with {head[:20]!r}" if head else "it is empty"
    raise UsageError(f"is of another format ({begins}): {_EXPECTED}")

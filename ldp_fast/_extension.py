"""Whether the compiled renderer `ldp_fast._C` is there and, if not, why; without importing it or torch."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shutil
import sys
import urllib.parse
import urllib.request
from importlib.machinery import EXTENSION_SUFFIXES

PACKAGE = pathlib.Path(__file__).resolve().parent
NAME = "ldp_fast._C"


def why_absent() -> str | None:
    """What keeps the extension away and what mends it, as the end of a sentence; None where its file is there."""
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec(NAME) is not None:
            return None
    other = elsewhere()
    if other is not None:
        return (
            f"the source folder {PACKAGE.parent} stands in front of the installed package in {other}, which has it: "
            "start from another folder, or install with pip install -e . --no-build-isolation"
        )
    own = tuple(f"_C{end}" for end in EXTENSION_SUFFIXES)
    foreign = sorted(p.name for p in PACKAGE.glob("_C.*") if p.suffix in (".so", ".pyd") and not p.name.endswith(own))
    if foreign:
        return f"{foreign[0]} was built for another Python: install again with this one"
    if os.environ.get("LDP_FAST_EXT", "").strip() == "0":
        return "LDP_FAST_EXT=0 leaves it out: install again without that setting"
    if not has_compiler():
        return "there is no C++ compiler here that could build it: install g++ or clang++, then ldp-fast again"
    return "it was not built at installation: install again with LDP_FAST_EXT=1, which says what was missing"


def elsewhere() -> pathlib.Path | None:
    """A folder other than this package's in which an `ldp_fast` with its extension is installed."""
    places = [pathlib.Path(entry) for entry in sys.path if entry]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError, OSError):
        # An editable installation is not on sys.path; it says where it is.
        told = importlib.metadata.distribution("ldp-fast").read_text("direct_url.json")
        address = urllib.parse.urlsplit(json.loads(told or "{}").get("url", ""))
        if address.scheme == "file":
            places.append(pathlib.Path(urllib.request.url2pathname(address.path)))
    for place in places:
        package = place / "ldp_fast"
        with contextlib.suppress(OSError):
            if package.resolve() != PACKAGE and any((package / f"_C{end}").is_file() for end in EXTENSION_SUFFIXES):
                return place
    return None


def has_compiler() -> bool:
    """Whether there is what torch would build an extension with."""
    named = os.environ.get("CXX", "").split()[:1]
    return any(shutil.which(name) for name in (*named, "c++", "g++", "clang++", "cl"))


def say_once(cache: pathlib.Path) -> None:
    """Says on stderr whether the extension is there, the first time that this installation is used.

    Args:
        cache: a folder of the user; a small file in it remembers. Nothing is said where it cannot be written, because
            it would be said every time.
    """
    digest = hashlib.sha256(os.fsencode(PACKAGE)).hexdigest()[:10]
    marker = cache / f"renderer-{digest}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with open(marker, "x", encoding="utf-8") as file:
            file.write("ldp-fast has said whether the compiled renderer is there\n")
    except OSError:
        return
    reason = why_absent()
    said = "is there" if reason is None else f"is missing, so that latent-nerf cannot run: {reason}"
    print(f"ldp-fast: first run: the compiled renderer {said} (ldp-fast env says more)", file=sys.stderr)

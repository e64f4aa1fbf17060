"""Checkouts of the hosts, for the tests that run against their real code.

`LDP_HOSTS` names a folder with one folder per host, called as its repository is (`sjc`, `latent-nerf`, …). Without it
these tests skip and say so. A host's files are imported as they are; packages of theirs that are not installed here and
have no part in what is tested (torchvision, tyro, …) are stood in for.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pathlib
import sys
import types
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

# These look for torchvision when they are imported, and would take a stand-in for it: they come before.
LOOK_AROUND = {
    "diffusers": ("StableDiffusionPipeline",),
    "transformers": ("CLIPTextModel", "CLIPTokenizer", "CLIPVisionModel"),
}


def checkout(name: str) -> pathlib.Path:
    """The folder of a host; skips the test, with the reason, where there is none."""
    folder = os.environ.get("LDP_HOSTS")
    if not folder:
        pytest.skip("LDP_HOSTS does not name a folder with checkouts of the hosts")
    path = pathlib.Path(folder) / name
    if not path.is_dir():
        pytest.skip(f"LDP_HOSTS has no folder {name}")
    return path


class _StandIn(types.ModuleType):
    """A module that has whatever is asked of it, and packages below it."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Anything(f"{self.__name__}.{name}", (), {})
        setattr(self, name, made)
        return made


class _Anything(type):
    """A class that can be called, subscripted, subclassed and decorated with, and has every attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) and not kwargs else cls

    def __getitem__(cls, item: Any) -> Any:
        return cls


class _Finder:
    """Finds stand-ins for what is below the packages that are stood in for."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == n or name.startswith(n + ".") for n in self.names):
            return importlib.util.spec_from_loader(name, self)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@contextlib.contextmanager
def imported(folder: pathlib.Path, module: str, *stood_in: str) -> Iterator[types.ModuleType]:
    """A module of a host's checkout, imported from there; everything is as before afterwards.

    Args:
        folder: from which it is imported: what the host has in its `sys.path`.
        module: its dotted name.
        *stood_in: packages that are stood in for where they are not installed. Modules of the host itself are stood in
            for always.
    """
    for library, classes in LOOK_AROUND.items():
        for name in classes:
            getattr(importlib.import_module(library), name)
    names = tuple(n for n in stood_in if (folder / n.split(".")[0]).exists() or not _installed(n))
    before, finder = dict(sys.modules), _Finder(names)
    for name in list(sys.modules):
        # A package of the same name that an earlier host left, or of ours.
        if name.split(".")[0] == module.split(".")[0]:
            del sys.modules[name]
    sys.path.insert(0, str(folder))
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        yield importlib.import_module(module)
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
        sys.path.remove(str(folder))
        for name in [n for n in sys.modules if n not in before]:
            if isinstance(sys.modules[name], _StandIn) or _from(sys.modules[name], folder):
                del sys.modules[name]
        sys.modules.update({n: m for n, m in before.items() if n not in sys.modules})
        _forget_resolvers()


def _forget_resolvers() -> None:
    """omegaconf refuses a name twice, and a host registers its own whenever it is imported."""
    omegaconf = sys.modules.get("omegaconf")
    if omegaconf is not None:
        omegaconf.OmegaConf.clear_resolvers()


def _from(module: types.ModuleType, folder: pathlib.Path) -> bool:
    return str(vars(module).get("__file__") or "").startswith(str(folder))

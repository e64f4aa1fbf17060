"""Fixtures of the applications' tests."""

from __future__ import annotations

import copy
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ldp_fast.apps.synthesis import run as image_synthesis
from ldp_fast.guidance import prior
from ldp_fast.guidance.loading import ZOO, embedded_models
from ldp_fast.runs import image_files

from ..support.models import save_stable_diffusion
from .text_to_3d_runs import with_quick_products, without_pictures

MODELS: dict[Any, dict[str, Any]] = {}
LOAD = prior.load_components


def load_components(name: str, device: torch.device, dtype: torch.dtype, **files: Any) -> dict[str, Any]:
    """`prior.load_components`; of a folder that was read before, copies of its networks."""
    folder = ZOO / name if name in embedded_models() else pathlib.Path(name)
    if any(files.values()) or not os.path.isdir(folder):
        return LOAD(name, device, dtype, **files)
    held = tuple((path, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")))
    key = (held, device, dtype)
    if key not in MODELS:
        MODELS[key] = LOAD(name, device, dtype)
    return {name: x if name.startswith("tokenizer") else copy.deepcopy(x) for name, x in MODELS[key].items()}


@pytest.fixture(autouse=True, scope="module")
def models_are_read_once() -> Iterator[None]:
    """Reading one takes longer than the steps of most runs here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prior, "load_components", load_components)
        yield


@pytest.fixture
def viser() -> None:
    pytest.importorskip("viser")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield int(holder.getsockname()[1])


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Stable Diffusion with random weights, as a folder."""
    return str(save_stable_diffusion(tmp_path_factory.mktemp("model") / "sd"))


@pytest.fixture
def only_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs make no pictures and no mesh."""
    without_pictures(monkeypatch)


@pytest.fixture
def plain_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of synthesis leave an empty figure of their losses, which takes longer than a few of their steps."""
    monkeypatch.setattr(image_synthesis, "loss_figure", lambda history: image_files.new_figure(1, 1, (1, 1))[0])


@pytest.fixture
def quick_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end with all that they make, the film shorter and the mesh coarser."""
    with_quick_products(monkeypatch)

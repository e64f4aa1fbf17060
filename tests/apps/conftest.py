"""Fixtures of the applications' tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ..support.models import save_stable_diffusion
from .text_to_3d_runs import with_quick_products, without_pictures


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
def quick_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end with all that they make, the film shorter and the mesh coarser."""
    with_quick_products(monkeypatch)

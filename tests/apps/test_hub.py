"""A model of the hub that lies in its cache is loaded from there where the hub cannot be asked."""

from __future__ import annotations

import pathlib
import shutil

import pytest
import torch

from ldp_fast import UsageError
from ldp_fast.apps import hub
from ldp_fast.apps.options import load_prior

from . import text_to_3d_runs as runs

NAME = "somebody/a-model"


@pytest.fixture
def cached(small_model: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A model's folder in the cache."""
    from huggingface_hub import constants

    for variable in hub._OFFLINE:
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "models--somebody--a-model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abc")
    shutil.copytree(small_model, folder / "snapshots" / "0123abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return folder / "snapshots" / "0123abc"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that the hub's library asks for; there is no network."""
    from huggingface_hub import file_download

    asked: list[str] = []

    def refuse(url: str, *args: object, **kwargs: object) -> None:
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr(file_download, "get_hf_file_metadata", refuse)
    return asked


def test_without_a_network_it_is_loaded_from_the_cache(
    small_model: str, cached: pathlib.Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "unreachable", lambda address: "no route")
    prior = load_prior(runs.configuration(NAME))
    assert asked == []
    expected = load_prior(runs.configuration(small_model))
    for mine, other in zip(prior.unet.parameters(), expected.unet.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_where_there_is_a_network_the_hub_is_asked_for_news(
    cached: pathlib.Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "unreachable", lambda address: None)
    assert hub.reachable("model", NAME, "model_index.json") == NAME
    with pytest.raises(UsageError):
        load_prior(runs.configuration(NAME))
    assert asked and all("somebody/a-model" in url for url in asked)


@pytest.mark.parametrize("variable", hub._OFFLINE)
def test_where_it_is_forbidden_nobody_is_asked(
    variable: str, cached: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(address: str) -> str | None:
        raise AssertionError(address)

    monkeypatch.setattr(hub, "unreachable", never)
    monkeypatch.setenv(variable, "1")
    assert hub.reachable("model", NAME, "model_index.json") == str(cached)
    with pytest.raises(UsageError, match=f"is not in the cache of .*, and {variable} forbids fetching it"):
        hub.reachable("model", "somebody/another", "model_index.json")

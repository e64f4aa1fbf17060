"""A model of the hub that lies in its cache is loaded from there where the hub cannot be asked."""

from __future__ import annotations

import os
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


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """No proxies and no variables of the hub; where somebody is asked, who refuses."""
    for variable in [*hub._OFFLINE, "HF_ENDPOINT", *(name for name in os.environ if name.lower().endswith("_proxy"))]:
        monkeypatch.delenv(variable, raising=False)
    places: list[tuple[str, int]] = []

    def refuse(place: tuple[str, int], timeout: float) -> None:
        places.append(place)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(hub.socket, "create_connection", refuse)
    return places


@pytest.mark.parametrize(
    "address", ["http://host:notaport", "huggingface.co", "http://[", "", "ftp://host", "https:// host", "https://"]
)
def test_an_endpoint_that_is_not_an_address(
    address: str, plain: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(UsageError) as raised:
        hub.reachable("model", "somebody/another", "model_index.json")
    assert str(raised.value) == (
        f"HF_ENDPOINT: expected the hub's address, such as https://huggingface.co, got {address!r}; or leave it unset"
    )
    # The hub's library itself cannot be imported with some of them, and a model needs it wherever it is.
    if address in ("http://host:notaport", "http://["):
        with pytest.raises(UsageError, match=r"^HF_ENDPOINT: expected"):
            hub.reachable("model", "primitives", "model_index.json")
    else:
        assert hub.reachable("model", "primitives", "model_index.json") == "primitives"


@pytest.mark.parametrize(
    ("variables", "place", "said"),
    [
        ({}, ("hub.test", 443), "Connection refused"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, ("proxy", 3128), "HTTPS_PROXY, http://proxy:3128: "),
        ({"https_proxy": "me:secret@proxy:3128"}, ("proxy", 3128), "https_proxy, …@proxy:3128: "),
        ({"ALL_PROXY": "http://proxy"}, ("proxy", 80), "ALL_PROXY, http://proxy: "),
        ({"all_proxy": "socks5://proxy"}, ("proxy", 1080), "all_proxy, socks5://proxy: "),
        ({"ALL_PROXY": "http://two", "https_proxy": "http://one"}, ("one", 80), "https_proxy, http://one: "),
        ({"HTTP_PROXY": "http://proxy:3128"}, ("hub.test", 443), "Connection refused"),
        ({"ALL_PROXY": "http://proxy:3128", "NO_PROXY": ".test"}, ("hub.test", 443), "Connection refused"),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "*"}, ("hub.test", 443), "Connection refused"),
        ({"HTTPS_PROXY": "http://me:secret@proxy:no"}, None, "HTTPS_PROXY: expected a proxy's address, such as"),
        ({"ALL_PROXY": "socks://proxy:7890"}, None, "3128, got 'socks://proxy:7890'"),
    ],
)
def test_the_way_to_the_hub(
    variables: dict[str, str],
    place: tuple[str, int] | None,
    said: str,
    plain: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = str(hub.unreachable("https://hub.test"))
    assert said in found and "secret" not in found
    assert plain == ([] if place is None else [place])
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@hub.test")
    with pytest.raises(UsageError) as raised:
        hub.reachable("model", "somebody/another", "model_index.json")
    line = str(raised.value)
    assert "fetched from https://…@hub.test, but the network does not lead there (" in line and "secret" not in line
    assert said in line


def test_a_host_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    assert "label" in str(hub.unreachable("http://a..b"))

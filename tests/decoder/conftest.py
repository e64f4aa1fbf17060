"""The decoders of these tests are so small that torch's convolutions would be chosen: asked for are the extension's."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_CONV", "winograd")

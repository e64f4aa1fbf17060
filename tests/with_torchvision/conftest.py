"""Tests that need torchvision run in a process of their own, which `tests/metrics/test_with_torchvision.py` starts."""

import os
import pathlib

import pytest

from tests.support import torchvision

APART = "LDP_TEST_TORCHVISION"
REASON = torchvision.prepare() if os.environ.get(APART) else ""


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    return None if os.environ.get(APART) else True


@pytest.fixture(autouse=True)
def _torchvision() -> None:
    if REASON:
        pytest.skip(REASON)

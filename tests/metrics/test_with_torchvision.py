"""Runs `tests/with_torchvision`, whose packages nothing else may see (tests/support/torchvision.py)."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.support import torchvision

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_what_needs_torchvision():
    if not torchvision.SIDE.is_dir():
        pytest.skip("python tests/support/torchvision.py installs what this needs")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "tests/with_torchvision",
    ]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "LDP_TEST_TORCHVISION": "1"}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert re.search(r"\d+ passed", ended.stdout), ended.stdout[-2000:]

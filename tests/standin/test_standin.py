"""The stand-in for a GPU refuses what a GPU refuses, and what it cannot run is a list that does not grow by itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import VARIABLE
from .refused import REFUSED, reason

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def test_what_cannot_run_is_named() -> None:
    assert len(REFUSED) == 4, "a test that the stand-in cannot run is hidden from every machine here: is it needed?"
    for nodeid, why in REFUSED.items():
        file, name = nodeid.split("::")
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), nodeid
        assert why and reason(f"tests/{nodeid}[some case]") == why
    assert reason("tests/ops/test_perturb.py::test_more_elements_than_32_bits_count") is None


def test_it_refuses_what_a_gpu_refuses() -> None:
    """And runs the tests that need a GPU, no others."""
    done = run("tests/standin", "tests/ops/test_perturb.py", **{VARIABLE: "cpu"})
    assert done.returncode == 0 and re.search(r"\b6 passed, \d+ deselected", done.stdout), done.stdout + done.stderr


def test_another_value_is_refused() -> None:
    done = run("tests/support/test_tolerances.py", **{VARIABLE: "meta"})
    assert done.returncode != 0 and f"{VARIABLE}: expected cpu or nothing, got 'meta'" in done.stdout + done.stderr


def test_a_test_that_mixes_devices_fails(tmp_path: Path) -> None:
    """What 18 tests did, and nobody saw without a GPU."""
    if sys.platform != "linux":
        pytest.skip("the guard is compiled for Linux")
    code = (
        "from tests.standin import guard; guard.load()\n"
        "import torch\nfrom tests.standin import cuda, tensor\ncuda.install()\n"
        "with tensor.MODE:\n    torch.ones(3, device='cuda')[:, None] * torch.ones(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "expected all tensors to be on the same device" in done.stderr

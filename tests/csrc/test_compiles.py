"""Every .cu file compiles for the architectures that are promised, GPU or not, and without a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda_on_cpu.sass import ARCHITECTURES, machine_code

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc").rglob("*.cu"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_compiles(source: Path, architecture: int) -> None:
    assert machine_code(source, architecture)


def test_there_is_something_to_compile() -> None:
    assert len(SOURCES) > 10

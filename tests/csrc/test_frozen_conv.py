"""The CPU's Winograd convolutions against plain loops in double, under sanitizers, for every width of vectors."""

from __future__ import annotations

import pytest

from tests.cuda_on_cpu import harness

DRIVER = harness.ROOT / "tests" / "csrc" / "frozen_conv_driver.cpp"
SOURCES = ("frozen_conv/frozen_conv_cpu.cpp",)
KINDS = {"same": 0, "same-transposed": 1, "upsample": 2, "upsample-transposed": 3}

# batch, height, width, in, out, flags (see the driver); upsample-transposed takes twice that height and width
CASES = {
    "one-pixel": "1 1 1 16 16 -",
    "a-row": "2 1 9 16 32 b",
    "a-column": "1 7 1 32 16 s",
    "one-tile": "1 4 4 16 16 bsa",
    "odd": "3 5 3 48 80 bsaw",
    "several-tiles": "1 9 13 16 48 sa",
    "several-blocks": "2 37 41 16 16 s",
    "wide": "1 2 150 16 16 a",
    "sums-in-parts": "1 3 2 80 32 b",
    "empty-batch": "0 4 4 16 16 -",
    "misaligned": "2 6 5 16 16 bsam",
    "not-a-number": "2 9 6 16 16 n",
    "not-a-number-activated": "2 9 6 16 16 nsm",
}


def arguments(kind: str, case: str) -> list[str]:
    batch, height, width, *rest = CASES[case].split()
    if kind == "upsample-transposed":
        height, width = str(2 * int(height)), str(2 * int(width))
    return [str(KINDS[kind]), batch, height, width, *rest]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_plain_loops(kind: str, case: str) -> None:
    harness.check(DRIVER, SOURCES, *arguments(kind, case))


@pytest.mark.parametrize("lanes", [4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_narrower_cpus_agree_too(kind: str, lanes: int) -> None:
    """The widest instructions this CPU has are above; here those of lesser ones."""
    for case in ("one-pixel", "odd", "several-tiles", "misaligned", "not-a-number-activated"):
        harness.check(DRIVER, SOURCES, *arguments(kind, case), environment={"LDP_FAST_LANES": str(lanes)})

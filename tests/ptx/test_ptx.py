"""What nvcc makes of the kernels computes what the CPU does: PTX, translated to C++, under AddressSanitizer.

The harness of tests/cuda_on_cpu compiles the kernels with g++; here nvcc's front half compiles them, inline assembly,
vector reductions and intrinsics included, and the drivers of tests/csrc judge the results. ptxas is not tested.

`LDP_TEST_PTX=all` takes every instantiation and order instead of a selection.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.csrc import test_composite_rule
from tests.cuda_on_cpu import harness
from tests.ptx import emulator, test_latent_field
from tests.ptx.translate import translate

DIFFERS = 70  # how a driver ends whose comparison fails
DRIVERS = harness.ROOT / "tests" / "csrc"
ADAM = {"fused_adam/fused_adam.cu": "."}
OCCUPANCY = {"occupancy/occupancy_update.cu": ".", "occupancy/occupancy_bits.cu": "."}
MARCH = {"march_rays/march_rays_scan.cu": ".", "march_rays/march_rays_samples.cu": "."}
HASH_GRID = {
    "hash_grid/hash_grid_fwd.cu": "<2, float>",
    "hash_grid/hash_grid_bwd.cu": "<2, float>",
    "hash_grid/hash_grid_bwd_table.cu": "<2>|largest|from_fixed",
}
HASH_GRID_CASES = ["kinds"]
COMPOSITE = {"composite/composite_fwd.cu": "<4, 1>", "composite/composite_bwd.cu": "<4, 1, "}
LANES = ["4"]
if emulator.EVERYTHING:
    HASH_GRID, COMPOSITE, LANES = dict.fromkeys(HASH_GRID, "."), dict.fromkeys(COMPOSITE, "."), []
    HASH_GRID_CASES = ["kinds", "sizes", "features", "misaligned", "half_shadow", "magnitudes"]


def march(change: Callable[[str], str] = str) -> Path:
    return emulator.build(
        DRIVERS / "march_rays_driver.cpp", MARCH, ["march_rays/march_rays_cpu.cpp"], 90, change=change
    )


def test_fused_adam() -> None:
    emulator.check(emulator.build(DRIVERS / "fused_adam_driver.cpp", ADAM, ["fused_adam/fused_adam_cpu.cpp"], 90))


def test_occupancy() -> None:
    driver = DRIVERS / "occupancy_driver.cpp"
    emulator.check(emulator.build(driver, OCCUPANCY, ["occupancy/occupancy_cpu.cpp"], 90))


def test_march_rays() -> None:
    emulator.check(march())


@pytest.mark.parametrize("case", HASH_GRID_CASES)
def test_hash_grid(case: str) -> None:
    """Encoding and both gradients, with vector reductions and with fixed-point sums."""
    sources = ["hash_grid/hash_grid_cpu.cpp", "hash_grid/hash_grid_bwd_cpu.cpp"]
    emulator.check(emulator.build(DRIVERS / "hash_grid_driver.cpp", HASH_GRID, sources, 90), case)


def test_composite() -> None:
    """Stops inside and between chunks, long and empty rays, padding, a buffer that is too short; gradients or none."""
    driver = DRIVERS / "composite_driver.cpp"
    emulator.check(emulator.build(driver, COMPOSITE, ["composite/composite_cpu.cpp"], 90), *LANES)


@pytest.mark.parametrize("early_stop", [0.0, 1e-3])
def test_composite_keeps_the_rule(early_stop: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator.choose(monkeypatch)
    programme = emulator.build(test_composite_rule.DRIVER, COMPOSITE, [], 90)
    test_composite_rule.judge(programme, 4, early_stop, tmp_path)


def test_every_file_is_taken() -> None:
    taken = {*ADAM, *OCCUPANCY, *MARCH, *HASH_GRID, *COMPOSITE, *test_latent_field.KERNELS}
    assert taken == {str(file.relative_to(harness.CSRC)) for file in harness.CSRC.glob("*/*.cu")}


@pytest.mark.parametrize("old, new", [("bar.sync 	0;", ""), ("shfl.sync.up.b32", "shfl.sync.down.b32")])
def test_faults_in_the_ptx_are_seen(old: str, new: str) -> None:
    """A scan without its barriers, or one that shuffles the wrong way, is not what the CPU computes."""
    changed = []

    def change(ptx: str) -> str:
        changed.append(ptx.count(old))
        return ptx.replace(old, new)

    programme = march(change)
    assert sum(changed) > 0
    assert harness.run(programme, environment=emulator.environment()).returncode == DIFFERS


def test_unknown_instructions_are_refused() -> None:
    body = ".entry f(\n)\n{\n\t.reg .b32 %r<3>;\n\ttex.1d.v4.f32.s32 %r1, [%r2, {%r2}];\n\tret;\n}\n"
    with pytest.raises(ValueError, match="this PTX is not known: tex"):
        translate(body, ".")

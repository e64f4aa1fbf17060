"""The field's CUDA kernels, run on the CPU under sanitizers and in every order, and the machine code they become."""

from __future__ import annotations

import pytest

from tests.cuda_on_cpu import harness
from tests.cuda_on_cpu.sass import ARCHITECTURES, Kernels, machine_code

DRIVER = harness.ROOT / "tests" / "csrc" / "latent_field_driver.cpp"
ROOM = harness.CSRC / "latent_field"
KERNELS = ("latent_field_pack.cu", "latent_field_fwd.cu", "latent_field_bwd.cu")
SOURCES = [
    *(f"latent_field/{name}" for name in (*KERNELS, "latent_field_cpu.cpp")),
    *sorted(f"hash_grid/{path.name}" for path in (harness.CSRC / "hash_grid").glob("*_cpu.cpp")),
]

# size, count, hidden, layers, channels, features, levels, flags (see the driver)
CASES = {
    "latent-nerf": "150 -1 64 2 4 2 16 b",
    "one-sample": "1 -1 64 2 4 2 16 -",
    "no-samples": "0 -1 32 1 4 2 4 b",
    "all-padding": "40 0 32 1 4 2 4 b",
    "count-below-size": "100 37 32 2 4 2 8 -",
    "count-above-size": "20 50 16 1 4 2 8 -",
    "a-whole-tile": "64 -1 16 1 3 4 2 s",
    "rgb": "70 65 64 2 3 2 16 bs",
    "narrow-and-deep": "90 -1 16 3 4 2 8 b",
    "four-layers": "33 -1 32 4 4 2 8 -",
    "odd-width": "33 -1 48 2 15 8 3 b",
    "odd-features": "35 -1 32 2 5 5 3 bs",
    "one-feature": "35 -1 32 1 1 1 7 0",
    "widest": "40 -1 128 2 4 4 32 b",
    "one-block": "300 -1 16 1 4 2 4 t",
    "several-tiles-a-block": "900 881 16 1 4 2 4 b",
    "shadow": "40 -1 32 2 4 2 8 w",
    "misaligned": "40 -1 32 2 4 2 8 bm",
    "misaligned-shadow": "40 -1 32 2 4 4 4 wm",
}
HALF = {
    "latent-nerf": "150 -1 64 2 4 2 16 bh",
    "one-sample": "1 -1 64 1 4 2 16 h",
    "no-samples": "0 -1 32 1 4 2 4 h",
    "count-below-size": "100 37 32 3 4 2 8 h",
    "rgb": "70 65 16 2 3 2 16 bsh",
    "odd-features": "35 -1 32 2 9 5 3 bh",
    "widest": "20 -1 128 2 4 4 32 h",
    "largest": "17 -1 128 4 4 4 32 bh",
    "shadow": "40 -1 48 2 4 8 4 whb",
    "misaligned-shadow": "40 -1 32 2 4 2 8 whm",
}


@pytest.mark.parametrize("case", CASES)
def test_float32_kernels_agree_with_the_cpu(case: str) -> None:
    harness.check(DRIVER, SOURCES, *CASES[case].split())


@pytest.mark.parametrize("case", HALF)
def test_half_kernels_agree_with_loops_that_round_likewise(case: str) -> None:
    harness.check(DRIVER, SOURCES, *HALF[case].split())


@pytest.mark.parametrize("lanes", [4, 8])
def test_narrower_cpus_agree_too(lanes: int) -> None:
    """The kernels are compared with the widest instructions this CPU has; here with those of lesser ones."""
    for case in ("latent-nerf", "odd-features", "narrow-and-deep"):
        harness.check(DRIVER, SOURCES, *CASES[case].split(), environment={"LDP_FAST_LANES": str(lanes)})


@pytest.mark.parametrize("case", ["several-tiles-a-block", "narrow-and-deep"])
def test_kernels_have_no_races(case: str) -> None:
    # The CPU backend's static initialisers would ask ThreadSanitizer's runtime, which this build replaces.
    harness.check_races(DRIVER, SOURCES, *CASES[case].split(), flags=("-fno-threadsafe-statics",))


def code(name: str, architecture: int) -> Kernels:
    return machine_code(ROOM / name, architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_are_tensor_core_instructions(architecture: int) -> None:
    for name in ("latent_field_fwd.cu", "latent_field_bwd.cu"):
        kernel = "field_forward_kernel" if name == "latent_field_fwd.cu" else "field_backward_kernel"
        for instance in code(name, architecture).named(kernel):
            half = "HalfProducts" in instance.name
            wanted = "HMMA.16816.F32" if half else "HMMA.1688.F32.TF32"
            assert any(opcode.startswith(wanted) for opcode in instance.opcodes), instance.name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_nothing_is_in_local_memory(name: str, architecture: int) -> None:
    for kernel, instance in code(name, architecture).items():
        assert instance.local_accesses() == 0, kernel


@pytest.mark.parametrize("device", ["sm_80", "sm_90"])
@pytest.mark.parametrize("case", ["latent-nerf", "count-below-size", "several-tiles-a-block", "widest"])
def test_kernels_agree_with_the_cpu_where_there_is_more_shared_memory(case: str, device: str) -> None:
    """Blocks of eight warps, and everything in shared memory; sm_120, which has the least, is the harness's own."""
    harness.check(DRIVER, SOURCES, *CASES[case].split(), environment={"LDP_CUDA_DEVICE": device})

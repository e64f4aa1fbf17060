"""The harness sees the faults it is there for, and lets correct kernels pass, under every order."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.cuda_on_cpu import harness

HERE = harness.HERE
FAILED, ADDRESS, UNDEFINED = 70, 71, 72

CORRECT = [
    "reduce",
    "reverse-warp",
    "copy",
    "copy-one",
    "static-shared",
    "dynamic-shared",
    "sum-shared",
    "sum-global",
    "local",
    "shuffle",
    "total",
]

# Results may well be right: only the build for races sees these. Each with the lines of planted.cu that it names.
RACES = {
    "reduce-without-barrier": "reduce_kernel",
    "reverse-warp-without-barrier": "reverse_warp_kernel",
    "total-without-atomics": "total_kernel",
    "read-of-another-block": "neighbour_kernel",
}

# Each: how the process ends, and words of its report.
FAULTS = {
    "reduce-without-barrier": (FAILED, "sums: expected"),
    "reverse-warp-without-barrier": (FAILED, "reversed: expected"),
    "copy-write-behind-the-end": (ADDRESS, "WRITE of size 4"),
    "copy-buffer-too-small": (ADDRESS, "WRITE of size 4"),
    "static-shared-behind-the-end": (ADDRESS, "READ of size 4"),
    "static-shared-before-the-start": (ADDRESS, "READ of size 4"),
    "dynamic-shared-behind-the-end": (ADDRESS, "READ of size 4"),
    "sum-shared-uninitialised": (FAILED, "out: expected 32"),
    "sum-global-uninitialised": (FAILED, "sum: expected 100"),
    "local-behind-the-end": ((ADDRESS, UNDEFINED), "planted.cu"),
    "shuffle-after-lanes-left": (FAILED, "left the kernel"),
    "shuffle-beside-a-barrier": (FAILED, "deadlock"),
    "shuffle-beside-another-collective": (FAILED, "with the same mask"),
    "shuffle-outside-of-its-mask": (FAILED, "lane 0 shuffles from lane 31, which takes no part"),
    "shuffle-in-a-partial-warp": (FAILED, "the block has no lane 24"),
    "barrier-after-threads-left": (FAILED, "barrier"),
    "launch-nothing": (65, "copy_kernel: invalid configuration argument"),
}

ORDERS = ["forward,forward,1,ff", "reverse,reverse,1,7b", "random,random,3,ff", "random,random,4,7b"]


def planted(case: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return harness.run(harness.build(HERE / "planted_driver.cpp", [HERE / "planted.cu"]), case, environment=environment)


@pytest.mark.parametrize("case", CORRECT)
def test_correct_kernels_pass(case: str) -> None:
    done = planted(case)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_caught(case: str) -> None:
    expected, words = FAULTS[case]
    done = planted(case)
    assert done.returncode in (expected if isinstance(expected, tuple) else (expected,)), done.stderr
    assert words in done.stderr


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "case", ["reverse-warp-without-barrier", "copy-write-behind-the-end", "shuffle-after-lanes-left"]
)
def test_faults_are_caught_in_each_order(case: str, order: str) -> None:
    done = planted(case, LDP_CUDA_ORDER=order)
    assert done.returncode == (ADDRESS if case.startswith("copy") else FAILED), done.stderr
    if done.returncode == FAILED:
        assert f"[order: {order}]" in done.stderr


@pytest.mark.parametrize("case", CORRECT)
def test_correct_kernels_have_no_races(case: str) -> None:
    harness.check_races(HERE / "planted_driver.cpp", [HERE / "planted.cu"], case)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", RACES)
def test_races_are_found_in_each_order(case: str, order: str) -> None:
    programme = harness.build(HERE / "planted_driver.cpp", [HERE / "planted.cu"], races=True)
    done = harness.run(programme, case, environment={"LDP_CUDA_ORDER": order})
    assert done.returncode == FAILED
    assert "race at" in done.stderr and RACES[case] in done.stderr
    if shutil.which("addr2line"):
        assert "planted.cu:" in harness.with_lines(programme, done.stderr)


@pytest.mark.parametrize("case", ["total-without-atomics", "read-of-another-block"])
def test_some_races_show_in_no_result(case: str) -> None:
    """Why there is a build for races: fibers are never inside of `x += y` two at a time."""
    assert planted(case).returncode == 0


@pytest.mark.parametrize("order", ["sideways,forward,1,ff", "forward", "forward,forward,1,fff"])
def test_an_unknown_order_is_an_error(order: str) -> None:
    done = planted("reduce", LDP_CUDA_ORDER=order)
    assert done.returncode == FAILED
    assert "LDP_CUDA_ORDER: expected" in done.stderr


def test_a_million_threads() -> None:
    """Takes about a second; the limit is there for a harness that became a hundred times slower."""
    programme = harness.build(HERE / "planted_driver.cpp", [HERE / "planted.cu"])
    done = harness.run(programme, "a-million-threads", timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", ["warp", "atomics", "mma", "mma-rounding", "half-precision"])
def test_warp_and_tensor_core_functions(case: str) -> None:
    harness.check(HERE / "warp_driver.cpp", [HERE / "warp.cu"], case)


@pytest.mark.parametrize("case", ["warp", "atomics", "mma"])
def test_warp_functions_have_no_races(case: str) -> None:
    harness.check_races(HERE / "warp_driver.cpp", [HERE / "warp.cu"], case)


def test_a_misaligned_pair_is_caught() -> None:
    done = harness.run(harness.build(HERE / "warp_driver.cpp", [HERE / "warp.cu"]), "misaligned-pair")
    assert done.returncode == UNDEFINED
    assert "misaligned address" in done.stderr


def test_a_source_that_does_not_compile_says_why() -> None:
    with pytest.raises(AssertionError, match=r"planted\.cu does not compile"):
        harness.compile_object(HERE / "planted.cu", ("-DLDP_LAUNCH=1 2",))

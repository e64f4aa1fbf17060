"""What nvcc makes of the field's kernels keeps the rule for tolerances: its mma.sync, with tf32 and float16 fragments.

Where the fragments' elements lie is written down in ptx_warp.h from the ISA, apart from ldp/mma.h; sums are cut off as
tensor cores do (cuda_on_cpu/tensor_core.h). `LDP_TEST_PTX=all` takes every instantiation, and the cases of tests/csrc.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.csrc import test_latent_field
from tests.csrc import test_latent_field_rule as rule
from tests.ptx import emulator

SIZE = 100  # neither whole tiles nor whole warps
KERNELS = {
    "latent_field/latent_field_pack.cu": ".",
    "latent_field/latent_field_fwd.cu": "Products, 64, true",
    "latent_field/latent_field_bwd.cu": "Products, true|sum",
}
NAMES = ["two-layers-of-64"]
# Of tests/csrc: padding, biases and a sigmoid, as float32 and as float16 products.
CASES = ["70 65 64 2 3 2 16 bs", "70 65 64 2 3 2 16 bsh"]
if emulator.EVERYTHING:
    KERNELS, NAMES = dict.fromkeys(KERNELS, "."), list(rule.FIELDS)
    CASES = [*test_latent_field.CASES.values(), *test_latent_field.HALF.values()]


# Of the backward: what is planted, and what is then said.
FAULTS = {
    "two registers of a fragment change places": (
        r"(mma\.sync\S*\s+\{[^}]*\},\s+\{%\w+, )(%\w+), (%\w+)",
        r"\1\3, \2",
        "grad_encoding: largest error",
    ),
    "factors without their low parts": (
        r"sub\.f32(\s+%\w+), %\w+, %\w+;(?=\s+// begin inline asm\s+cvt\.rna)",
        r"mov.f32\1, 0f00000000;",
        "grad_encoding: largest error",
    ),
    "no barriers": (r"bar\.sync\s+0;", "", "grad_"),
    # A block has 115 200 bytes of it.
    "addresses behind shared memory": (r"(ld\.shared\.f32\s+%\w+, \[%\w+)\]", r"\1+115200]", "AddressSanitizer"),
}


@pytest.mark.parametrize("device, one_sign", [("sm_90", False), ("sm_90", True), ("sm_120", False)])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_products(
    device: str, name: str, half: bool, one_sign: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With shared memory for the blocks' sums, and without."""
    emulator.choose(monkeypatch, device)
    programme = emulator.build(rule.DRIVER, KERNELS, [], 90)
    rule.judge(programme, rule.FIELDS[name], half, one_sign, tmp_path, SIZE)


@pytest.mark.parametrize("case", CASES)
def test_cases(case: str) -> None:
    sources = [source for source in test_latent_field.SOURCES if source.endswith(".cpp")]
    emulator.check(emulator.build(test_latent_field.DRIVER, KERNELS, sources, 90), *case.split())


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, replacement, message = FAULTS[fault]
    planted = []

    def change(ptx: str) -> str:
        if "field_backward_kernel" not in ptx:
            return ptx
        changed, times = re.subn(pattern, replacement, ptx)
        planted.append(times)
        return changed

    emulator.choose(monkeypatch)
    kernels = KERNELS | {"latent_field/latent_field_bwd.cu": "<FloatProducts, true>|sum"}
    programme = emulator.build(rule.DRIVER, kernels, [], 90, change=change)
    assert sum(planted) > 0
    with pytest.raises(AssertionError, match=message):
        rule.judge(programme, rule.FIELDS["two-layers-of-64"], False, False, tmp_path, SIZE)

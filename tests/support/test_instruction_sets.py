"""What the tests pretend is what runs: in torch, in oneDNN and in the extension."""

from __future__ import annotations

import re

import pytest
import torch

from ldp_fast.ops import _native

from . import instruction_sets
from .instruction_sets import AVX2, AVX512, VARIABLE


def this_machine() -> int:
    if (wanted := instruction_sets.chosen()) is not None:
        return wanted.lanes
    return {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 4)


def test_torch_computes_in_the_chosen_set() -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    assert {"AVX512": 16, "AVX2": 8}.get(capability, 4) == this_machine(), capability


def test_the_extension_computes_in_the_chosen_set() -> None:
    """And without a choice in the one that torch found."""
    extension = _native.extension()
    if extension is None:
        pytest.skip("needs the compiled extension")
    assert extension.vector_lanes() == this_machine()


def test_onednn_computes_in_the_chosen_set(capfd: pytest.CaptureFixture[str]) -> None:
    if (wanted := instruction_sets.chosen()) is None:
        pytest.skip(f"{VARIABLE} is not set: oneDNN chooses")
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    # A size that torch hands to oneDNN.
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        torch.nn.functional.conv2d(torch.randn(16, 16, 32, 32), torch.randn(16, 16, 3, 3), padding=1)
    used = re.findall(r",convolution,\w+:(\w+),", capfd.readouterr().out)
    assert set(used) == {wanted.onednn.lower()}


@pytest.mark.parametrize(
    ("flags", "lanes"),
    [(AVX512, 16), (AVX512 - {"avx512vl"}, 8), (AVX2, 8), ({"avx2"}, 4), (AVX512 - {"fma"}, 4), ({"sse4_2"}, 4)],
)
def test_what_a_processor_has(flags: set[str], lanes: int) -> None:
    cpuinfo = f"processor\t: 0\nmodel name\t: any\nflags\t\t: fpu {' '.join(sorted(flags))} erms\nbugs\t\t: none\n"
    assert instruction_sets.own_lanes(cpuinfo * 2) == lanes
    assert instruction_sets.own_lanes("processor\t: 0\n") == 4


def test_a_set_that_is_not_narrower_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instruction_sets, "own_lanes", lambda cpuinfo: 8)
    monkeypatch.setattr(instruction_sets.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(instruction_sets.Path, "is_file", lambda self: True)
    monkeypatch.setattr(instruction_sets.Path, "read_text", lambda self: "")
    monkeypatch.setenv(VARIABLE, "avx2")
    assert "no more than 8 lanes" in str(instruction_sets.cannot_pretend())
    monkeypatch.setenv(VARIABLE, "plain")
    assert instruction_sets.cannot_pretend() is None
    monkeypatch.setattr(instruction_sets.platform, "machine", lambda: "aarch64")
    assert "this is aarch64" in str(instruction_sets.cannot_pretend())
    monkeypatch.delenv(VARIABLE)
    assert instruction_sets.cannot_pretend() is None


def test_an_unknown_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "avx3")
    with pytest.raises(ValueError, match="expected one of plain, avx2, got 'avx3'"):
        instruction_sets.pretend()

"""Two-byte precisions on a CPU: by the rule whichever way their products go, and each way where it is meant."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ldp_fast.decoder import FrozenDecoder, narrow

from ..support.instruction_sets import SETS
from .common import all_levels, architecture, check_features, latent_channels, scaling

# Whether the processor multiplies in two bytes, and from how many pixels on Winograd's float32 is faster.
WAYS = {"no hardware": (False, 0), "own precision": (True, 10**12), "by size": (True, 100), "Winograd": (True, 0)}


def take(monkeypatch: pytest.MonkeyPatch, hardware: bool, pixels: int) -> None:
    monkeypatch.setattr(narrow, "_in_hardware", lambda dtype: hardware)
    monkeypatch.setattr(narrow, "_has_tiles", lambda: False)
    monkeypatch.setattr(narrow, "WINOGRAD_PIXELS", pixels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["sd1", "no multiple of 16", "compvis"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_keeps_the_rule(way: str, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, *WAYS[way])
    vae = architecture(name).to(dtype)
    decoder = FrozenDecoder(vae, all_levels(vae), dtype=dtype, **scaling(vae))
    check_features(vae, decoder, torch.randn(2, latent_channels(vae), 4, 6))


def seen(vae: Any) -> set[torch.dtype]:
    """The precisions in which a pass multiplies and convolves, forward and backward."""
    found: set[torch.dtype] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(name in func.name() for name in ("::mm", "::addmm", "convolution", "frozen_conv")):
                found.add(next(x.dtype for x in args if isinstance(x, torch.Tensor)))
            return func(*args, **(kwargs or {}))

    v = torch.randn(2, 1, 4, 4, 4)
    decoder = FrozenDecoder(vae, ("up0", "up1"), dtype=torch.bfloat16)
    with Watch():
        decoder.feature_matching(v[0], v[1])
    return found


def test_without_hardware_nothing_is_multiplied_in_two_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, *WAYS["no hardware"])
    assert seen(architecture("sd1")) == {torch.float32}
    take(monkeypatch, *WAYS["own precision"])
    assert seen(architecture("sd1")) == {torch.bfloat16}


def test_which_convolutions_are_winograds(monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, True, 2048)
    x, weight = torch.zeros(2, 32, 32, 32, dtype=torch.bfloat16), torch.zeros(32, 32, 3, 3)
    usual = {"upsample": False, "winograd": True}

    def asked(x: torch.Tensor = x, weight: torch.Tensor = weight, **options: bool) -> bool:
        return narrow.convolves_in_float32(x, weight, **(usual | options))

    assert asked() and not asked(x[:1]) and not asked(upsample=True) and not asked(winograd=False)
    assert not asked(weight=torch.zeros(24, 32, 3, 3)) and not asked(x.float())
    monkeypatch.setattr(narrow, "_has_tiles", lambda: True)
    assert not asked()
    monkeypatch.setattr(narrow, "_in_hardware", lambda dtype: False)
    assert asked(x[:1], winograd=False) and asked(upsample=True) and not asked(x.double())


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="about x86-64's instruction sets")
def test_hardware_that_torch_may_not_use_does_not_count() -> None:
    """A pass that is held to AVX2 (tests/support/instruction_sets.py) runs on a processor that has more."""
    environment = os.environ | SETS["avx2"].environment
    code = "from ldp_fast.decoder import narrow; print(narrow.bfloat16_in_hardware())"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"

"""What tests/support/interpreter.py leaves out of Triton's interpreter changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldp_fast import _settings

from ..support import interpreter, samples

pytestmark = pytest.mark.skipif(not _settings.interpreting(), reason="TRITON_INTERPRET is not set: nothing interprets")
OPS = torch.ops.ldp_fast


def results() -> list[torch.Tensor]:
    """Of kernels that call functions, of their own and of the language's library, and work with integers."""
    sample = samples.group_norm_silu.inputs((2, 6, 3, 2))
    moments = OPS.group_norm_moments(sample["x"], 3, 1e-6)
    arguments = (sample["x"], *moments, sample["weight"], sample["bias"], True)
    packed, _ = samples.group_norm_silu.signs(sample["x"])
    gradient = OPS.group_norm_silu_backward(sample["grad"], *arguments, sample["addend"], packed, 0.5)
    return [*moments, OPS.group_norm_silu(*arguments), gradient]


def test_the_same_results_without_the_interpreter_s_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    if not interpreter.install():
        pytest.skip("the interpreter of this Triton is another: nothing is left out")
    import triton.language as tl
    from triton.runtime import interpreter as triton_s

    once, builder, calls = triton_s._patch_lang, triton_s.interpreter_builder, []
    found = results()
    assert tl.core.is_builtin(tl.load) and tl.core.is_builtin(tl.tensor.__add__), "the language is still patched"

    def counted(function: Any) -> Any:
        calls.append(function)
        return once.ldp_whole(function)

    monkeypatch.setattr(triton_s, "_patch_lang", counted)
    monkeypatch.setattr(builder, "options", type(builder.options)())
    assert builder.options.sanitize_overflow and not builder.options.debug
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, results(), strict=True))
    assert len(calls) > 100

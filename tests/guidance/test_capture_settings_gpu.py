"""The captured step where libraries choose their algorithms; to the bit it is test_capture_gpu.py's."""

from __future__ import annotations

import pytest
import torch

from .steps import fixed, make


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [False, True])
def test_a_graph_with_torch_s_own_settings(tf32: bool) -> None:
    """Whatever algorithms a library chooses: what is smooth is as near as its rounding.

    The gradient of feature matching is not smooth; tests/decoder/test_gpu.py has it, with the signs that may flip.
    """
    torch.backends.cudnn.allow_tf32 = tf32  # put back by the fixture of all tests for a GPU
    for changes in ({"lambda_fm": 0.0}, {"lambda_fm": 0.3}):
        prior, latents, text = make("cuda", **changes)
        step, call = prior.capture(latents, text), fixed(latents)
        assert step.captured, step.reason
        (g, found), (expected, eager) = step(latents, **call), prior.gradient(latents, text, **call)
        rounding = 1e-2 if tf32 else 1e-4
        if changes["lambda_fm"] == 0.0:
            assert (g - expected).norm() < rounding * expected.norm()
        else:
            torch.testing.assert_close(found.fm, eager.fm, rtol=rounding, atol=0)

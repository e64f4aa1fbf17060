"""In Triton's interpreter only operators with Triton kernels are tested: the others compute as they do without."""

from __future__ import annotations

from ldp_fast import _settings

from ..packaging.installation import ROOT
from ..support import interpreter

# One name in every layer: tests/ops/test_<op>.py, ldp_fast/ops/<op>.py, kernels/ldp_kernels/<op>.py.
NATIVE = sorted(
    path.stem
    for path in (ROOT / "ldp_fast" / "ops").glob("[a-z]*.py")
    if not (ROOT / "kernels" / "ldp_kernels" / path.name).exists()
)
interpreted = _settings.interpreting() and _settings.backend() == "triton"
collect_ignore = [f"test_{name}.py" for name in NATIVE] if interpreted else []
if interpreted:
    interpreter.install()

"""Checks, as ldp_fast.integrations imports them: everything is in `ldp_fast.checks`."""

from __future__ import annotations

from ..checks import BATCH_REDUCTIONS, NONFINITE, choice, coefficients, raise_nonfinite, scalar

__all__ = ["BATCH_REDUCTIONS", "NONFINITE", "choice", "coefficients", "raise_nonfinite", "scalar"]

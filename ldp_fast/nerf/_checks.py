"""Checks, as ldp_fast.integrations imports them: everything is in `ldp_fast.checks`."""

from __future__ import annotations

from ..checks import fail, number, shape_text, whole

__all__ = ["fail", "number", "shape_text", "whole"]

"""The old name of `ldp_fast.tinycudann`, which is that package."""

from __future__ import annotations

import sys

from .. import tinycudann

sys.modules[__name__] = tinycudann

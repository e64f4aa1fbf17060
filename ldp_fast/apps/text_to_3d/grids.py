"""The hash grids of methods that have one: at full size, and of the embedded model's small world."""

from __future__ import annotations

from typing import Any

FULL_GRID: dict[str, Any] = {
    "levels": 16,
    "log2_table_size": 19,
    "base_resolution": 16,
    "finest_resolution": 2048,
    "hidden": 64,
    "blob": [5.0, 0.2],
}
EMBEDDED_GRID: dict[str, Any] = {
    "levels": 8,
    "log2_table_size": 14,
    "base_resolution": 8,
    "finest_resolution": 64,
    "hidden": 32,
    # Faces of a cube grow dented from a ball of 0.3. From one of 0.6 a cone ended as a box of fog, and the
    # stripes of tori averaged out.
    "blob": [5.0, 0.4],
    # From tiny-cuda-nn's 1e-4 all sides of a torus start alike, and its stripes may average out.
    "initial": 0.03,
    # With 1 the box is a fog of opacity 0.65 at the start, and now and then one stays what is seen: a grey box.
    "outside": 0.37,
}

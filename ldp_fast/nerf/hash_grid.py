"""The multiresolution hash grid as a module."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..ops import hash_grid as _registers  # noqa: F401
from ..ops import required
from ..reference.hash_grid import HASHED, TILED, WRAPPED, GridLayout
from .optimiser import source_of

INTERPOLATIONS = ("linear", "smoothstep")
INDEXING = {"hash": HASHED, "tiled": TILED, "wrapped": WRAPPED}
layout_arguments = GridLayout  # as ldp_fast.integrations calls it
INITIAL = 1e-4  # tiny-cuda-nn's
LARGEST = 6e4  # what `shadow` can hold


class HashGrid(nn.Module):
    """Multiresolution hash grid encoding in the convention of tiny-cuda-nn and instant-ngp: parameters load unchanged.

    Level l has scale b·2^(l·log₂s) − 1 and ceil(scale) + 1 vertices along an axis; a position x is at x·scale + ½. A
    level is dense where it fits into the most entries that a level has; where not, `kind` says how many these are and
    which of them a vertex has. The levels stand one after another in the table. The layout is computed in C++
    (csrc/hash_grid/layout.h).

    The table gets gradients in float32, on every device; positions get them too, correct on every level, and can be
    differentiated twice. Under CUDA autocast to float16 a half-precision copy of the table is read instead
    (`shadow`). Gradients are bit-equal from run to run on a CPU, and on a GPU under
    `torch.use_deterministic_algorithms(True)`.

    Args:
        n_levels: L, 1 to 32.
        n_features: F, features of an entry: 1, 2, 4 or 8.
        log2_table_size: log₂ T; ignored for `kind="tiled"`.
        base_resolution: b, of the coarsest level.
        finest_resolution: of the finest level; s = (finest / b)^(1 / (L − 1)).
        interpolation: "linear", or "smoothstep" (continuous gradients).
        kind: "hash": T entries, hashed (tiny-cuda-nn's HashGrid). "tiled": b³ entries, which the vertices are numbered
            through again and again (tiny-cuda-nn's TiledGrid since June 2025; at most 1625 vertices along an axis).
            "wrapped": T entries, numbered through along the axes until these have outrun the level (z is ignored where
            a plane has more than T vertices), as torch-ngp and Latent-NeRF do in their "tiled" grids.
        initial: the table's entries start uniform within ± this number, 0 to 60000; 1e-4 is
            tiny-cuda-nn's.

    Attributes:
        table: [entries, F] parameter, float32.

    Raises:
        ValueError: an argument out of range.
        RuntimeError: the compiled extension is missing.

    Examples:
        >>> import torch
        >>> from ldp_fast.nerf import HashGrid
        >>> grid = HashGrid(n_levels=4, n_features=2, log2_table_size=12, finest_resolution=128)
        >>> grid(torch.rand(5, 3)).shape  # 4 levels of 2 features
        torch.Size([5, 8])
    """

    # 2: "tiled" is tiny-cuda-nn's. Before, it was what "wrapped" is now.
    _version = 2

    def __init__(
        self,
        n_levels: int = 16,
        n_features: int = 2,
        log2_table_size: int = 19,
        base_resolution: int = 16,
        finest_resolution: int = 2048,
        interpolation: str = "linear",
        kind: str = "hash",
        initial: float = INITIAL,
    ):
        super().__init__()
        name = "HashGrid"
        n_features = checks.whole(name, "n_features", n_features, 1, 8)
        if n_features not in (1, 2, 4, 8):
            checks.fail(name, "n_features", "1, 2, 4 or 8", repr(n_features))
        n_levels = checks.whole(name, "n_levels", n_levels, 1, 32)
        log2_table_size = checks.whole(name, "log2_table_size", log2_table_size, 3, 30)
        base_resolution = checks.whole(name, "base_resolution", base_resolution, 2, 10**6)
        finest_resolution = checks.whole(name, "finest_resolution", finest_resolution, base_resolution, 10**6)
        checks.choice(name, "interpolation", interpolation, INTERPOLATIONS)
        checks.choice(name, "kind", kind, tuple(INDEXING))
        initial = checks.number(name, "initial", initial, 0)
        if initial > LARGEST:
            checks.fail(name, "initial", f"at most {LARGEST:g}, for the half-precision table", f"{initial:g}")
        growth = math.exp(math.log(finest_resolution / base_resolution) / (n_levels - 1)) if n_levels > 1 else 1.0
        layout = required(name).HashGridLayout(n_levels, log2_table_size, base_resolution, growth, kind == "tiled")
        self.n_levels, self.n_features, self.log2_table_size = n_levels, n_features, log2_table_size
        self.base_resolution, self.finest_resolution = base_resolution, finest_resolution
        self.interpolation, self.kind, self.per_level_scale = interpolation, kind, growth
        self._indexing = INDEXING[kind]
        self.offsets: list[int] = layout.offsets
        self.resolutions: list[int] = layout.resolutions
        self.scales: list[float] = layout.scales
        self.dense: list[bool] = layout.dense
        self.table = nn.Parameter(torch.empty(self.offsets[-1], n_features).uniform_(-initial, initial))
        self._shadow: Tensor | None = None

    @property
    def n_outputs(self) -> int:
        """L·F, the width of the encoding."""
        return self.n_levels * self.n_features

    @property
    def layout(self) -> GridLayout:
        """The layout, as the operators take it."""
        smooth = self.interpolation == "smoothstep"
        return GridLayout(self.offsets, self.resolutions, self.scales, 0.5, self._indexing, smooth)

    def shadow(self) -> Tensor:
        """The table in float16, [entries, F]: cast at every call, for a change of the table need not leave a trace.

        Torch's fused optimisers and writers through `table.data` (moving averages) count up no version. One writer is
        trusted: `FusedAdam(..., shadows={grid.table: grid.shadow})` writes the shadow in the pass that changes the
        table, and it is returned as it is until the table's version, its memory or the step of any other optimiser of
        torch says that somebody else wrote. Beside that optimiser, call `invalidate_shadow` after changes through
        `table.data`: else they count from its next step on that is taken (one without a gradient, or that a
        GradScaler skips, writes neither table nor shadow).

        The memory of such a shadow stays the same while the table's does, also where it is cast anew: a captured graph
        reads it.
        """
        held = self._shadow
        if torch.compiler.is_compiling():
            return self.table.detach().to(torch.float16)
        if (
            held is not None
            and getattr(held, "_maintained", False)
            and (held.shape, held.device) == (self.table.shape, self.table.device)
        ):
            if held._source != source_of(self.table):  # type: ignore[attr-defined]
                with torch.no_grad():
                    held.copy_(self.table)
            return held
        self._shadow = self.table.detach().to(torch.float16)
        return self._shadow

    def half_table(self) -> Tensor | None:
        """What a pass reads in place of the table: `shadow` where half precision is wanted, else None.

        Without gradients the table is cast whoever keeps the shadow: an evaluation is what averaged weights are copied
        into the table for, and copied back after.
        """
        if not self.half_wanted():
            return None
        return self.shadow() if torch.is_grad_enabled() else self.table.detach().to(torch.float16)

    def invalidate_shadow(self) -> None:
        """Makes the next `shadow` cast the table."""
        if self._shadow is not None:
            self._shadow._source = None  # type: ignore[attr-defined]

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any, **kwargs: Any
    ) -> None:
        if self.kind == "tiled" and local_metadata.get("version") == 1:
            checks.fail("HashGrid", "kind", "'wrapped' for a table that was saved when that was named so", "'tiled'")
        self.invalidate_shadow()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)

    def half_wanted(self) -> bool:
        """Whether the half-precision table is read: on CUDA, under autocast to float16."""
        return (
            self.table.is_cuda
            and torch.is_autocast_enabled("cuda")
            and torch.get_autocast_dtype("cuda") == torch.float16
        )

    def check(self, what: str, positions: Tensor) -> None:
        """Checks positions and the table's own dtype.

        Raises:
            TypeError, ValueError: as `forward`.
        """
        table = self.table
        if table.dtype not in checks.FULL_PRECISION:
            checks.fail(what, "table", "float32 (or float64); float16 is its shadow's", str(table.dtype), TypeError)
        checks.positions(what, positions, table)

    def forward(self, positions: Tensor, count: Tensor | None = None) -> Tensor:
        """Encodes positions.

        Args:
            positions: [S, 3] in [0, 1], of the table's dtype and device. Outside, the grid goes on periodically.
            count: [1] int64 on the same device: how many rows are there, the rest being padding. None: all.

        Returns:
            [S, L·F] in the table's dtype, level-major; zero on padding.

        Raises:
            TypeError: another dtype.
            ValueError: another shape or device.
        """
        self.check("HashGrid", positions)
        return torch.ops.ldp_fast.hash_grid(positions.contiguous(), self.table, self.half_table(), count, *self.layout)

    def __getstate__(self) -> dict[str, Any]:
        # A copy counts its table's versions anew: a shadow taken along could seem fresh and be stale.
        return {**self.__dict__, "_shadow": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_indexing" not in state:  # pickled when "tiled" was what "wrapped" is now
            self.kind = {"tiled": "wrapped"}.get(self.kind, self.kind)
            self._indexing = INDEXING[self.kind]

    def extra_repr(self) -> str:
        entries, last = self.offsets[-1], self.resolutions[-1]
        return (
            f"{self.n_levels} levels × {self.n_features} features, {self.kind}, {self.interpolation}, "
            f"resolutions {self.resolutions[0]} to {last}, {entries} entries"
        )

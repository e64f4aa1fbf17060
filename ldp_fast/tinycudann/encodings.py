"""tiny-cuda-nn's encodings as functions of inputs and a flat parameter vector; `modules` makes modules of them.

Three-dimensional grids are `torch.ops.ldp_fast.hash_grid`; all the rest is plain torch. An encoding may be padded to a
width: grids are padded with zeros behind the features, spherical harmonics with ones before theirs, all others with
ones behind. Letters: S rows, D inputs, L levels, F features of a level.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks
from ..nerf.hash_grid import INITIAL, layout_arguments
from ..nerf.tcnn import padded
from ..ops import hash_grid as _registers  # noqa: F401
from ..ops import required
from ..reference.hash_grid import FAR, HASHED, TILED

WHAT = "tinycudann"
PRIMES = (1, 2654435761, 805459861, 3674653429)
# The most vertices along an axis whose dense index fits into 32 bits, by dimensions.
INDEXABLE = {2: 0xFFFF, 3: 0x659, 4: 0xFF}
MOST_ENTRIES = 2**31 - 1


def option(config: Mapping[str, Any], name: str, default: str, choices: tuple[str, ...]) -> str:
    """An option of a configuration, compared without regard to case as tiny-cuda-nn does; returned as in `choices`.

    Raises:
        ValueError: it is not one of them.
    """
    given = config.get(name, default)
    for choice in choices:
        if isinstance(given, str) and given.lower() == choice.lower():
            return choice
    checks.fail(WHAT, name, f"one of {', '.join(map(repr, choices))}", repr(given))


class Encoder:
    """An encoding without state.

    Attributes:
        n_inputs: D.
        width: features that it computes.
        n_params: numbers of the parameter vector that it reads.
        alignment: its place among others is a multiple of this.
        filling: what it is padded with.
        filled_first: whether the padding stands before the features.
        padding: how much of it there is.
    """

    filling, filled_first, alignment, n_params = 1.0, False, 1, 0

    def __init__(self, n_inputs: int, width: int):
        self.n_inputs, self.width, self.padding = n_inputs, width, 0

    @property
    def n_outputs(self) -> int:
        """Features and padding."""
        return self.width + self.padding

    def pad_to(self, n_outputs: int) -> None:
        """Pads to a width, at least its own."""
        self.padding = n_outputs - self.width

    def initial(self, generator: torch.Generator) -> Tensor:
        """Fresh parameters, float32 [n_params]."""
        return torch.zeros(0)

    def features(self, x: Tensor, params: Tensor) -> Tensor:
        """[S, D], [n_params] -> [S, width], all of one dtype."""
        raise NotImplementedError

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        """[S, D], [n_params] -> [S, n_outputs]."""
        around = (self.padding, 0) if self.filled_first else (0, self.padding)
        out = self.features(x, params)
        return F.pad(out, around, value=self.filling) if self.padding else out


class Identity(Encoder):
    """x·scale + offset."""

    def __init__(self, n_inputs: int, config: Mapping[str, Any]):
        super().__init__(n_inputs, n_inputs)
        self.scale, self.offset = float(config.get("scale", 1.0)), float(config.get("offset", 0.0))

    def features(self, x: Tensor, params: Tensor) -> Tensor:
        return x * self.scale + self.offset


class Frequency(Encoder):
    """sin and cos of 2^f·π·x, f = 0, 1, …; side by side, frequency after frequency, input after input."""

    def __init__(self, n_inputs: int, config: Mapping[str, Any]):
        self.count = checks.whole(WHAT, "n_frequencies", config.get("n_frequencies", 12), 1)
        super().__init__(n_inputs, n_inputs * self.count * 2)

    def features(self, x: Tensor, params: Tensor) -> Tensor:
        angle = x[..., None] * torch.pi * 2.0 ** torch.arange(self.count, device=x.device, dtype=x.dtype)
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class TriangleWave(Encoder):
    """A triangle wave of 2^(f−1) periods in place of the sine, shifted by f/4 of a period."""

    def __init__(self, n_inputs: int, config: Mapping[str, Any]):
        self.count = checks.whole(WHAT, "n_frequencies", config.get("n_frequencies", 12), 1)
        super().__init__(n_inputs, n_inputs * self.count)

    def features(self, x: Tensor, params: Tensor) -> Tensor:
        f = torch.arange(self.count, device=x.device, dtype=x.dtype)
        at = x[..., None] * 2.0 ** (f - 1) + f / 4
        return ((at - at.floor() - 0.5).abs() * 4 - 1).flatten(1)


class OneBlob(Encoder):
    """How much of a quartic kernel around x, one bin wide to either side, falls into each of n bins; wraps around."""

    def __init__(self, n_inputs: int, config: Mapping[str, Any]):
        self.bins = checks.whole(WHAT, "n_bins", config.get("n_bins", 16), 1)
        if self.bins & (self.bins - 1):
            checks.fail(WHAT, "n_bins", "a power of two", str(self.bins))
        super().__init__(n_inputs, n_inputs * self.bins)

    def features(self, x: Tensor, params: Tensor) -> Tensor:
        edges = torch.arange(self.bins + 1, device=x.device, dtype=x.dtype) / self.bins
        below = torch.zeros(1, device=x.device, dtype=x.dtype)
        for turn in (-1, 0, 1):
            u = (edges - x[..., None] + turn) * self.bins
            # The quartic's integral; it is monotone, so that the clamp holds it where the kernel has ended.
            below = below + (15 / 16 * u * (1 - 2 / 3 * u**2 + u**4 / 5) + 0.5).clamp(0, 1)
        return below.diff(dim=-1).flatten(1)


class SphericalHarmonics(Encoder):
    """The real spherical harmonics below a degree, of directions that stand in [0, 1]: x·2 − 1 is evaluated."""

    filled_first = True

    def __init__(self, n_inputs: int, config: Mapping[str, Any]):
        if n_inputs != 3:
            checks.fail(WHAT, "n_input_dims", "3 for SphericalHarmonics", str(n_inputs))
        self.degree = checks.whole(WHAT, "degree", config.get("degree", 4), 1, 8)
        super().__init__(3, self.degree**2)

    def features(self, x: Tensor, params: Tensor) -> Tensor:
        x, y, z = (x * 2 - 1).unbind(-1)
        out: dict[tuple[int, int], Tensor] = {}
        # cos(mφ)·sin^m θ and sin(mφ)·sin^m θ as polynomials of x and y.
        real, imaginary = torch.ones_like(x), torch.zeros_like(x)
        diagonal = 1.0  # (−1)^m (2m − 1)!!
        for m in range(self.degree):
            before, legendre = torch.zeros_like(z), torch.full_like(z, diagonal)
            for n in range(m, self.degree):
                scale = math.sqrt((2 * n + 1) / (4 * math.pi) * math.factorial(n - m) / math.factorial(n + m))
                if m == 0:
                    out[n, 0] = scale * legendre
                else:
                    out[n, m] = math.sqrt(2) * scale * legendre * real
                    out[n, -m] = math.sqrt(2) * scale * legendre * imaginary
                before, legendre = legendre, ((2 * n + 1) * z * legendre - (n + m) * before) / (n + 1 - m)
            real, imaginary = x * real - y * imaginary, x * imaginary + y * real
            diagonal *= -(2 * m + 1)
        return torch.stack([out[n, m] for n in range(self.degree) for m in range(-n, n + 1)], -1)


class Grid(Encoder):
    """Multiresolution grid of two to four dimensions: hashed, dense or tiled.

    A tiled level is indexed as tiny-cuda-nn does it since June 2025 (all axes count); versions before leave out the
    axes that have outrun the level.
    """

    filling = 0.0

    def __init__(self, n_inputs: int, config: Mapping[str, Any]):
        named = {"tiledgrid": "Tiled", "densegrid": "Dense"}.get(str(config.get("otype", "Grid")).lower(), "Hash")
        self.kind = option(config, "type", named, ("Hash", "Dense", "Tiled", "Tile"))
        self.interpolation = option(config, "interpolation", "Linear", ("Linear", "Smoothstep", "Nearest"))
        option(config, "hash", "CoherentPrime", ("CoherentPrime",))
        for name in ("stochastic_interpolation", "fixed_point_pos"):
            if config.get(name, False):
                checks.fail(WHAT, name, "False", repr(config[name]))
        if n_inputs not in INDEXABLE:
            checks.fail(WHAT, "n_input_dims", "2, 3 or 4 for a grid", str(n_inputs))
        self.n_features = config.get("n_features_per_level", 2)
        if self.n_features not in (1, 2, 4, 8):
            checks.fail(WHAT, "n_features_per_level", "1, 2, 4 or 8", repr(self.n_features))
        n_levels = self._levels(config)
        base = checks.whole(WHAT, "base_resolution", config.get("base_resolution", 16), 2, 10**6)
        growth = 2.0
        if self.kind == "Dense":
            growth = math.exp(math.log(256 / base) / (n_levels - 1)) if n_levels > 1 else 1.0
        growth = checks.number(WHAT, "per_level_scale", config.get("per_level_scale", growth), 1.0)
        log2_size = checks.whole(WHAT, "log2_hashmap_size", config.get("log2_hashmap_size", 19), 3, 30)
        super().__init__(n_inputs, n_levels * self.n_features)
        self.alignment = self.n_features
        # Scales and resolutions do not depend on the number of dimensions.
        layout = required(WHAT).HashGridLayout(n_levels, log2_size, base, growth)
        self.resolutions, self.scales = list(layout.resolutions), list(layout.scales)
        if self.kind in ("Tiled", "Tile") and self.resolutions[-1] > INDEXABLE[n_inputs]:
            expected = f"at most {INDEXABLE[n_inputs]} vertices along an axis for a tiled grid of {n_inputs} dimensions"
            checks.fail(WHAT, "per_level_scale", expected, str(self.resolutions[-1]))
        most = {"Hash": 2**log2_size, "Dense": MOST_ENTRIES}.get(self.kind, base**n_inputs)
        self.sizes = [min(padded(resolution**n_inputs, 8), most) for resolution in self.resolutions]
        self.offsets = [0, *itertools.accumulate(self.sizes)]
        if self.offsets[-1] > MOST_ENTRIES:
            checks.fail(WHAT, "per_level_scale", f"a grid of at most {MOST_ENTRIES} entries", str(self.offsets[-1]))
        self.n_params = self.offsets[-1] * self.n_features
        self.native = self._is_served()

    def _levels(self, config: Mapping[str, Any]) -> int:
        for name in ("n_features", "n_grid_features"):
            if name in config:
                if "n_levels" in config:
                    checks.fail(WHAT, name, "either this or n_levels, which determine each other", "both")
                total = checks.whole(WHAT, name, config[name], 1)
                if total % self.n_features:
                    checks.fail(WHAT, name, f"a multiple of n_features_per_level, {self.n_features}", str(total))
                return checks.whole(WHAT, f"{name} / n_features_per_level", total // self.n_features, 1, 32)
        return checks.whole(WHAT, "n_levels", config.get("n_levels", 16), 1, 32)

    def _is_served(self) -> bool:
        """Whether the operator has this grid: three dimensions, interpolated."""
        return self.n_inputs == 3 and self.interpolation != "Nearest"

    def initial(self, generator: torch.Generator) -> Tensor:
        return torch.empty(self.n_params).uniform_(-INITIAL, INITIAL, generator=generator)

    def features(self, x: Tensor, params: Tensor) -> Tensor:
        table = params.view(-1, self.n_features)
        smooth = self.interpolation == "Smoothstep"
        if self.native:
            # A dense level has an entry for every vertex: all axes count.
            indexing = HASHED if self.kind == "Hash" else TILED
            layout = layout_arguments(self.offsets, self.resolutions, self.scales, 0.5, indexing, smooth)
            return torch.ops.ldp_fast.hash_grid(x.contiguous(), table, None, None, *layout)
        axes = torch.arange(self.n_inputs, device=x.device)
        uppers = torch.arange(1 if self.interpolation == "Nearest" else 2**self.n_inputs, device=x.device)
        uppers = uppers[:, None] >> axes & 1  # [corners, D]
        out = []
        for level, scale in enumerate(self.scales):
            at = x * scale + 0.5
            whole = at.detach().floor()
            t = at - whole
            lower = torch.where(whole.abs() < FAR, whole, torch.zeros_like(whole)).long()
            index = self._index(lower[:, None] + uppers, level)  # [S, corners]
            found = table.index_select(0, index.flatten()).view(*index.shape, -1)
            if self.interpolation == "Nearest":
                out.append(found[:, 0])
                continue
            weight = (t * t * (3 - 2 * t) if smooth else t)[:, None]
            factors = torch.where(uppers.bool(), weight, 1 - weight)
            out.append((factors.prod(-1, keepdim=True) * found).sum(1))
        return torch.cat(out, -1)

    def _index(self, vertex: Tensor, level: int) -> Tensor:
        """Entries of vertices [S, corners, D]; 32-bit unsigned arithmetic in int64."""
        vertex, resolution, size = vertex & 0xFFFFFFFF, self.resolutions[level], self.sizes[level]
        index = torch.zeros_like(vertex[..., 0])
        hashed = self.kind == "Hash" and size < resolution**self.n_inputs
        for axis in range(self.n_inputs):
            if hashed:
                index = index ^ (vertex[..., axis] * PRIMES[axis])
            else:
                index = index + vertex[..., axis] * resolution**axis
        return self.offsets[level] + (index & 0xFFFFFFFF) % size


class Composite(Encoder):
    """Encodings side by side, each of its own inputs. Later ones begin where their alignment allows."""

    def __init__(self, n_inputs: int, config: Mapping[str, Any]):
        option(config, "reduction", "Concatenation", ("Concatenation",))
        nested = list(config.get("nested") or ())
        if not nested:
            checks.fail(WHAT, "nested", "a list of encodings for Composite", repr(config.get("nested")))
        placed = any("dims_to_encode_begin" in one for one in nested)
        counted = sum(int(one.get("n_dims_to_encode", 0)) for one in nested)
        if not placed and counted > n_inputs:
            checks.fail(WHAT, "n_dims_to_encode", f"at most {n_inputs} in total", str(counted))
        left = None if placed else n_inputs - counted
        self.parts: list[tuple[int, Encoder]] = []
        begin = 0
        for one in nested:
            if "n_dims_to_encode" in one:
                begin = int(one.get("dims_to_encode_begin", begin))
                count = int(one["n_dims_to_encode"])
            elif left is None:
                checks.fail(WHAT, "n_dims_to_encode", "it for all encodings but one", "several without")
            else:
                count, left = left, None
            if begin + count > n_inputs:
                checks.fail(WHAT, "dims_to_encode_begin", f"inputs below {n_inputs}", f"{begin} to {begin + count}")
            if count > 0:
                self.parts.append((begin, create(count, one)))
            begin += count
        at = 0
        for (_, part), (_, following) in itertools.pairwise(self.parts):
            part.pad_to(padded(at + part.n_outputs, following.alignment) - at)
            at += part.n_outputs
        super().__init__(n_inputs, sum(part.n_outputs for _, part in self.parts))
        self.n_params = sum(part.n_params for _, part in self.parts)
        self.alignment = math.lcm(*(part.alignment for _, part in self.parts))

    def pad_to(self, n_outputs: int) -> None:
        last = self.parts[-1][1]
        last.pad_to(last.n_outputs + n_outputs - self.width)
        self.width = n_outputs

    def initial(self, generator: torch.Generator) -> Tensor:
        return torch.cat([part.initial(generator) for _, part in self.parts])

    def features(self, x: Tensor, params: Tensor) -> Tensor:
        each = params.split([part.n_params for _, part in self.parts])
        return torch.cat(
            [part(x[:, at : at + part.n_inputs], p) for (at, part), p in zip(self.parts, each, strict=True)], -1
        )


ENCODINGS: dict[str, type[Encoder]] = {
    "Grid": Grid,
    "HashGrid": Grid,
    "DenseGrid": Grid,
    "TiledGrid": Grid,
    "Frequency": Frequency,
    "TriangleWave": TriangleWave,
    "OneBlob": OneBlob,
    "SphericalHarmonics": SphericalHarmonics,
    "Identity": Identity,
    "Composite": Composite,
}


def create(n_inputs: int, config: Mapping[str, Any]) -> Encoder:
    """The encoding of a configuration, not padded. Keys that it does not know are ignored, as tiny-cuda-nn does.

    Raises:
        ValueError: what it does not have, by name.
        RuntimeError: a grid, and the compiled extension is missing.
    """
    n_inputs = checks.whole(WHAT, "n_input_dims", n_inputs, 1)
    return ENCODINGS[option(config, "otype", "OneBlob", tuple(ENCODINGS))](n_inputs, config)  # type: ignore[arg-type,call-arg]

"""Distances between two sets of features: Fréchet (FID) and polynomial kernel (KID), in float64.

Both are independent of the order of the features to the last bit: rows are sorted before anything is computed.

FID is ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) (Heusel et al. 2017, arXiv:1706.08500). Where Σ₁ = AᵀA and Σ₂ = BᵀB, the
trace is the least ‖A − QB‖² over orthogonal Q, and the best Q is U·Vᵀ of the singular value decomposition ABᵀ = USVᵀ.
Computed so, as a sum of squares, it cannot come out negative or complex, near zero no digits are lost, and covariances
may be singular; the square root of Σ₁Σ₂, of which none of this holds, is never taken.

KID is the unbiased estimate of the squared maximum mean discrepancy with the kernel (x·y / D + 1)³ (Bińkowski et al.
2018, arXiv:1801.01401).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError

SUBSETS, SUBSET_SIZE = 100, 1000


def fid(a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> float:
    """Fréchet distance of the normal distributions that two sets of features have the moments of.

    Covariances are the unbiased ones (divided by N − 1). The result is biased: with fewer pictures it is larger, so
    only numbers of the same N, features and resizer can be compared (see `few`).

    Args:
        a: features `[N, D]`, N ≥ 2, in any order; computed with in float64 on the CPU.
        b: features `[M, D]`, M ≥ 2, in any order.

    Returns:
        The distance, at least 0, and 0 to rounding for equal sets. No gradients.

    Raises:
        UsageError: fewer than two features, features that are not finite, or of different D.
    """
    one, two = _pair("fid", a, b)
    (mean_one, root_one), (mean_two, root_two) = _moments(one), _moments(two)
    rows = max(len(root_one), len(root_two))
    root_one, root_two = (torch.cat([x, x.new_zeros(rows - len(x), x.shape[1])]) for x in (root_one, root_two))
    left, _, right = torch.linalg.svd(root_one @ root_two.T)
    nearest = left @ (right @ root_two)
    return float((mean_one - mean_two).square().sum() + (root_one - nearest).square().sum())


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """A KID.

    Attributes:
        value: mean over the subsets. The estimate is unbiased, so of two sets of one distribution it is below 0 half of
            the time.
        std: standard deviation over the subsets (divided by their number).
        subsets: how many were drawn.
        subset_size: features of each set in a subset.
    """

    value: float
    std: float
    subsets: int
    subset_size: int


def kid(
    a: Tensor | np.ndarray,
    b: Tensor | np.ndarray,
    *,
    subsets: int = SUBSETS,
    subset_size: int | None = None,
    seed: int = 0,
) -> KernelDistance:
    """Kernel distance of two sets of features: the unbiased estimate, averaged over random subsets.

    Args:
        a: features `[N, D]`, N ≥ 2, in any order; computed with in float64 on the CPU.
        b: features `[M, D]`, M ≥ 2, in any order.
        subsets: how many are drawn, each without replacement. Where a subset is both sets as a whole, all are the same
            and one is taken.
        subset_size: features of each set in a subset; None is 1000, or the smaller set where that has fewer.
        seed: of the draws.

    Returns:
        The estimate as it is (see `KernelDistance.value`). No gradients.

    Raises:
        UsageError: as `fid`; a subset larger than a set or smaller than two, or no subset.
    """
    one, two = _pair("kid", a, b)
    most = min(len(one), len(two))
    size = min(SUBSET_SIZE, most) if subset_size is None else subset_size
    if not 2 <= size <= most:
        raise UsageError(f"kid: subset_size: expected 2 to {most}, the pictures of the smaller set; got {size}")
    if subsets < 1:
        raise UsageError(f"kid: subsets: expected at least 1, got {subsets}")
    if size == len(one) == len(two):
        subsets = 1
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(subsets):
        drawn = (torch.from_numpy(np.sort(generator.permutation(len(x))[:size])) for x in (one, two))
        found.append(_discrepancy(*(x[rows] for x, rows in zip((one, two), drawn, strict=True))))
    return KernelDistance(float(np.mean(found)), float(np.std(found)), subsets, size)


def few(metric: str, pictures: int, dimension: int) -> str:
    """A sentence of warning where there are fewer pictures than a feature has numbers, else ''.

    The covariance is singular then. FID is computed all the same, exactly, but it says more of N than of the pictures.
    """
    if pictures >= dimension:
        return ""
    return (
        f"{metric}: {pictures} pictures are fewer than the {dimension} numbers of a feature: compare the result only "
        "with one of as many pictures"
    )


def _pair(metric: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Both sets `[N, D]` in float64 on the CPU, rows sorted."""
    one, two = (_sorted(metric, name, x) for name, x in (("first", a), ("second", b)))
    if one.shape[1] != two.shape[1]:
        raise UsageError(
            f"{metric}: expected two sets of features of one size, got {one.shape[1]} and {two.shape[1]} numbers each"
        )
    return one, two


def _sorted(metric: str, which: str, features: Any) -> Tensor:
    array = (
        features.detach().cpu().double().numpy() if isinstance(features, Tensor) else np.asarray(features, np.float64)
    )
    if array.ndim != 2 or array.shape[1] == 0:
        raise UsageError(f"{metric}: expected features [N, D] as the {which} set, got shape {list(array.shape)}")
    if len(array) < 2:
        raise UsageError(f"{metric}: expected at least 2 pictures in the {which} set, got {len(array)}")
    if not np.isfinite(array).all():
        raise UsageError(f"{metric}: expected finite features, the {which} set has NaN or infinity")
    array = np.ascontiguousarray(array + 0.0)  # −0 has other bytes than 0
    order = np.argsort(array.view(np.dtype((np.void, array.strides[0])))[:, 0], kind="stable")
    return torch.from_numpy(array[order])


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[D]`, and A `[≤ D, D]` for which AᵀA is the covariance."""
    mean = features.mean(0)
    mean = mean + (features - mean).mean(0)  # what the first sum has rounded
    root = (features - mean) / (len(features) - 1) ** 0.5
    return mean, torch.linalg.qr(root, mode="r").R if len(root) > root.shape[1] else root


def _discrepancy(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of `[S, D]` and `[S, D]`."""
    size, dimension = a.shape
    within = 0.0
    for x in (a, b):
        kernel = (x @ x.T / dimension + 1) ** 3
        within += float(kernel.sum() - kernel.diagonal().sum())
    return within / (size * (size - 1)) - 2 * float(((a @ b.T / dimension + 1) ** 3).mean())

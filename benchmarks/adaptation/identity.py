"""Whether an adapted picture still is the one that it was: seen from the same side, as large, before the same grey.

The view is asked for by picture distance: a picture is held against the target's solid from the view that the source
has, and from many other views of the same kind. The colours and the grey are those with which a view fits best, so that
a wrong colour does not hide a right pose; whether the colour is right, other measures say.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from .renders import SIDE, Renders

# Kept: nearer than so many of the other views, and the grey no further off. By chance 5 % times what the greys' range
# leaves (of 0.25 to 0.6, a quarter).
LEAST_VIEW, MOST_GREY = 0.95, 0.05
RING = 2  # pixels at the border, which the world's solids never reach
APART = 0.12  # root of the summed squares of a colour's difference from the grey, beyond which a pixel is of the solid
_FAINT = 1e-3  # of a layer's length: what is left of it beside the others is not a direction of its own
_ROWS = 64  # pictures at a time


@dataclasses.dataclass(frozen=True)
class Kept:
    """Of N pictures.

    Attributes:
        view: share of the other views that are further away than the true one, ½ by chance.
        grey: distance of what is behind the solid from the source's grey, mean over the channels.
        side: root of the solid's area in the picture, of the picture's sides.
        true_side: the same of the target's render from the true view.
    """

    view: np.ndarray
    grey: np.ndarray
    side: np.ndarray
    true_side: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """Whether view and grey are kept, `[N]`."""
        found: np.ndarray = (self.view >= LEAST_VIEW) & (self.grey <= MOST_GREY)
        return found


def kept(pictures: Tensor, renders: Renders, greys: np.ndarray) -> Kept:
    """What is kept of the source's views.

    Args:
        pictures: `[N, 3, SIDE, SIDE]` in [0, 1].
        renders: of the solid that they show.
        greys: of the source, `[N]`.
    """
    seen = pictures.double().numpy().reshape(len(pictures), 3, -1)
    others, own = directions(renders.others), directions(renders.own)
    length = (seen**2).sum(axis=(1, 2))
    true = length - (np.einsum("nkp,ncp->nkc", own, seen) ** 2).sum(axis=(1, 2))
    shares = []
    for start in range(0, len(seen), _ROWS):
        part = slice(start, start + _ROWS)
        apart = length[part, None] - fitted(seen[part], others)
        further = (apart > true[part, None]).mean(axis=1) + 0.5 * (apart == true[part, None]).mean(axis=1)
        shares.append(further)
    behind = ring(seen)
    return Kept(
        view=np.concatenate(shares),
        grey=np.abs(behind - greys[:, None]).mean(axis=1),
        side=np.sqrt(silhouettes(seen, behind).mean(axis=1)),
        true_side=np.sqrt((renders.own[:, -1] < 0.5).mean(axis=1)),
    )


def directions(layers: np.ndarray) -> np.ndarray:
    """Orthonormal directions `[V, K, P]` float64 that span the layers of each view; 0 for one that others span."""
    left = layers.astype(np.float64)
    found = np.zeros_like(left)
    # The grey first: it is in every view, while a second colour may be hidden.
    for place, layer in enumerate(reversed(range(left.shape[1]))):
        x = left[:, layer].copy()
        before = np.linalg.norm(x, axis=1, keepdims=True)
        for other in range(place):
            x -= (x * found[:, other]).sum(axis=1, keepdims=True) * found[:, other]
        length = np.linalg.norm(x, axis=1, keepdims=True)
        found[:, place] = np.where(length > _FAINT * before, x / np.maximum(length, 1e-300), 0)
    return found


def fitted(seen: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """How much of the squares of pictures `[N, 3, P]` views explain, with the best colours of each: `[N, V]`."""
    count, kinds = len(seen), basis.shape[1]
    products = seen.reshape(3 * count, -1) @ basis.reshape(len(basis) * kinds, -1).T
    found: np.ndarray = (products.reshape(count, 3, len(basis), kinds) ** 2).sum(axis=(1, 3))
    return found


def ring(seen: np.ndarray) -> np.ndarray:
    """The colour at the border of pictures `[N, 3, P]`, its median: `[N, 3]`."""
    square = seen.reshape(len(seen), 3, SIDE, SIDE)
    border = np.ones((SIDE, SIDE), dtype=bool)
    border[RING:-RING, RING:-RING] = False
    found: np.ndarray = np.median(square[:, :, border], axis=2)
    return found


def silhouettes(seen: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Pixels of pictures `[N, 3, P]` that are not what is behind the solid, `[N, P]`."""
    found: np.ndarray = np.linalg.norm(seen - behind[:, :, None], axis=1) > APART
    return found


def correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Of two rows of numbers; 0 where one of them is the same everywhere."""
    a, b = one - one.mean(), two - two.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 1e-12 * len(a) else 0.0

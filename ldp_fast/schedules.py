"""How a number falls over a run: the one cosine that every learning rate here follows."""

from __future__ import annotations

import numpy as np


def cosine_decay(progress: float, final: float, parts: int = 1) -> float:
    """A factor that is 1 at first and, over the last of some equal parts of the run, falls along half a cosine.

        u = progress · parts − (parts − 1), in the last part from 0 to 1
        factor = final + (1 − final) · ½ (1 + cos π u)

    Args:
        progress: fraction of the run that is over, 0 to 1.
        final: the factor at the end, 0 to 1; 1 keeps it at 1.
        parts: 1 falls all the time, 2 over the second half, 3 over the last third.

    Returns:
        The factor, `final` to 1.
    """
    start = (parts - 1) / parts
    if progress <= start:
        return 1.0
    # NumPy's cosine and this order of factors: with them runs of earlier versions continue with the same bits.
    return float(final + (1 - final) * 0.5 * (1 + np.cos(np.pi * (progress - start) * parts)))

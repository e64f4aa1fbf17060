"""Counter-based random numbers: SplitMix64, bit for bit as in csrc/include/ldp/random.h.

Number n of a seed is the finaliser of seed + (n + 1)·golden ratio, in 64-bit arithmetic that wraps around (Steele, Lea
and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from __future__ import annotations

from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64


def shift_right(bits: Tensor, places: int) -> Tensor:
    """Shifts int64 to the right as if it were unsigned."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def random_bits(seed: Tensor, counter: Tensor) -> Tensor:
    """Returns 64 random bits for every counter.

    Args:
        seed: [1] int64.
        counter: any shape, int64.

    Returns:
        The shape of counter, int64.
    """
    z = seed + (counter + 1) * GOLDEN
    z = (z ^ shift_right(z, 30)) * FIRST
    z = (z ^ shift_right(z, 27)) * SECOND
    return z ^ shift_right(z, 31)


def random_uniform(seed: Tensor, counter: Tensor) -> Tensor:
    """Returns float32 in [0, 1) for every counter: the upper 24 of its 64 bits."""
    return shift_right(random_bits(seed, counter), 40).float() * 2.0**-24

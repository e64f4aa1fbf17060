"""Prompts as tensors: what a prompt is encoded to, and the choice among views on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch


@dataclasses.dataclass(frozen=True)
class TextEmbeddings:
    """Embeddings of P prompts and of their negative prompts.

    P is 1 (every sample has this prompt), the batch's size (a prompt a sample), or a number of views from which
    `select` picks on the device.

    Attributes:
        text: `[P, L, D]`, of the prompts.
        uncond: `[P, L, D]`, of the negative prompts (the empty prompt by default).
        pooled: `[P, E]` or None, pooled embeddings of the prompts (SDXL).
        pooled_uncond: `[P, E]` or None, the same of the negative prompts.

    Raises:
        TypeError: something other than tensors.
        ValueError: shapes that do not belong together.
    """

    text: torch.Tensor
    uncond: torch.Tensor
    pooled: torch.Tensor | None = None
    pooled_uncond: torch.Tensor | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, torch.Tensor) and not (value is None and field.name.startswith("pooled")):
                raise TypeError(f"TextEmbeddings: expected {field.name} as a tensor, got {type(value).__name__}")
        if self.text.ndim != 3 or self.text.shape != self.uncond.shape:
            raise ValueError(
                f"TextEmbeddings: expected text and uncond of one shape [P, L, D], "
                f"got {list(self.text.shape)} and {list(self.uncond.shape)}"
            )
        for name in ("pooled", "pooled_uncond"):
            pooled = getattr(self, name)
            if pooled is not None and (pooled.ndim != 2 or len(pooled) != len(self.text)):
                raise ValueError(
                    f"TextEmbeddings: expected {name} of shape [{len(self.text)}, E], got {list(pooled.shape)}"
                )

    def __len__(self) -> int:
        return len(self.text)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> TextEmbeddings:
        values: Any = (getattr(self, field.name) for field in dataclasses.fields(self))
        changed: Any = [None if v is None else change(v) for v in values]
        return TextEmbeddings(*changed)

    def to(self, *args: Any, **kwargs: Any) -> TextEmbeddings:
        """Moves or casts every tensor, as `torch.Tensor.to` does."""
        return self._map(lambda x: x.to(*args, **kwargs))

    def select(self, index: torch.Tensor) -> TextEmbeddings:
        """A prompt a sample: row `index[b]` for sample b.

        Args:
            index: `[B]` int64, on the embeddings' device; nothing synchronises with the host.
        """
        return self._map(lambda x: x.index_select(0, index))

    def expand(self, batch: int) -> TextEmbeddings:
        """One row a sample.

        Raises:
            ValueError: P is neither 1 nor the batch's size.
        """
        return self if len(self) == batch else self._map(lambda x: rows_for(x, 1, batch))

    @staticmethod
    def cat(parts: Sequence[TextEmbeddings]) -> TextEmbeddings:
        """Several sets of prompts as one."""
        fields = [field.name for field in dataclasses.fields(TextEmbeddings)]
        columns = ([getattr(part, name) for part in parts] for name in fields)
        joined: Any = [None if c[0] is None else torch.cat(c) for c in columns]
        return TextEmbeddings(*joined)


def rows_for(text: torch.Tensor, copies: int, batch: int) -> torch.Tensor:
    """Embeddings with a row for each sample of each copy: row k·B + b is copy k of sample b.

    Args:
        text: `[copies, …]`, a row for all samples of a copy, or `[copies·batch, …]`, copy after copy; with one sample
            both are the same.
        copies: of the batch: 2 with guidance, more with Perp-Neg, 1 without.
        batch: B.

    Returns:
        `[copies·batch, …]`.

    Raises:
        ValueError: another number of rows.
    """
    if len(text) == copies * batch:
        return text
    if len(text) != copies:
        raise ValueError(
            f"text: expected embeddings of {copies} or {copies * batch} rows for {batch} latents "
            f"({copies} prompt{'s' if copies > 1 else ''} for all, or a row each), got {len(text)}; "
            f"TextEmbeddings.select(index) picks a row a sample"
        )
    return text.repeat_interleave(batch, 0)


def repeated(text: TextEmbeddings | torch.Tensor, times: int, copies: int, batch: int) -> TextEmbeddings | torch.Tensor:
    """Embeddings of `times` batches, one after the other within each copy, from those of one.

    Args:
        text: of B samples, as `LatentDiffusionPrior` takes it.
        times: K.
        copies, batch: as in `rows_for`; the same errors.
    """
    if isinstance(text, TextEmbeddings):
        return text._map(lambda x: torch.cat([rows_for(x, 1, batch)] * times))
    return torch.cat([rows for copy in rows_for(text, copies, batch).split(batch) for rows in [copy] * times])

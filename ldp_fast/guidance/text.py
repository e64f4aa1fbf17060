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
    """

    text: torch.Tensor
    uncond: torch.Tensor
    pooled: torch.Tensor | None = None
    pooled_uncond: torch.Tensor | None = None

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
        if len(self) == batch:
            return self
        if len(self) != 1:
            raise ValueError(
                f"text: expected embeddings of 1 prompt or of {batch} (the batch's size), got {len(self)}; "
                f"select(index) picks one a sample"
            )
        return self._map(lambda x: x.expand(batch, *x.shape[1:]))

    @staticmethod
    def cat(parts: Sequence[TextEmbeddings]) -> TextEmbeddings:
        """Several sets of prompts as one."""
        fields = [field.name for field in dataclasses.fields(TextEmbeddings)]
        columns = ([getattr(part, name) for part in parts] for name in fields)
        joined: Any = [None if c[0] is None else torch.cat(c) for c in columns]
        return TextEmbeddings(*joined)


@torch.no_grad()
def encode(tokenizers: list[Any], encoders: list[Any], prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Encodes prompts as Stable Diffusion does (one encoder) or as SDXL does (two).

    With one encoder: its last hidden state. With two: both penultimate hidden states side by side, and the second's
    pooled projection.

    Returns:
        `[P, L, D]`, and `[P, E]` or None.
    """
    states, pooled = [], None
    for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
        limit = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        tokens = tokenizer(prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        device = next(encoder.parameters()).device
        output = encoder(tokens.input_ids.to(device), output_hidden_states=len(encoders) > 1)
        if len(encoders) == 1:
            return output.last_hidden_state, None
        states.append(output.hidden_states[-2])
        pooled = output[0]
    return torch.cat(states, dim=-1), pooled

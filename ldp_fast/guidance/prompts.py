"""Prompts to embeddings, as the pipelines of Stable Diffusion 1.x, 2.x and SDXL make them, to the bit.

One text encoder: its last hidden state, under the attention mask where its configuration asks for one. Two (SDXL):
the penultimate hidden states side by side, and the first pooled projection. `clip_skip` is not served.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UsageError
from .check import configured, precision_of
from .text import TextEmbeddings

if TYPE_CHECKING:
    from .models import LatentDiffusionModel

_LOG = logging.getLogger(__name__)
# A tokenizer that names no longest text says 1e30.
LONGEST = 1_000_000
# What SDXL's pipeline does unless its configuration says otherwise.
FORCE_ZEROS = "force_zeros_for_empty_prompt"


def check_words(text: str, notes: Mapping[str, Any]) -> None:
    """Checks that an embedded model knows the words of a prompt.

    Args:
        text: the prompt.
        notes: of the model; without `words` it takes any.

    Raises:
        UsageError: names those that it does not know.
    """
    known = set(notes.get("words", ()))
    unknown = [w for w in text.lower().replace(",", " ").replace(".", " ").split() if w not in known]
    if known and unknown:
        raise UsageError(
            f"prompt: the embedded model does not know {', '.join(_with_nearest(w, known) for w in unknown)}; "
            f"it knows: {notes.get('prompt_help', ', '.join(sorted(known)))}"
        )


def _with_nearest(word: str, known: set[str]) -> str:
    """A word in quotes, with the most similar one of those that are known, if one is."""
    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f"{word!r} (did you mean {near[0]!r}?)" if near else repr(word)


def listed(name: str, value: Any) -> list[str]:
    """One text, or several, as a list.

    Raises:
        UsageError: it is neither.
    """
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [value]
    wrong = [type(text).__name__ for text in texts if not isinstance(text, str)]
    if wrong:
        raise UsageError(f"{name}: expected a string, or a list or tuple of strings, got {wrong[0]}")
    return texts


@torch.no_grad()
def encode_prompts(
    model: LatentDiffusionModel, prompts: list[str], negatives: list[str] | None, said: set[str]
) -> TextEmbeddings:
    """Embeddings of prompts and of their negative prompts, on the UNet's device.

    Args:
        model: with tokenizers and text encoders.
        prompts: P texts.
        negatives: 1 or P texts; None is the pipeline's default: the empty prompt, and zeros for SDXL unless its
            configuration denies `force_zeros_for_empty_prompt`.
        said: what was said to be cut off; grows.
    """
    every: list[tuple[Any, Any]] = [(model.tokenizer, model.text_encoder), (model.tokenizer_2, model.text_encoder_2)]
    pairs = [pair for pair in every if pair[1] is not None]
    two = model.text_encoder_2 is not None
    text, pooled = _encoded(pairs, prompts, two, said)
    if negatives is None and two and model.notes.get(FORCE_ZEROS, True):
        uncond, pooled_uncond = torch.zeros_like(text), None if pooled is None else torch.zeros_like(pooled)
    else:
        negatives = [""] if negatives is None else negatives
        uncond, pooled_uncond = _encoded(pairs, negatives * (len(prompts) // len(negatives)), two, said)
    dtype, device = precision_of(pairs[-1][1]), model.device
    found = TextEmbeddings(text.to(dtype), uncond.to(dtype), pooled, pooled_uncond)
    return found.to(device)


def _encoded(
    pairs: list[tuple[Any, Any]], prompts: list[str], two: bool, said: set[str]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    states, pooled = [], None
    for tokenizer, encoder in pairs:
        ids, mask = tokens(tokenizer, encoder, prompts, said)
        device = next(encoder.parameters()).device
        if not two:
            masked = mask.to(device) if configured(encoder, "use_attention_mask") else None
            return encoder(ids.to(device), attention_mask=masked)[0], None
        output = encoder(ids.to(device), output_hidden_states=True)
        if pooled is None and output[0].ndim == 2:
            pooled = output[0]
        states.append(output.hidden_states[-2])
    if pooled is None:
        raise UsageError("text_encoder_2: expected CLIPTextModelWithProjection, got one without a projection")
    return torch.cat(states, dim=-1), pooled


def tokens(tokenizer: Any, encoder: Any, prompts: list[str], said: set[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, `[P, L]` int64: padded to the encoder's length, cut off where they are longer.

    What is cut off is logged, once, as a warning.
    """
    prompts = [_with_vectors(prompt, tokenizer) for prompt in prompts]
    limit = min(tokenizer.model_max_length, configured(encoder, "max_position_embeddings") or LONGEST)
    if limit >= LONGEST:
        raise UsageError("tokenizer: expected one that names its longest text (model_max_length), got none")
    found = tokenizer(prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    whole = tokenizer(prompts, verbose=False).input_ids
    for ids in whole:
        if len(ids) > limit:
            words = tokenizer.decode(ids[limit - 1 : -1]).strip()
            if words not in said:
                said.add(words)
                _LOG.warning(
                    "encode_prompt: the text encoder takes %d tokens, its marks of beginning and end among them; "
                    "cut off: %s",
                    limit,
                    words,
                )
    return found.input_ids, found.attention_mask


def _with_vectors(prompt: str, tokenizer: Any) -> str:
    """A concept of textual inversion that has several vectors stands for all of its tokens: `<c>`, `<c>_1`, …"""
    added = tokenizer.added_tokens_encoder
    several = {token for token in added if f"{token}_1" in added}
    for token in several.intersection(tokenizer.tokenize(prompt)) if several else ():
        count = 1
        while f"{token}_{count}" in added:
            count += 1
        prompt = prompt.replace(token, " ".join([token, *(f"{token}_{i}" for i in range(1, count))]))
    return prompt

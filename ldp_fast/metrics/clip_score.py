"""CLIP score: how near a picture is to its caption."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .retrieval import Scorer, features_of_captions, features_of_images


def clip_cosines(scorer: Scorer, images: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
    """The raw cosine of each picture with its caption; the paper's Table 3 has its mean, 0.28 to 0.37.

    Numbers of two CLIPs are not comparable: each has its own range of cosines. Nor is one CLIP's, of pictures that were
    made by the guidance of that same CLIP, comparable with others.

    Args:
        scorer: the CLIP.
        images: `[B, 3, H, W]` in [0, 1], or their unit features `[B, E]` where those are known already.
        captions: B captions, or one of all pictures.

    Returns:
        `[B]` float64 on the CPU, from float32 features.

    Raises:
        ValueError: another number of captions.
        UsageError: a caption is longer than the scorer reads; the message has the words that would be lost.
    """
    if len(captions) not in (1, len(images)):
        raise ValueError(f"clip_cosines: captions: expected {len(images)}, one an image, or 1, got {len(captions)}")
    seen = features_of_images(scorer, images).double().cpu()
    return (seen * features_of_captions(scorer, captions).double().cpu()).sum(1)


def clip_scores(cosines: torch.Tensor) -> torch.Tensor:
    """100·max(cos, 0) of each picture; a set of pictures has the mean of these.

    Of one picture it is torchmetrics' CLIPScore, which takes the mean of a set first and 0 instead of a negative mean
    after: the same where no cosine is negative. Hessel et al., *CLIPScore* (EMNLP 2021), take the mean as it is here,
    scale by 2.5 instead of 100 and put "A photo depicts" before the caption.

    Args:
        cosines: of any shape, as `clip_cosines` gives them.
    """
    return 100 * cosines.clamp_min(0)

"""Trains the embedded CLIPs: the first one's text tower conditions the UNet, the second one only judges.

What conditions a model is a mild judge of what the model makes. The second CLIP has another architecture, another seed
and other pictures, and nothing was made with it.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from . import loop, world
from .data import RenderedImages

CONTEXT_LENGTH = 24
# Layers and widths of the towers, and by how much the seed differs from the run's.
ARCHITECTURES = {
    "clip": {"hidden": 128, "heads": 4, "text_layers": 3, "vision_layers": 4, "feed_forward": (320, 384), "seed": 0},
    "judge": {"hidden": 160, "heads": 5, "text_layers": 2, "vision_layers": 3, "feed_forward": (320, 480), "seed": 101},
}
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(folder: pathlib.Path) -> CLIPTokenizer:
    """Writes vocab.json and merges.txt, in which every word of the captions is one token, and loads them as CLIP's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    rng = np.random.default_rng(0)
    captions = [world.training_caption(rng, world.sample_scene(rng), world.sample_view(rng)) for _ in range(5000)]
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trained.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=4000, end_of_word_suffix="</w>"))
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = symbols + [s + "</w>" for s in symbols] + [a + b for a, b in merges] + [START, END]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    # By from_pretrained: what the class itself calls the two files differs between transformers 4 and 5.
    tokenizer: Any = CLIPTokenizer.from_pretrained(
        folder,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT_LENGTH,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def build(tokenizer: CLIPTokenizer, name: str = "clip") -> Any:
    """A fresh, untrained CLIP of one of the `ARCHITECTURES`, with patches of 16 on 128 px images."""
    size: dict[str, Any] = ARCHITECTURES[name]
    shared = {"hidden_size": size["hidden"], "num_attention_heads": size["heads"], "projection_dim": 64}
    text = {
        **shared,
        "vocab_size": len(tokenizer),
        "intermediate_size": size["feed_forward"][0],
        "num_hidden_layers": size["text_layers"],
        "max_position_embeddings": CONTEXT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        **shared,
        "intermediate_size": size["feed_forward"][1],
        "num_hidden_layers": size["vision_layers"],
        "image_size": 128,
        "patch_size": 16,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids `[B, CONTEXT_LENGTH]`, padded and cut."""
    return tokenizer(
        captions, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt"
    ).input_ids


def augment(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Shifts, blurs and noises `[B, 3, H, W]` in [-1, 1], so that the score minds what is shown, not how crisply."""
    dy, dx = (int(k) for k in rng.integers(-6, 7, size=2))
    images = torch.roll(F.pad(images, (6, 6, 6, 6), mode="replicate"), (dy, dx), (2, 3))[..., 6:-6, 6:-6]
    if rng.random() < 0.4:
        images = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    return images + 0.08 * float(rng.random()) * noise.to(images.device)


def train(
    folder: pathlib.Path, out: pathlib.Path, *, seed: int, steps: int, batch: int = 128, name: str = "clip"
) -> None:
    """Trains both towers of one of the `ARCHITECTURES` and writes them to `out/NAME` (CLIPModel).

    Of `clip` also `out/tokenizer` and `out/text_encoder` (CLIPTextModel).
    """
    data = RenderedImages(folder / "data", "train")
    own = out / "tokenizer"
    tokenizer = build_tokenizer(own) if name == "clip" else CLIPTokenizer.from_pretrained(own)
    seed += int(ARCHITECTURES[name]["seed"])  # type: ignore[call-overload]
    torch.manual_seed(seed)
    clip = build(tokenizer, name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clip.to(device)
    amp = loop.quick_in_bfloat16(device)

    def loss_at(step: int):
        rng = np.random.default_rng((seed, 3, step))
        picks = rng.choice(len(data), batch, replace=False)
        scenes, views = [data.scenes[i] for i in picks], [data.views[i] for i in picks]
        captions = [world.training_caption(rng, s, v) for s, v in zip(scenes, views, strict=True)]
        # Several captions of a batch may be true of one image; each true one shares the target.
        same = torch.tensor([[a == b for b in scenes] for a in scenes])
        true = same & torch.tensor([[v.agrees(c) for c in captions] for v in views])
        images = torch.from_numpy(data.pictures(picks, rng.uniform(*world.BACKGROUNDS, batch))).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            output = clip(input_ids=tokenize(tokenizer, captions).to(device), pixel_values=augment(images, rng))
        logits, true = output.logits_per_image.float(), true.to(device).float()
        loss = F.cross_entropy(logits, true / true.sum(1, keepdim=True))
        loss = loss + F.cross_entropy(logits.T, (true / true.sum(0)).T)
        picked = true.gather(1, logits.argmax(1, keepdim=True)).mean()
        return loss / 2, {"loss": float(loss.detach()) / 2, "accuracy": float(picked)}

    checkpoint = folder / "checkpoints" / f"{name}.pt"
    clip.load_state_dict(
        loop.train(clip, loss_at, steps=steps, peak_rate=1e-3, weight_decay=0.02, checkpoint=checkpoint, name=name)
    )
    clip.eval()
    clip.save_pretrained(out / name)
    if name != "clip":
        return
    from transformers import CLIPTextModel

    text_encoder: Any = CLIPTextModel(clip.config.text_config)
    inner = text_encoder.text_model if hasattr(text_encoder, "text_model") else text_encoder
    inner.load_state_dict(clip.text_model.state_dict())
    text_encoder.save_pretrained(out / "text_encoder")

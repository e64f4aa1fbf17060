"""threestudio's real guidance, with and without ours, where `LDP_HOSTS` has its checkout."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..support.models import TEXT_WIDTH, save_stable_diffusion
from .hosts import checkout, imported
from .oracle import assert_same
from .test_threestudio import rendered, views

STOOD_IN = (
    "tinycudann",
    "pytorch_lightning",
    "igl",
    "jaxtyping",
    "typeguard",
    "cv2",
    "threestudio.data",
    "threestudio.systems",
    *(f"threestudio.models.{room}" for room in ("background", "exporters", "geometry", "materials", "renderers")),
    *(
        f"threestudio.models.guidance.{name}_guidance"
        for name in (
            "controlnet",
            "deep_floyd",
            "instructpix2pix",
            "stable_diffusion_sdi",
            "stable_diffusion_unified",
            "stable_diffusion_vsd",
            "stable_zero123",
            "zero123",
            "zero123_unified",
        )
    ),
)
CUSTOM = "from ldp_fast.integrations.threestudio import register\n\nregister()\n"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_hosts_real_guidance(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both guidances, made from a configuration, on a small Stable Diffusion from disk; prompts are the host's too."""
    folder = checkout("threestudio")
    pytest.importorskip("omegaconf", reason="threestudio's configurations need omegaconf")
    path = save_stable_diffusion(tmp_path / "sd")
    with imported(folder, "threestudio", *STOOD_IN) as host:
        monkeypatch.setattr("threestudio.utils.base.get_device", lambda: torch.device("cpu"))
        exec(CUSTOM, {})
        base = {"pretrained_model_name_or_path": str(path), "half_precision_weights": False}
        for cfg in ({}, {"use_sjc": True, "var_red": False}, {"weighting_strategy": "fantasia3d", "grad_clip": 1.0}):
            theirs = host.find("stable-diffusion-guidance")(base | cfg)
            ours = host.find("ldp-guidance")(base | cfg | {"feature_matching": False, "kl": False})
            for batch, perp_neg in [(1, False), (2, False), (1, True)]:
                found = []
                for each in (theirs, ours):
                    each.update_step(0, 0)
                    rgb = rendered(batch)
                    torch.manual_seed(8)
                    out = each(rgb, real_prompts(perp_neg), **views(batch), rgb_as_latents=True)
                    out["loss_sds"].backward()
                    found.append((rgb.grad, out))
                assert_same(found[1][0], found[0][0])
                torch.testing.assert_close(found[1][1]["grad_norm"], found[0][1]["grad_norm"], rtol=1e-4, atol=0)
                assert {"loss_sds", "min_step", "max_step"} <= found[0][1].keys() & found[1][1].keys()
        full = host.find("ldp-guidance")(base)
        out = full(rendered(1, 3), real_prompts(False), **views(1))
        assert {"loss_sds", "loss_fm", "loss_kl"} <= out.keys()
        assert full.decode_latents(torch.zeros(1, 4, 8, 8), 8, 8).shape == (1, 3, 64, 64)


def real_prompts(perp_neg: bool) -> Any:
    """threestudio's own output of a prompt processor, with random embeddings of its four views."""
    from threestudio.models.prompt_processors.base import (  # type: ignore[import-not-found]
        DirectionConfig,
        PromptProcessorOutput,
    )

    generator = torch.Generator().manual_seed(3)
    text, uncond = (torch.randn(4, 5, TEXT_WIDTH, generator=generator) for _ in range(2))
    names = ("side", "front", "back", "overhead")
    bounds = {"side": -1e3, "front": 20.0, "back": 1e3, "overhead": 1e3}
    directions = [
        DirectionConfig(name, str, str, lambda elevation, azimuth, distance, low=low: azimuth > low)
        for name, low in bounds.items()
    ]
    decays = ((1, 0.5, -0.606), (1, 0.5, 0.967), (4, 0.5, -2.426), (4, 0.5, -2.426))
    index = {name: i for i, name in enumerate(names)}
    return PromptProcessorOutput(
        text[:1], uncond[:1], text, uncond, directions, index, perp_neg, *decays, "a prompt", list(names)
    )

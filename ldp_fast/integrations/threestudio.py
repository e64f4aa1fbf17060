"""threestudio: a folder for its `custom/`, and three entries of a YAML.

The folder is `custom/threestudio-ldp/` with one file, `__init__.py`:

    from ldp_fast.integrations.threestudio import register
    register()

which makes `ldp-guidance` known. The YAML of a system that uses `stable-diffusion-guidance` then says

    system:
      guidance_type: ldp-guidance
      guidance:                      # everything that stable-diffusion-guidance takes, and
        feature_matching: true       # false never touches the decoder
        kl: true
      loss:
        lambda_sds: 1.
        lambda_fm: 0.01              # numbers, or threestudio's schedules [start_step, start, end, end_step]
        lambda_kl: 0.1

`ldp-guidance` is a subclass of the host's guidance: it loads what the host loads, and `update_step`, the schedules of t
and of the clip, `decode_latents` and the pictures of `guidance_eval` are the host's. Its score distillation is the
host's, for each of `weighting_strategy`, `use_sjc`, `var_red` and Perp-Neg: [text, uncond], text + s·(text − uncond)
(with Perp-Neg uncond + s·(…)), a t a sample, divided by the batch, `grad_clip`. What the host decodes at every step and
does not use is not decoded. `use_img_loss` is refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from ..guidance.inputs import rows_for
from ._core import HostLosses, predict_residual
from ._host import check_network, check_units
from ._live import Attribute, LiveSchedule

NAME = "ldp-guidance"
PREDICTIONS = ("epsilon", "v_prediction")
WEIGHTINGS = {"sds": "dreamfusion", "uniform": "uniform", "fantasia3d": "latent_nerf"}


def register(name: str = NAME) -> type:
    """Makes the guidance known to threestudio, under `name`; imports threestudio.

    Returns:
        The registered class.

    Raises:
        ImportError: threestudio is not there: start from its folder, as its `launch.py` does.
    """
    import threestudio

    if name not in threestudio.__modules__:
        threestudio.register(name)(guidance_class())
    return threestudio.__modules__[name]


_MADE: dict[type, type] = {}


def guidance_class() -> type:
    """`ldp-guidance`, a subclass of threestudio's Stable Diffusion guidance; imports threestudio."""
    from threestudio.models.guidance.stable_diffusion_guidance import StableDiffusionGuidance

    if StableDiffusionGuidance not in _MADE:
        made: Any = _subclass(StableDiffusionGuidance)
        # Under these names `__getattr__` below finds it, where a pickle is read.
        made.__qualname__, made.Config.__qualname__ = "LDPGuidance", "LDPGuidance.Config"
        _MADE[StableDiffusionGuidance] = made
    return _MADE[StableDiffusionGuidance]


def __getattr__(name: str) -> Any:
    if name == "LDPGuidance":
        return guidance_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _subclass(StableDiffusionGuidance: Any) -> type:
    class LDPGuidance(StableDiffusionGuidance):  # type: ignore[misc]
        """threestudio's guidance with the paper's regularisers, as `loss_sds`, `loss_fm` and `loss_kl`."""

        @dataclasses.dataclass
        class Config(StableDiffusionGuidance.Config):  # type: ignore[misc]
            feature_matching: bool = True
            kl: bool = True
            levels: Any = ("up0", "up1", "up2")
            decoder_memory: str = "auto"
            decoder_dtype: Any = None  # float32 or bfloat16, where the VAE's own float16 overflows
            prediction: str = "epsilon"  # of the network; v_prediction for Stable Diffusion 2.x at 768 pixels

        def configure(self) -> None:
            """Loads what the host loads, then says what is not served."""
            if self.cfg.use_img_loss:
                raise UsageError(
                    "use_img_loss: expected false, because ldp-guidance lacks an image-space loss; got true"
                )
            if self.cfg.weighting_strategy not in WEIGHTINGS:
                raise UsageError(
                    f"weighting_strategy: expected one of {', '.join(WEIGHTINGS)}; got {self.cfg.weighting_strategy!r}"
                )
            if self.cfg.prediction not in PREDICTIONS:
                raise UsageError(f"prediction: expected one of {', '.join(PREDICTIONS)}; got {self.cfg.prediction!r}")
            super().configure()
            check_network(self.unet)
            self.losses = HostLosses(
                Attribute(self, "vae"),
                lambda_fm=1.0 if self.cfg.feature_matching else 0.0,
                lambda_kl=1.0 if self.cfg.kl else 0.0,
                nonfinite="zero",
                levels=tuple(self.cfg.levels),
                memory=self.cfg.decoder_memory,
                decoder_dtype=getattr(torch, self.cfg.decoder_dtype) if self.cfg.decoder_dtype else None,
            )
            self.losses.check()
            self.statistics = None
            self.schedule = LiveSchedule(self)
            self.schedule.read(self.device)

        def __call__(
            self,
            rgb: Tensor,
            prompt_utils: Any,
            elevation: Tensor,
            azimuth: Tensor,
            camera_distances: Tensor,
            rgb_as_latents: bool = False,
            guidance_eval: bool = False,
            **kwargs: Any,
        ) -> dict[str, Any]:
            """The host's contract, see `step`."""
            views = (elevation, azimuth, camera_distances, self.cfg.view_dependent_prompting)
            prediction = self.cfg.prediction
            return step(self, rgb, prompt_utils, views, rgb_as_latents, guidance_eval, prediction)

        @property
        def ldp(self) -> Any:
            """What other hosts have under this name: the guidance itself, with `losses` and `statistics`."""
            return self

    return LDPGuidance


def step(
    guidance: Any,
    rgb: Tensor,
    prompt_utils: Any,
    views: tuple[Any, ...],
    rgb_as_latents: bool,
    guidance_eval: bool,
    prediction: Any = "epsilon",
) -> dict[str, Any]:
    """What threestudio's systems call at every step.

    Args:
        guidance: an object of `guidance_class()`.
        rgb: rendered images in [0, 1]  # [B, H, W, 3]
            or, with `rgb_as_latents`, rendered latents  # [B, H, W, 4]
        prompt_utils: of threestudio's prompt processor.
        views: elevation, azimuth and distance [B] each, in degrees and units, and whether prompts depend on them.
        rgb_as_latents: see rgb.
        guidance_eval: adds `eval`, the host's pictures of what the network makes of the latents.
        prediction: what the network predicts, `epsilon` or `v_prediction`.

    Returns:
        `loss_sds`, and `loss_fm` and `loss_kl` where the configuration has them: scalars on the graph, each for its
        λ in the system's `loss:`; `grad_norm` of score distillation; `min_step`, `max_step`.
    """
    image = rgb.permute(0, 3, 1, 2)
    if rgb_as_latents:
        latents = F.interpolate(image, (64, 64), mode="bilinear", align_corners=False)
    else:
        if guidance.losses.lambda_fm != 0:
            check_units(guidance.vae, guidance.encode_images)
        latents = guidance.encode_images(F.interpolate(image, (512, 512), mode="bilinear", align_corners=False))
    cfg, batch, device = guidance.cfg, len(latents), latents.device
    t = torch.randint(guidance.min_step, guidance.max_step + 1, [batch], dtype=torch.long, device=device)
    text, negative_weights = _conditions(prompt_utils, views, batch)
    noise = torch.randn_like(latents)
    schedule = guidance.schedule.read(device)
    t, outside = schedule.inside(t, prediction)
    alpha, sigma = schedule.gather(t)
    residual = predict_residual(
        latents,
        noise,
        alpha,
        sigma,
        lambda z: guidance.forward_unet(z, t.repeat(len(z) // batch), encoder_hidden_states=text),
        guidance_scale=cfg.guidance_scale,
        guidance="from_text",
        order="text_first",
        prediction=prediction,
        negative_weights=negative_weights,
    )
    # Score Jacobian chaining in the host: the same residual with w = 1, or ε̂ alone.
    weighting: Any = "uniform" if cfg.use_sjc else WEIGHTINGS[cfg.weighting_strategy]
    field = residual + noise if cfg.use_sjc and not cfg.var_red else None
    guidance.losses.clip = guidance.grad_clip_val
    weight = schedule.weight(t, weighting)
    out = guidance.losses(latents, residual, alpha, weight, timesteps=t, outside=outside, field=field)
    guidance.statistics = out.statistics
    result: dict[str, Any] = {"loss_sds": out.lsd}
    if cfg.feature_matching:
        result["loss_fm"] = out.fm
    if cfg.kl:
        result["loss_kl"] = out.kl
    result |= {"grad_norm": out.statistics.terms["norm_lsd"].norm()}
    result |= {"min_step": guidance.min_step, "max_step": guidance.max_step}
    if guidance_eval:
        a, s = alpha[:, None, None, None], sigma[:, None, None, None]
        noisy, predicted = (a * latents + s * noise).detach(), residual + noise
        if prediction == "v_prediction":  # the host's scheduler is handed what its network predicts
            predicted = (predicted - s * noisy) / a
        result["eval"] = _evaluation(guidance, t, text, noisy, predicted, negative_weights, views)
    return result


def _conditions(prompt_utils: Any, views: tuple[Any, ...], batch: int) -> tuple[Tensor, Tensor | None]:
    """Text embeddings, copy by copy, and the weights of Perp-Neg; a ValueError where their rows are not the batch's.

    The host has the negatives sample by sample, but repeats the latents copy by copy: at batch 2 and more it shows the
    network negatives of one sample on the latents of another. Here both are copy by copy.
    """
    if not prompt_utils.use_perp_neg:
        return rows_for(prompt_utils.get_text_embeddings(*views), 2, batch), None
    text, weights = prompt_utils.get_text_embeddings_perp_neg(*views)
    if weights.ndim != 2 or len(weights) != batch or len(text) != (2 + weights.shape[1]) * batch:
        raise ValueError(
            f"prompt_utils: expected weights of negatives for {batch} samples, and 2 + that many embeddings each, "
            f"got weights {list(weights.shape)} and {len(text)} embeddings"
        )
    first, negatives = text[: 2 * batch], text[2 * batch :]
    by_copy = negatives.unflatten(0, (batch, weights.shape[1])).transpose(0, 1).flatten(0, 1)
    return torch.cat([first, by_copy]), weights.float()


def _evaluation(
    guidance: Any,
    t: Tensor,
    text: Tensor,
    noisy: Tensor,
    predicted: Tensor,
    negative_weights: Tensor | None,
    views: tuple[Any, ...],
) -> dict[str, Any]:
    """The host's pictures, with a caption each; this waits for the device, as the host's does."""
    found = guidance.guidance_eval(
        t_orig=t,
        text_embeddings=text,
        latents_noisy=noisy,
        noise_pred=predicted,
        use_perp_neg=negative_weights is not None,
        neg_guidance_weights=negative_weights,
    )
    names = ("n", "e", "a", "c")
    rows = zip(found["noise_levels"], *(view.tolist() for view in views[:3]), strict=False)
    captions = ["\n".join(f"{n}{x:.2f}" for n, x in zip(names, row, strict=True)) for row in rows]
    return {**found, "texts": captions}

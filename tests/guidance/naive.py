"""The prior as a reader of the paper would write it: eager, the whole decoder with hooks, autograd for everything."""

from __future__ import annotations

import torch

from ldp_fast.guidance import PriorSettings


def naive_gradient(
    unet, vae, sampler, settings: PriorSettings, scale, prediction, v, uncond, text, t, noise, extra=None
):
    """dL/dv of Eq. 4 and the mean-type values of the three terms, in float32 or float64 (the precision of v)."""
    batch = len(v)
    if prediction == "flow":
        s = ((t.double() + 1) / sampler.config.num_train_timesteps).to(v.dtype)[:, None, None, None]
        a = 1 - s
    else:
        alpha_bar = sampler.alphas_cumprod.double()[t].to(v.dtype)[:, None, None, None]
        a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    z = a * v + s * noise
    told = t if prediction != "flow" else (t.double() + 1).to(torch.float32)
    if scale is None:
        out = unet(z, told, encoder_hidden_states=text, **(extra or {})).sample
    else:
        pair = [uncond, text] if settings.order == "uncond_first" else [text, uncond]
        halves = unet(
            torch.cat([z, z]), torch.cat([told, told]), encoder_hidden_states=torch.cat(pair), **(extra or {})
        ).sample
        first, second = halves.chunk(2)
        e_u, e_c = (first, second) if settings.order == "uncond_first" else (second, first)
        base = e_u if settings.guidance == "from_uncond" else e_c
        out = base + scale * (e_c - e_u)
    eps_hat = {
        "epsilon": lambda: out,
        "v_prediction": lambda: a * out + s * z,
        "sample": lambda: (z - a * out) / s,
        "flow": lambda: z + (1 - s) * out,
    }[prediction]()
    r = (eps_hat - noise).detach()
    w = {"uniform": torch.ones_like(a), "dreamfusion": 1 - a**2, "latent_nerf": a * (1 - a**2)}[settings.weighting]
    leaf = v.detach().clone().requires_grad_()
    # The one-line oracle of the (1 + α_t) rule: the value of v + r, the derivative of (1 + α_t) v.
    v_prime = (1 + a) * leaf - (a * leaf).detach() + r
    found = {}
    names = {f"up{i}": block for i, block in enumerate(vae.decoder.up_blocks)} | {"mid": vae.decoder.mid_block}
    hooks = [
        names[level].register_forward_hook(lambda _m, _i, o, level=level: found.setdefault(level, []).append(o))
        for level in settings.levels
    ]
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    for latents in (leaf, v_prime):
        vae.decode(latents / vae.config.scaling_factor + shift)
    for hook in hooks:
        hook.remove()
    mean_fm = sum((x - y).abs().mean((1, 2, 3)) for x, y in found.values())
    sum_fm = sum((x - y).abs().sum((1, 2, 3)) for x, y in found.values())
    mu, variance = leaf.mean((1, 2, 3)), leaf.var((1, 2, 3), unbiased=False)
    kl = 0.5 * (mu**2 + variance - variance.log() + 1)
    n = v[0].numel()
    if settings.scale == "balanced":
        (matching,) = torch.autograd.grad(n * mean_fm.sum(), leaf, retain_graph=True)
        ratio = (w * r).flatten(1).norm(dim=1) / matching.flatten(1).norm(dim=1) / len(settings.levels)
        total = settings.lambda_fm * n * ratio * mean_fm + settings.lambda_kl * n * kl
    elif settings.scale == "latent":
        total = settings.lambda_fm * n * mean_fm + settings.lambda_kl * n * kl
    else:
        total = settings.lambda_fm * sum_fm + settings.lambda_kl * kl
    (grad,) = torch.autograd.grad(total.sum(), leaf)
    grad = grad + settings.lambda_lsd * w * r
    values = {"lsd": 0.5 * (w * r**2).mean((1, 2, 3)), "fm": mean_fm, "kl": kl}
    if settings.batch_reduction == "mean":
        grad = grad / batch
        return grad, {name: x.mean().detach() for name, x in values.items()}
    return grad, {name: x.sum().detach() for name, x in values.items()}

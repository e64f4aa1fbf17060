"""Text-driven visual synthesis with a latent diffusion prior: fused losses, a prior and its applications.

    import ldp_fast

    prior = ldp_fast.LatentDiffusionPrior.from_pretrained("primitives", preset="image")
    out = prior(latents, prior.encode_prompt("a red cube"))
    out.loss.backward()

The public names below are imported when they are first used: `import ldp_fast` brings in neither torch nor Triton nor
diffusers, queries no device and registers no operator.
"""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from .clip import ClipGuidance
    from .decoder import FrozenDecoder
    from .guidance import LatentDiffusionPrior
    from .losses.functional import (
        combine_gradients,
        feature_matching_loss,
        guided_residual,
        latent_kl_loss,
        perp_neg_residual,
        perturb,
        residual_latents,
        score_distillation_loss,
    )

__version__ = "0.1.0"

__all__ = [
    "ClipGuidance",
    "FrozenDecoder",
    "LatentDiffusionPrior",
    "UsageError",
    "__version__",
    "combine_gradients",
    "feature_matching_loss",
    "guided_residual",
    "latent_kl_loss",
    "perp_neg_residual",
    "perturb",
    "residual_latents",
    "score_distillation_loss",
]

_ORIGINS = {
    "ClipGuidance": "clip",
    "FrozenDecoder": "decoder",
    "LatentDiffusionPrior": "guidance",
    "combine_gradients": "losses.functional",
    "feature_matching_loss": "losses.functional",
    "guided_residual": "losses.functional",
    "latent_kl_loss": "losses.functional",
    "perp_neg_residual": "losses.functional",
    "perturb": "losses.functional",
    "residual_latents": "losses.functional",
    "score_distillation_loss": "losses.functional",
}


def _find_kernels_of_a_checkout() -> None:
    """Makes `ldp_fast.kernels` importable where this file is run from a checkout and not from an installation.

    Python then finds `./ldp_fast`, in front of any installed copy, while the kernels are in `./kernels/ldp_kernels`.
    """
    folder = pathlib.Path(__file__).resolve().parent.parent / "kernels" / "ldp_kernels"
    name = f"{__name__}.kernels"
    if name in sys.modules or not (folder / "__init__.py").is_file():
        return
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    globals()["kernels"] = module


_find_kernels_of_a_checkout()


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ORIGINS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

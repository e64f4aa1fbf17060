"""Whether a run's object can be rendered here: the hash grids of latent-nerf and dream-fields are compiled code."""

from __future__ import annotations

import torch

from ... import _extension, _settings
from ...errors import UsageError, reason
from ...ops import extension
from .sections import HashGridOptions, TextTo3D

MEND = "docs/installation.md"


def check_renderer(configuration: TextTo3D, device: str | None = None) -> None:
    """Says before a model is loaded, or anything written, what a run would lack.

    Args:
        configuration: of the run.
        device: in place of the configuration's.

    Raises:
        UsageError: a hash grid without the compiled renderer; a GPU with one that was compiled
            without CUDA.
    """
    where = device or configuration.device
    on_gpu = where is not None and where.startswith("cuda") and torch.cuda.is_available()
    on_gpu = on_gpu and _settings.backend() != "reference"
    method = configuration.method
    hashed = isinstance(configuration.field, HashGridOptions)
    if not hashed and not on_gpu:
        return
    try:
        module = extension()
    except ImportError as error:
        again = "pip install . --force-reinstall --no-deps --no-build-isolation"
        raise UsageError(f"the compiled renderer does not load ({reason(error)}): {again} ({MEND})") from None
    if module is None:
        why = _extension.why_absent() or "it cannot be imported"
        needs = f"--method {method} needs the compiled renderer" + ("" if hashed else " on a GPU")
        other = "--method jacobian-nerf works without" if hashed else "--device cpu works without"
        raise UsageError(f"{needs}, which is missing: {why} ({MEND}); {other}")
    if on_gpu and module.build_info()["cuda"] is None:
        raise UsageError(
            f"--device {where}: the renderer was compiled without CUDA: install again with LDP_FAST_CUDA=1 ({MEND}), "
            "or use --device cpu"
        )

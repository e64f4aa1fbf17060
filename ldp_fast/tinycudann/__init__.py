"""tiny-cuda-nn's PyTorch modules for hosts that import it: `import ldp_fast.tinycudann as tcnn`.

`Encoding`, `Network` and `NetworkWithInputEncoding` take the same arguments and hold the same parameter vector, so that
a state dict of either loads in the other; they run on a CPU too, and need neither a GPU nor nvcc. `install()` makes
`import tinycudann` of a host find this package.

The vector holds the network's matrices first, each [out, in] row by row with its sizes padded up to 16, then the
encodings' tables, level after level. Padded inputs are what the encoding pads itself with (`encodings`), and have
weights; outputs beyond those asked for are dropped.

What differs:

* Arithmetic is float32 throughout; only the result is rounded to `dtype`. It is that of tiny-cuda-nn, float16, for
  parameters on CUDA, and float32 on a CPU, where halves are slow; ask for one with `module.output_dtype`.
  Gradients are float32, so that `loss_scale` has nothing to do; it is there to be read.
* Everything can be differentiated twice, by the parameters too.
* The same seed gives other numbers of the same distributions.
* The multilayer perceptron is plain torch, not fused.
"""

from __future__ import annotations

import gc
import sys
from types import ModuleType

from . import modules
from .modules import Encoding, Module, Network, NetworkWithInputEncoding
from .perceptron import ACTIVATIONS, NETWORKS

__all__ = [
    "ACTIVATIONS",
    "NETWORKS",
    "Encoding",
    "Module",
    "Network",
    "NetworkWithInputEncoding",
    "free_temporary_memory",
    "install",
    "supports_jit_fusion",
]


def supports_jit_fusion() -> bool:
    """False: nothing is compiled at run time."""
    return False


def free_temporary_memory() -> None:
    """Collects garbage. All memory is torch's own, so that there is no other to free."""
    gc.collect()


def install() -> ModuleType:
    """Makes `import tinycudann` find this package, also where the real one is installed. Call it before the host does.

    Returns:
        This package.
    """
    here = sys.modules[__name__]
    # Pickled modules name the file in which tiny-cuda-nn defines them.
    sys.modules["tinycudann"], sys.modules["tinycudann.modules"] = here, modules
    return here

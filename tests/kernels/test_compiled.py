"""Every kernel of the latent operators compiles for sm_80 and sm_90, with wide loads and without spills."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import pytest

from .machine_code import ARCHITECTURES, MachineCode, codes, compile_kernel, disassemble, needs_compiler

pytestmark = needs_compiler()

STREAM: dict[str, Any] = {"BLOCK": 1024}
HALVES_AND_SINGLES = ("fp16", "bf16", "fp32")
REDUCING = ("latent_kl", "score_distillation", "combine_gradients", "perp_neg_residual")


def pointers(*names: str, dtype: str) -> dict[str, str]:
    return {name: f"*{dtype}:16" for name in names}


def strides(*names: str) -> dict[str, str]:
    return {f"{name}_stride": "i32:16" for name in names}


def compiled(module: str, kernel: str, arguments: dict[str, Any], architecture: int, num_warps: int = 4) -> Any:
    of = importlib.import_module(f"ldp_fast.kernels.{module}")
    registers = of.registers_of(num_warps) if hasattr(of, "registers_of") else None
    return compile_kernel(getattr(of, kernel), arguments, architecture, num_warps=num_warps, maxnreg=registers)


def streaming(dtype: str) -> dict[str, tuple[str, str, dict[str, Any], int, int]]:
    """Name -> module, kernel, arguments, and how many tensors it reads and writes element by element."""
    size = {"size": "i32:16", "blocks": "i32", **STREAM}
    coefficients = pointers("alpha", "sigma", dtype="fp32")
    return {
        "perturb": (
            "perturb",
            "perturb_kernel",
            pointers("out", "latents", "noise", dtype=dtype)
            | coefficients
            | size
            | strides("out", "latents", "noise")
            | {"batch": "i32", "COPIES": 2},
            2,
            2,
        ),
        "guided_residual": (
            "guided_residual",
            "guided_residual_kernel",
            pointers("model_output", "noise", "noisy_latents", dtype=dtype)
            | pointers("out", "guidance_scale", dtype="fp32")
            | coefficients
            | size
            | strides("out", "model", "noise", "noisy")
            | {"batch": "i32", "GUIDED": True, "FROM_TEXT": False, "TEXT_FIRST": False}
            | {"PREDICTION": "v_prediction"},
            4,
            1,
        ),
        "perp_neg_residual": (
            "perp_neg_residual",
            "perp_neg_residual_kernel",
            pointers("model_output", "noise", "noisy_latents", dtype=dtype)
            | pointers("out", "projection", "negative_weights", "guidance_scale", dtype="fp32")
            | coefficients
            | size
            | strides("out", "model", "noise", "noisy")
            | {"batch": "i32", "COUNT": 2, "TEXT_FIRST": True, "BY_SAMPLE": False}
            | {"PREDICTION": "v_prediction"},
            6,
            1,
        ),
        "residual_latents": (
            "residual_latents",
            "residual_latents_kernel",
            pointers("out", "latents", dtype=dtype)
            | pointers("residual", dtype="fp32")
            | size
            | strides("out", "latents", "residual"),
            2,
            1,
        ),
        "residual_latents_backward": (
            "residual_latents",
            "residual_latents_backward_kernel",
            pointers("out", "grad", dtype=dtype) | pointers("alpha", dtype="fp32") | size | strides("out", "grad"),
            1,
            1,
        ),
        "latent_kl_backward": (
            "latent_kl",
            "latent_kl_backward_kernel",
            pointers("out", "latents", dtype=dtype)
            | pointers("grad", "mean", "variance", dtype="fp32")
            | size
            | strides("out", "latents")
            | {"ZERO": True},
            1,
            1,
        ),
        "score_distillation_backward": (
            "score_distillation",
            "score_distillation_backward_kernel",
            pointers("out", dtype=dtype)
            | pointers("residual", "grad", "weight", dtype="fp32")
            | size
            | strides("out", "residual")
            | {"ZERO": True},
            1,
            1,
        ),
    }


@functools.cache  # by all tests of one precision: those that follow each other
def streams(dtype: str, architecture: int) -> dict[str, MachineCode]:
    every = streaming(dtype).items()
    return codes({name: compiled(*how, architecture) for name, (*how, _reads, _writes) in every})


@pytest.mark.parametrize("name", sorted(streaming("fp32")))
@pytest.mark.parametrize("dtype", HALVES_AND_SINGLES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_streaming_kernels_use_wide_accesses_and_no_local_memory(name: str, dtype: str, architecture: int) -> None:
    *_, reads, writes = streaming(dtype)[name]
    code = streams(dtype, architecture)[name]
    assert code.local_accesses() == 0
    assert code.global_loads(128) >= reads, code.opcodes
    assert code.global_stores(128) >= writes, code.opcodes
    assert code.global_loads(16) == code.global_loads(8) == 0, code.opcodes


def reducing(module: str, dtype: str, block: int, whole: bool) -> tuple[str, dict[str, Any], int]:
    """Kernel, arguments, and how many tensors it reads element by element."""
    shape = {"size": "i32:16", "ZERO": True, "BLOCK": block}
    if module == "latent_kl":
        arguments = pointers("latents", dtype=dtype) | pointers("value", "mean", "variance", dtype="fp32")
        return (
            "latent_kl_kernel",
            arguments | pointers("count", dtype="i32") | strides("latents") | shape | {"WHOLE": whole},
            1,
        )
    if module == "score_distillation":
        arguments = pointers("residual", dtype=dtype) | pointers("value", "weight", dtype="fp32")
        return "score_distillation_kernel", arguments | pointers("count", dtype="i32") | strides("residual") | shape, 1
    if module == "perp_neg_residual":
        arguments = pointers("model_output", dtype=dtype) | pointers("projection", dtype="fp32") | strides("model")
        options = {"COUNT": 2, "TEXT_FIRST": True, "BY_SAMPLE": False, "CHUNK": min(block, 4096)}
        return "perp_neg_projection_kernel", arguments | {"size": "i32:16", "batch": "i32"} | options, 3
    arguments = pointers("latents", "grad_v", "grad_v_prime", dtype=dtype)
    arguments |= pointers("out", "residual", "values", "alpha", "weight", dtype="fp32") | pointers(
        "counts", dtype="i32"
    )
    arguments |= strides("out", "latents", "residual", "grad_v", "grad_v_prime") | shape
    for term in ("fm", "kl", "lsd"):
        arguments |= {f"lambda_{term}": "fp32", f"lambda_{term}_tensor": "*fp32:16"}
    return "combine_gradients_kernel", arguments | {
        "batch": "i32", "batch_scale": "fp32", "LITERAL": False, "WHOLE": whole, "CHUNK": 4096, "WIDE": True
    }, 4  # fmt: skip


WHOLE_AND_CHUNKS = {"whole": (16384, True), "chunks": (4096, False)}


@functools.cache
def reductions(dtype: str, architecture: int) -> dict[str, MachineCode]:
    binaries = {}
    for module in REDUCING:
        for way, options in WHOLE_AND_CHUNKS.items():
            kernel, arguments, _ = reducing(module, dtype, *options)
            binaries[f"{module} {way}"] = compiled(module, kernel, arguments, architecture, num_warps=16)
    return codes(binaries)


@pytest.mark.parametrize("module", REDUCING)
@pytest.mark.parametrize("way", WHOLE_AND_CHUNKS)
@pytest.mark.parametrize("dtype", ("fp16", "fp32"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reducing_kernels_keep_a_sample_in_registers(module: str, way: str, dtype: str, architecture: int) -> None:
    *_, reads = reducing(module, dtype, *WHOLE_AND_CHUNKS[way])
    code = reductions(dtype, architecture)[f"{module} {way}"]
    assert code.local_accesses() == 0, f"{code.local_accesses()} accesses of local memory: registers were spilled"
    assert code.global_loads(128) >= reads, code.opcodes
    assert code.global_loads(16) == code.global_loads(8) == 0, code.opcodes


def test_every_kernel_of_these_operators_is_compiled_here() -> None:
    """A new kernel cannot be forgotten: every jitted function with a name ending in `_kernel` is in the lists above."""
    modules = {module for module, *_ in streaming("fp32").values()} | {"latent_kl", "combine_gradients"}
    written = {
        name
        for m in modules
        for name in dir(importlib.import_module(f"ldp_fast.kernels.{m}"))
        if name.endswith("_kernel")
    }
    tested = {kernel for _, kernel, *_ in streaming("fp32").values()}
    tested |= {reducing(m, "fp32", 1, True)[0] for m in REDUCING}
    assert written == tested


def test_arguments_that_are_none_or_one_compile() -> None:
    """Triton makes compile-time constants of None and of the integer 1: a batch of one, a sample of one element."""
    ones, binaries = {"size": 1, "batch": 1, "blocks": 1}, {}
    for name, (module, kernel, arguments, *_) in streaming("fp32").items():
        changed = {key: 1 if key in ones or key.endswith("_stride") else value for key, value in arguments.items()}
        binaries[name] = compiled(module, kernel, changed, 90)
    for module in REDUCING:
        kernel, arguments, _ = reducing(module, "fp32", 128, True)
        changed = {name: 1 if name in ones or name.endswith("_stride") else value for name, value in arguments.items()}
        changed |= {
            name: None for name in arguments if name.startswith(("lambda", "grad_v")) and "*" in arguments[name]
        }
        changed |= {"CHUNK": 128} if "CHUNK" in arguments else {}
        binaries[f"{module}, reduced"] = compiled(module, kernel, changed, 90)
    _, kernel, arguments, *_ = streaming("fp32")["guided_residual"]
    none = {name: None for name in ("guidance_scale", "noisy_latents", "alpha", "sigma")}
    changed = arguments | none | {"GUIDED": False, "PREDICTION": "epsilon", "noisy_stride": "i32:16"}
    binaries["without"] = compiled("guided_residual", kernel, changed, 90)
    found = codes(binaries)
    assert len(found) == len(streaming("fp32")) + len(REDUCING) + 1 and all(code.opcodes for code in found.values())
    assert found["without"].global_loads(128) >= 2


def test_every_prediction_type_compiles() -> None:
    _, kernel, arguments, *_ = streaming("fp16")["guided_residual"]
    arguments = arguments | {"FROM_TEXT": True, "TEXT_FIRST": True}
    kinds = ("sample", "flow", "sigma")
    found = codes({kind: compiled("guided_residual", kernel, arguments | {"PREDICTION": kind}, 80) for kind in kinds})
    for kind, code in found.items():
        assert code.local_accesses() == 0 and code.global_stores(128) >= 1, kind


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_are_read_together_as_each_by_itself(architecture: int) -> None:
    every = streaming("fp16")
    binaries = {name: compiled(*every[name][:3], architecture) for name in ("latent_kl_backward", "perturb")}
    for name, code in codes(binaries).items():
        alone = MachineCode(name, architecture, disassemble(binaries[name].asm["cubin"]), code.shared)
        assert code.opcodes == alone.opcodes and sum(alone.opcodes.values()) > 50, name

"""Schemas, shape functions, autograd registrations, and which backend serves which tensor."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldp_fast import _settings, losses
from ldp_fast.ops import _library
from ldp_fast.reference.hash_grid import GridLayout
from ldp_fast.reference.latent_field import FieldArguments, FieldNetwork

from ..support import samples
from .common import interpreting

NAMES = (
    "perturb",
    "guided_residual",
    "perp_neg_residual",
    "residual_latents",
    "residual_latents_backward",
    "latent_kl",
    "latent_kl_backward",
    "score_distillation",
    "score_distillation_backward",
    "combine_gradients",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    for arguments in samples.argument_tuples(name, dtype=dtype):
        torch.library.opcheck(getattr(torch.ops.ldp_fast, name).default, arguments)


@pytest.mark.parametrize("name", NAMES)
def test_shape_functions_promise_the_real_strides(name: str) -> None:
    for arguments in samples.argument_tuples(name):
        results = getattr(torch.ops.ldp_fast, name)(*arguments)
        promised = _library.OPERATORS[name].fake(*arguments)
        pairs = zip(results, promised, strict=True) if isinstance(results, tuple) else [(results, promised)]
        for result, promise in pairs:
            assert (result.shape, result.stride(), result.dtype) == (promise.shape, promise.stride(), promise.dtype)


@pytest.mark.parametrize("name", sorted(_library.OPERATORS.keys() - set(NAMES)))
def test_every_other_operator_is_checked_in_a_file_of_its_own(name: str) -> None:
    """A new operator cannot be forgotten: it is listed above, or another file here puts it through opcheck."""
    others = set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)}
    texts = [file.read_text(encoding="utf-8") for file in others]
    assert any("opcheck" in text and re.search(rf"\b{name}\b", text) for text in texts)


@pytest.mark.parametrize("op", samples.OPERATORS)
def test_meta_tensors_have_shapes_only(op: str) -> None:
    inputs = samples.inputs(op)
    real = getattr(losses, op)(**inputs)
    meta = getattr(losses, op)(**samples.inputs(op, device="meta"))
    real, meta = (x[0] if isinstance(x, tuple) else x for x in (real, meta))
    assert meta.device.type == "meta" and (meta.shape, meta.dtype) == (real.shape, real.dtype)


def test_reloading_a_module_replaces_its_functions_and_registers_nothing_twice() -> None:
    from ldp_fast.ops import perturb

    before = dict(_library.OPERATORS)
    importlib.reload(_library)
    importlib.reload(perturb)
    assert _library.OPERATORS.keys() == before.keys()
    assert losses.perturb(**samples.perturb.inputs()).shape == (2, 4, 8, 8)


def test_another_schema_for_a_known_name_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="perturb: expected the schema it was defined with"):
        _library.define("perturb(Tensor x) -> Tensor")


@pytest.mark.parametrize(
    "setting, device, double, interpret, wanted",
    [
        ("auto", "cuda", False, "0", True),
        ("auto", "cpu", False, "0", False),
        ("auto", "cuda", True, "0", False),
        ("reference", "cuda", False, "0", False),
        ("triton", "cuda", False, "0", True),
        ("triton", "cpu", False, "1", True),
        ("triton", "cpu", True, "1", False),
        (" Triton ", "cuda", False, "0", True),
        ("", "cpu", False, "0", False),
    ],
)
def test_backend_by_setting_and_device(monkeypatch, setting, device, double, interpret, wanted) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", setting)
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    assert _settings.use_triton(device, double=double) is wanted


def test_an_unknown_backend_is_named(monkeypatch) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", "cuda")
    with pytest.raises(ValueError, match="LDP_FAST_BACKEND: expected one of auto, reference, triton, got 'cuda'"):
        losses.perturb(**samples.perturb.inputs())


def test_the_kernels_on_cpu_tensors_need_the_interpreter(monkeypatch) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="expected TRITON_INTERPRET=1"):
        losses.perturb(**samples.perturb.inputs())


@pytest.mark.parametrize("op", samples.OPERATORS)
def test_the_chosen_backend_is_the_one_that_runs(op: str, monkeypatch) -> None:
    """No silent fallback: with the kernels chosen the reference is not called, and the other way round."""
    name = op.removesuffix("_loss")
    operator = _library.OPERATORS[name]
    called: list[str] = []

    def spy(*arguments: object) -> object:
        called.append("reference")
        return original(*arguments)

    original = operator.reference
    monkeypatch.setattr(operator, "reference", spy)
    monkeypatch.setenv("LDP_FAST_BACKEND", "reference")
    getattr(losses, op)(**samples.inputs(op))
    assert called == ["reference"]
    if interpreting():
        monkeypatch.setenv("LDP_FAST_BACKEND", "triton")
        getattr(losses, op)(**samples.inputs(op))
        assert called == ["reference"]


def test_registering_imports_no_triton_and_asks_no_device() -> None:
    code = (
        "import sys, ldp_fast.ops, ldp_fast.losses, torch\n"
        "assert 'triton' not in sys.modules, 'triton was imported'\n"
        "assert not any(name.startswith('ldp_fast.kernels.') for name in sys.modules)\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


GRID_OPERATORS = [name for name in _library.OPERATORS if name.startswith(("hash_grid", "latent_field"))]


@pytest.mark.parametrize("name", GRID_OPERATORS)
def test_a_tuple_s_names_are_the_schema_s(name: str) -> None:
    """In their order and one after another: what is unpacked by name is what the operator was told."""
    told = [argument.name for argument in getattr(torch.ops.ldp_fast, name).default._schema.arguments]
    tuples = [GridLayout] if name.startswith("hash_grid") else [FieldNetwork]
    for kind in [GridLayout, FieldNetwork] if name == "latent_field" else tuples:
        first = told.index(kind._fields[0])
        assert tuple(told[first : first + len(kind._fields)]) == kind._fields


def test_the_field_s_arguments_are_unpacked_by_name_and_packed_again() -> None:
    told = [argument.name for argument in torch.ops.ldp_fast.latent_field.default._schema.arguments]
    arguments = FieldArguments.unpack(*told)
    assert arguments.pack() == tuple(told)
    flat = {**arguments._asdict(), **arguments.layout._asdict(), **arguments.network._asdict()}
    assert {"live": "count"} == {
        name: value for name, value in flat.items() if isinstance(value, str) and name != value
    }

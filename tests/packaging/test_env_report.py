"""`ldp-fast env` says what is there and, where something is not active, why; it never fails."""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import pytest
import torch

from ldp_fast import env_report
from ldp_fast.ops import _native


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("LDP_FAST_BACKEND", "LDP_FAST_LANES", "LDP_FAST_CONV", "LDP_FAST_ATTENTION")
    for name in (*settings, "TRITON_INTERPRET", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_the_report_is_plain_data_and_complete() -> None:
    report = json.loads(json.dumps(env_report.collect()))
    assert report.keys() == {"versions", "devices", "threads", "backends", "tools", "models"}
    assert report["versions"]["torch"] == torch.__version__ or report["versions"]["torch"] != env_report.ABSENT
    assert {"ldp_fast", "python", "os", "triton", "diffusers", "transformers", "tinycudann", "nerfacc", "numpy"} <= set(
        report["versions"]
    )
    assert report["devices"]["cpu"]["cores"] >= 1
    for name in ("reference", "triton", "extension", "winograd", "tinycudann"):
        assert isinstance(report["backends"][name]["active"], bool) and report["backends"][name]["why"]


def test_the_text_says_everything() -> None:
    report = env_report.collect()
    text = env_report.as_text(report)
    for section in report:
        assert f"\n{section}\n" in f"\n{text}\n"
    for name, version in report["versions"].items():
        assert any(line.split(maxsplit=1) == [name, version] for line in text.splitlines()), name
    assert report["backends"]["triton"]["why"] in text


def test_a_missing_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    found = env_report.triton("auto")
    assert not found["active"] and "cannot be imported" in found["why"]


@pytest.mark.parametrize(
    ("setting", "interpret", "gpu", "active", "why"),
    [
        ("auto", "0", False, False, "no GPU"),
        ("auto", "0", True, True, "serves CUDA tensors"),
        ("reference", "0", True, False, "LDP_FAST_BACKEND=reference"),
        ("triton", "1", False, True, "interpreter"),
        ("auto", "1", False, False, "interpreter"),
        (None, "0", True, False, "invalid"),
    ],
)
def test_why_triton_is_active_or_not(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, interpret: str, gpu: bool, active: bool, why: str
) -> None:
    monkeypatch.setitem(sys.modules, "triton", types.ModuleType("triton"))
    monkeypatch.setattr(env_report, "gpus", lambda: [{"name": "a GPU"}] if gpu else [])
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    found = env_report.triton(setting)
    assert found["active"] is active and why in found["why"]


def test_an_invalid_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", "quick")
    found = env_report.backends()
    assert "got 'quick'" in found["LDP_FAST_BACKEND"]
    assert not found["reference"]["active"] and not found["triton"]["active"]
    assert "got 'quick'" in env_report.as_text({"backends": found})


def test_invalid_lanes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_LANES", "32")
    found = env_report.backends()
    assert "got '32'" in found["LDP_FAST_LANES"]
    assert not found["winograd"]["active"] and found["winograd"]["why"].endswith("LDP_FAST_LANES is invalid")


def extension(monkeypatch: pytest.MonkeyPatch, **members: Any) -> dict[str, Any]:
    module = types.ModuleType("ldp_fast._C")
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, "ldp_fast._C", module)
    return env_report.extension()


def test_an_extension_that_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(env_report, "_torch", lambda: torch)
    monkeypatch.setattr(env_report.importlib, "import_module", missing)
    found = env_report.extension()
    assert not found["active"] and "not built" in found["why"]


def test_an_extension_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("undefined symbol: x")

    monkeypatch.setattr(env_report, "_torch", lambda: torch)
    monkeypatch.setattr(env_report.importlib, "import_module", broken)
    found = env_report.extension()
    assert not found["active"] and "undefined symbol: x" in found["why"]


def test_an_extension_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    found = extension(monkeypatch, build_info=lambda: {"cuda": None, "architectures": [], "compiler": "GCC"})
    assert found["active"] and found["why"].startswith("built without CUDA")
    assert "compiler GCC" in env_report.as_text({"backends": {"extension": found}})


@pytest.mark.parametrize(("lanes", "name"), [(16, "AVX-512"), (8, "AVX2"), (4, "plain vectors")])
def test_how_the_decoder_convolves_here(monkeypatch: pytest.MonkeyPatch, lanes: int, name: str) -> None:
    extension(monkeypatch, build_info=lambda: {"cuda": None, "architectures": []}, vector_lanes=lambda: lanes)
    found = env_report.winograd("auto")
    assert found["active"] and found["why"].endswith(f"{name}, {lanes} lanes")
    assert found["why"] in env_report.as_text({"backends": env_report.backends()})
    monkeypatch.setenv("LDP_FAST_CONV", "torch")
    assert not env_report.winograd("auto")["active"]
    monkeypatch.setenv("LDP_FAST_CONV", "fast")
    assert env_report.winograd("auto")["why"].endswith("LDP_FAST_CONV is invalid")
    monkeypatch.delenv("LDP_FAST_CONV")
    monkeypatch.setenv("LDP_FAST_LANES", "16")
    assert env_report.winograd("auto")["why"].endswith(f"{name}, {lanes} lanes (LDP_FAST_LANES=16)")


def test_how_the_decoder_attends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert env_report.backends()["LDP_FAST_ATTENTION"] == "auto"
    monkeypatch.setenv("LDP_FAST_ATTENTION", "flash")
    assert env_report.backends()["LDP_FAST_ATTENTION"].startswith("invalid: LDP_FAST_ATTENTION: expected one of auto")


def test_what_of_a_gpu_is_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    device = types.SimpleNamespace(name="a GPU", major=9, minor=0, total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    for names, said in (((), "nothing in TF32"), (("convolutions",), "convolutions in TF32")):
        monkeypatch.setattr(env_report, "in_tf32", lambda names=names: names)
        assert env_report.gpus()[0]["float32"] == said


def test_why_torch_convolves_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    extension(monkeypatch, build_info=lambda: {"cuda": None, "architectures": []})
    for setting, why in (
        ("reference", "LDP_FAST_BACKEND=reference"),
        (None, "LDP_FAST_BACKEND is invalid"),
        ("auto", "the extension is older than this package"),
    ):
        found = env_report.winograd(setting)
        assert not found["active"] and found["why"].endswith(f"on a CPU are torch's: {why}")
    monkeypatch.setattr(env_report, "extension", lambda: {"active": False, "why": "not built"})
    assert env_report.winograd("auto")["why"].endswith("torch's: the extension is not built")


@pytest.mark.skipif(_native.extension() is None, reason="needs the compiled extension")
def test_the_vectors_are_those_of_this_processor() -> None:
    """As torch finds them."""
    capability = torch.backends.cpu.get_cpu_capability()
    expected = {"AVX512": "AVX-512, 16 lanes", "AVX2": "AVX2, 8 lanes"}.get(capability, "lanes")
    assert env_report.winograd("auto")["why"].endswith(expected)


def test_an_extension_without_code_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_code(index: int) -> dict[str, int]:
        raise RuntimeError(f"device_code: no code for device {index}")

    monkeypatch.setattr(env_report, "gpus", lambda: [{}])
    built = {"build_info": lambda: {"cuda": "13.0", "architectures": ["8.0", "9.0"]}, "device_code": no_code}
    found = extension(monkeypatch, **built, has_current_stream=lambda: True)
    assert found["why"] == "built with CUDA 13.0 for 8.0, 9.0; device_code: no code for device 0"


def test_an_extension_that_does_not_find_torch_s_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_report, "gpus", lambda: [{}])
    built = {"build_info": lambda: {"cuda": "13.0", "architectures": ["9.0"]}, "device_code": lambda _: {"binary": 90}}
    found = extension(monkeypatch, **built, has_current_stream=lambda: False)
    assert "torch's current CUDA stream is not found" in found["why"]


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_report, "_torch", lambda: None)
    report = env_report.collect()
    assert report["devices"]["gpus"] == []
    assert report["backends"]["extension"] == {"active": False, "why": "torch is not installed"}
    assert env_report.as_text(report)


@pytest.mark.gpu
def test_gpus_are_listed() -> None:
    assert len(env_report.gpus()) == torch.cuda.device_count()
    assert env_report.triton("auto")["active"]

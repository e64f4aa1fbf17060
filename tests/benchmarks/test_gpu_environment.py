"""`make gpu`'s Python: one whose torch sees a GPU, nothing of it changed, and packages with or without an index."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks import lines
from benchmarks.gpu import environment


def test_a_python_is_asked_what_it_has() -> None:
    found = environment.probe(sys.executable, ["pytest>=8", "pytest>=999", "no-such-package"])
    assert found is not None and found["missing"] == ["pytest>=999", "no-such-package"]
    assert found["torch"] and found["packages"] and found["executable"] == sys.executable
    assert environment.probe("/no/such/python") is None


def test_the_first_that_sees_a_gpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pythons = {
        "a": None,
        "b": {"executable": "/b", "torch": None, "why": "No module named 'torch'"},
        "c": {"executable": "/c", "torch": "2.13.0+cpu", "cuda": None, "gpu": False},
        "d": {"executable": "/d", "torch": "2.11.0", "cuda": "13.0", "gpu": True},
    }
    monkeypatch.setattr(environment, "probe", pythons.__getitem__)
    assert environment.choose(list(pythons)) == ("/d", pythons["d"])
    with pytest.raises(environment.Unusable, match="found none: a does not run; b has no torch") as said:
        environment.choose(["a", "b", "c"])
    assert "c: torch 2.13.0+cpu, CUDA None, sees no GPU" in str(said.value)


def wheel(folder: Path, name: str, version: str) -> None:
    """A package of one module that knows its version."""
    folder.mkdir(exist_ok=True)
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


@pytest.mark.slow
def test_what_is_missing_comes_from_the_wheels_and_changes_nothing_beneath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Packages are asked for, six times, and torch is not, whose import takes longer than all the rest.
    line = "    import torch\n"
    assert line in environment.PROBE
    monkeypatch.setattr(environment, "PROBE", environment.PROBE.replace(line, "    raise ImportError\n"))
    found = environment.probe(sys.executable)
    assert found is not None
    packages = found["packages"]  # which a .pth file may have added to
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").write_text("half made: the run that made it was stopped")
    ours = environment.overlay(sys.executable, packages, tmp_path / "env")
    assert environment.overlay(sys.executable, packages, tmp_path / "env") == ours, "made once"
    wheel(tmp_path / "wheels", "ldp_made_up", "1.5")
    monkeypatch.setattr(environment, "NEEDED", ("pytest>=8", "ldp-made-up>=1.2"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody answers
    needed = environment.NEEDED
    probe = environment.probe
    monkeypatch.setattr(environment, "probe", lambda python, names=needed: probe(python, names))
    assert environment.install(ours, ["ldp-made-up>=1.2"], tmp_path / "wheels") == []
    text = "import importlib.util, ldp_made_up, pytest; torch = importlib.util.find_spec('torch')\n"
    text += "print(ldp_made_up.version, pytest.__file__, torch.origin)"
    done = subprocess.run([str(ours), "-c", text], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["1.5", pytest.__file__, torch.__file__], done.stderr
    assert subprocess.run([sys.executable, "-c", "import ldp_made_up"], capture_output=True).returncode == 1
    monkeypatch.setattr(environment, "probe", lambda python, names=("no-such-package",): probe(python, names))
    assert environment.install(ours, ["no-such-package"], tmp_path / "none") == ["no-such-package"]


def test_without_a_gpu_the_command_says_so_and_runs_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--python", "/no/such/python"]
    done = subprocess.run(command, cwd=environment.ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "found none: /no/such/python does not run" in done.stdout
    assert [line["stage"] for line in lines.read(tmp_path / "stages.jsonl")] == ["environment"]
    done = subprocess.run([*command, "--only", "everything"], cwd=environment.ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "--only: expected some of environment, build" in done.stderr


def test_a_wheel_says_which_package_it_is() -> None:
    assert environment.name_of(Path("importlib_metadata-9.0.0-py3-none-any.whl")) == "importlib-metadata"

"""The build's switches: what they accept, what they decide, and that required parts fail rather than go missing."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ldp_fast import env_report

from ..support import built, processes
from .installation import ROOT, copy_checkout, install, make_environment, refresh, run

SWITCHES = ("LDP_FAST_EXT", "LDP_FAST_CUDA", "MAX_JOBS", "NVCC_THREADS", "DEBUG", "CUDA_HOME", "CUDA_PATH", "CXX")


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, with none of its switches set, in the repository's root."""
    for name in (*SWITCHES, "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("setup_under_test", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "USUAL", ROOT / "no-toolkit")
    return module


@pytest.fixture
def no_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with the C++ compiler and without nvcc."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("c++", "g++", "cc", "gcc", "ld", "as", "ninja"):
        found = shutil.which(name)
        if found:
            (folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_setup_stays_short() -> None:
    assert len((ROOT / "setup.py").read_text().splitlines()) <= 155


def test_objects_are_kept_between_editable_builds(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """setuptools gives an editable build a folder that is gone afterwards: everything would be compiled again."""
    torch = pytest.importorskip("torch")
    from setuptools import Distribution
    from torch.utils import cpp_extension

    monkeypatch.setenv("LDP_FAST_CUDA", "0")
    command = setup.build_arguments()["cmdclass"]["build_ext"](Distribution())
    command.build_temp, folders = "gone-afterwards", []
    monkeypatch.setattr(cpp_extension.BuildExtension, "run", lambda self: folders.append(self.build_temp))
    command.run()
    assert folders == [f"build/{sys.implementation.cache_tag}-torch-{torch.__version__}"]


def test_metadata_needs_no_torch(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    python = make_environment(tmp_path / "environment")
    done = run([str(python), "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)], cwd=checkout)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ldp_fast.egg-info" / "PKG-INFO").is_file()


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("compute_75\ncompute_80\ncompute_90\ncompute_100\ncompute_120\ncompute_121\n", "8.0;9.0;12.0+PTX"),
        ("compute_75\ncompute_80\ncompute_86\ncompute_90\n", "8.0;9.0+PTX"),  # CUDA 12.6 does not know 12.0
        ("", "8.0+PTX"),
    ],
)
def test_default_architectures(setup: ModuleType, known: str, expected: str) -> None:
    assert setup.default_architectures(known) == expected


@pytest.mark.parametrize("value", ["yes", "2", "on"])
@pytest.mark.parametrize("name", ["LDP_FAST_CUDA", "LDP_FAST_EXT"])
def test_switches_are_checked(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"{name}: expected 0, 1 or auto, got '{value}'"):
        setup.build_arguments()


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_max_jobs_is_checked(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MAX_JOBS", value)
    with pytest.raises(SystemExit, match="MAX_JOBS: expected a number above 0"):
        setup.build_arguments()


def test_required_cuda_fails_without_nvcc(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, no_nvcc: Path) -> None:
    monkeypatch.setenv("LDP_FAST_CUDA", "1")
    with pytest.raises(
        SystemExit, match=r"LDP_FAST_CUDA=1: expected an nvcc in CUDA_HOME/bin, on the PATH or in .*, found none"
    ):
        setup.build_arguments()


def test_nvcc_is_found_where_packages_put_it(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, no_nvcc: Path, tmp_path: Path
) -> None:
    """A shell that is not a login shell often lacks the toolkit on its PATH."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    fake_nvcc(no_nvcc.parent / "bin")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.find_nvcc() is None
    monkeypatch.setattr(setup, "USUAL", tmp_path)
    assert setup.find_nvcc() == tmp_path / "bin" / "nvcc"


def test_the_report_finds_the_nvcc_that_a_build_takes(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, no_nvcc: Path, tmp_path: Path
) -> None:
    """The package has a function of its own, because setup.py is not there once it is installed."""
    monkeypatch.setattr(env_report, "USUAL", ROOT / "no-toolkit")
    assert env_report.find_nvcc() is setup.find_nvcc() is None
    places = [tmp_path / name for name in ("usual", "path", "second", "first")]
    for place in places:
        fake_nvcc(place / "bin")
    changes = (
        lambda: [monkeypatch.setattr(module, "USUAL", places[0]) for module in (setup, env_report)],
        lambda: monkeypatch.setenv("PATH", f"{no_nvcc}:{places[1] / 'bin'}"),
        lambda: monkeypatch.setenv("CUDA_PATH", str(places[2])),
        lambda: monkeypatch.setenv("CUDA_HOME", str(places[3])),
    )
    for change, place in zip(changes, places, strict=True):
        change()
        assert setup.find_nvcc() == Path(str(env_report.find_nvcc())) == place / "bin" / "nvcc"


def test_required_cuda_contradicts_no_extension(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_CUDA", "1")
    monkeypatch.setenv("LDP_FAST_EXT", "0")
    with pytest.raises(SystemExit, match="contradicts"):
        setup.build_arguments()


def test_auto_leaves_cuda_out_without_nvcc(setup: ModuleType, no_nvcc: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler")
    (module,) = setup.build_arguments()["ext_modules"]
    assert all(source.endswith(".cpp") for source in module.sources)
    assert ("USE_CUDA", None) not in module.define_macros
    assert "CUDA is left out" in capfd.readouterr().err


def test_no_compiler_leaves_the_extension_out(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.build_arguments() == {}
    monkeypatch.setenv("LDP_FAST_EXT", "1")
    with pytest.raises(SystemExit, match=r"LDP_FAST_EXT=1.*expected C\+\+ compiler, found none"):
        setup.build_arguments()


def fake_nvcc(folder: Path, release: str = "13.0") -> None:
    """An nvcc that answers what setup.py asks, and compiles nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    script = f'#!/bin/sh\ncase "$1" in\n--version) echo "release {release}, V";;\n--list-gpu-arch) echo compute_90;;\n'
    (folder / "nvcc").write_text(script + "*) exit 1;;\nesac\n")
    (folder / "nvcc").chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvcc is a shell script")
def test_nvcc_decides_and_no_gpu_does(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, no_nvcc: Path, tmp_path: Path
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("the build asked for a GPU"))
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", None)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")
    fake_nvcc(tmp_path / "toolkit" / "bin")
    monkeypatch.setenv("PATH", f"{no_nvcc}:/bin:/usr/bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setenv("NVCC_THREADS", "4")
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler")
    (module,) = setup.build_arguments()["ext_modules"]
    assert any(source.endswith(".cu") for source in module.sources)
    assert "--threads=4" in module.extra_compile_args["nvcc"]
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "9.0+PTX"
    assert torch.utils.cpp_extension.CUDA_HOME == str(tmp_path / "toolkit")


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvcc is a shell script")
@pytest.mark.parametrize("torch_cuda", ["12.8", "13.1", None])
def test_nvcc_of_another_generation(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, torch_cuda: str | None
) -> None:
    fake_nvcc(tmp_path / "bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("LDP_FAST_CUDA", "1")
    if torch_cuda == "12.8":
        with pytest.raises(SystemExit, match=r"LDP_FAST_CUDA=1: .*\(12.8\), got CUDA 13"):
            setup.usable_nvcc(torch_cuda)
        monkeypatch.setenv("LDP_FAST_CUDA", "auto")
        assert setup.usable_nvcc(torch_cuda) is None
    else:
        assert setup.usable_nvcc(torch_cuda) == tmp_path / "bin" / "nvcc"


def test_a_failed_requirement_fails_the_installation(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    python = make_environment(tmp_path / "environment")  # has no torch
    done = install(python, checkout, LDP_FAST_EXT="1")
    assert done.returncode != 0
    assert "LDP_FAST_EXT=1" in done.stdout + done.stderr
    done = install(python, checkout, LDP_FAST_EXT="auto", LDP_FAST_CUDA="auto")
    assert done.returncode == 0, done.stdout + done.stderr


def built_without_optimisation(folder: Path) -> Path:
    """What setup.py builds without CUDA: kept until something that it is made of, or with, changes."""
    import torch

    files = [ROOT / "setup.py", ROOT / "pyproject.toml", *sorted(x for x in (ROOT / "csrc").rglob("*") if x.is_file())]
    parts = [part for file in files for part in (str(file.relative_to(ROOT)), file.read_bytes())]
    compiler = run(["c++", "--version"], cwd=folder).stdout
    by = built.digest(compiler, torch.__version__, sys.version, str(os.environ.get("CXX")))
    key = built.digest(*parts, by)

    def make(path: Path) -> None:
        # Its objects are kept too, in one place: what has changed is compiled, and not the other files.
        with built.workshop("without-optimisation", by) as place:
            checkout = place / "checkout"
            refresh(checkout, copy_checkout(folder / "checkout"))
            command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", str(folder / "lib")]
            done = run(command, cwd=checkout, LDP_FAST_EXT="1", LDP_FAST_CUDA="0", DEBUG="1")
        assert done.returncode == 0, done.stdout + done.stderr
        (library,) = (folder / "lib" / "ldp_fast").glob("_C.*")
        shutil.copy(library, path)

    return built.kept("extension-without-optimisation", key, make)


def build_info_of(library: str) -> int:
    """Loads an extension; for a process of its own, which has no other."""
    import torch  # noqa: F401

    name = "_C"
    loader = importlib.machinery.ExtensionFileLoader(name, library)
    spec = importlib.util.spec_from_file_location(name, library, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    print(json.dumps(module.build_info()))
    return 0


def test_what_is_refreshed_is_what_has_changed(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, texts in (
        (old, {"same": "1", "other": "1", "gone": "1"}),
        (new, {"same": "1", "other": "2", "in/x": "3"}),
    ):
        for name, text in texts.items():
            (folder / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "csrc" / name).write_text(text)
    (old / "build").mkdir()
    (old / "build" / "object").write_text("kept")
    os.utime(old / "csrc" / "same", (1, 1))
    os.utime(new / "csrc" / "other", (1, 1))
    refresh(old, new)
    found = {str(x.relative_to(old)): x.read_text() for x in old.rglob("*") if x.is_file()}
    assert found == {"csrc/same": "1", "csrc/other": "2", "csrc/in/x": "3", "build/object": "kept"}
    # What a compiler has to look at again is newer than what it has made, whatever the file's own date.
    assert (old / "csrc" / "same").stat().st_mtime == 1 and (old / "csrc" / "other").stat().st_mtime > 1
    refresh(tmp_path / "none", new)
    assert (tmp_path / "none" / "csrc" / "in" / "x").read_text() == "3"


@pytest.mark.slow
def test_the_extension_builds_and_loads(tmp_path: Path) -> None:
    """Without optimisation, which takes most of a build: what it computes is tested with the one that is installed."""
    if not shutil.which("c++"):
        pytest.skip("no C++ compiler")
    done = processes.Started(build_info_of, str(built_without_optimisation(tmp_path))).wait()
    assert done.code == 0, done.err
    assert '"cuda": null' in done.out and '"torch_target": "2.10"' in done.out and '"debug": true' in done.out

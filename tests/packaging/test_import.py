"""`import ldp_fast` is quick, works everywhere and does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ldp_fast

from .installation import ROOT, run


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"], cwd=cwd)


def test_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("torch", "triton", "diffusers", "transformers", "numpy")
    done = python(f"import ldp_fast; print([m for m in {heavy} if m in sys.modules])", tmp_path)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_takes_less_than_a_second(tmp_path: Path) -> None:
    code = "import time; start = time.process_time(); import ldp_fast; print(time.process_time() - start)"
    done = python(code, tmp_path)
    assert float(done.stdout) < 1, done.stdout + done.stderr


def test_takes_less_than_a_second_beyond_torch_and_queries_no_device(tmp_path: Path) -> None:
    """The operators do, and load no other library; the rest that is imported without one queries no device either."""
    code = (
        "import time, torch, torch._dynamo\n"
        "def refuse(*args, **kwargs): raise AssertionError('a device was queried')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch.cuda.get_device_properties = refuse\n"
        "before, start = set(sys.modules), time.process_time()\n"
        "import ldp_fast.losses.functional\n"
        "print(time.process_time() - start)\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before}\n"
        "assert not new & {'triton', 'diffusers', 'transformers'}, new\n"
        "import ldp_fast.decoder, ldp_fast.guidance\n"
        "assert not torch.cuda.is_initialized()"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1, done.stdout + done.stderr


def test_works_with_a_broken_triton(tmp_path: Path) -> None:
    code = (
        "sys.modules['triton'] = None\nimport ldp_fast, ldp_fast.kernels, ldp_fast.losses.functional, ldp_fast.guidance"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ldp_fast.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(ldp_fast, name) is not None
    assert name in dir(ldp_fast)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ldp_fast.nothing


def test_the_version_is_the_distributions() -> None:
    import tomllib

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == ldp_fast.__version__

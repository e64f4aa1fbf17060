"""torchvision for the tests that need one, beside the environment: where torch is a CPU build it must not be in it.

PyPI's torchvision is compiled for PyPI's torch, which has CUDA. Beside a CPU build its library does not load, and then
neither torchvision nor what looks for it (transformers, diffusers) can be imported. Its Python works all the same once
the two operators exist whose shapes it registers when it is imported. So torchvision, and the packages that bring it,
are installed in a folder of their own, which only the process of `tests/with_torchvision` sees.

`python tests/support/torchvision.py` installs them there; `prepare()` makes them importable.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import subprocess
import sys

SIDE = pathlib.Path(sys.prefix) / "with_torchvision"
# Without what they require: torch is there, and torchvision has to be the one that was made for it.
PACKAGES = ("open_clip_torch>=3", "timm>=1", "ftfy", "wcwidth", "torch-fidelity>=0.4")
_kept: list[object] = []


def matching() -> str:
    """The requirement for the torchvision of the torch that is here: 0.28 for 2.13."""
    import torch

    minor = int(re.match(r"2\.(\d+)", torch.__version__).group(1))  # type: ignore[union-attr]
    return f"torchvision==0.{minor + 15}.*"


def _importable() -> bool:
    """Whether a child of this Python can import torchvision as it is."""
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0


def install() -> None:
    """Puts the packages into `SIDE`, once."""
    wanted = [*PACKAGES] if _importable() else [matching(), *PACKAGES]
    note = SIDE / "installed.txt"
    if note.is_file() and note.read_text() == "\n".join(wanted):
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "--no-deps", "--upgrade", "--target", str(SIDE), *wanted], check=True)
    note.write_text("\n".join(wanted))


def prepare() -> str:
    """Makes torchvision and the packages importable in this process.

    Returns:
        Why that cannot be; empty if it was done.
    """
    if not SIDE.is_dir():
        return f"{SIDE.name} is not in the environment: python tests/support/torchvision.py"
    sys.path.append(str(SIDE))
    beside = SIDE / "torchvision" / "_meta_registrations.py"
    if beside.is_file():
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in re.findall(r'register_fake\("torchvision::(\w+)"', beside.read_text()):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
    return "" if importlib.util.find_spec("torchvision") else "torchvision is not installed"


if __name__ == "__main__":
    install()

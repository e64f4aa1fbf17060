"""torch's settings for float32 and for algorithms: read by the package, never set; set by tests, and put back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldp_fast._precision import in_tf32

from ..support import gpu

ROOT = Path(__file__).parents[2]
BOTH = ["convolutions", "matrix products"]
# What a user may have set, with the older way, the newer one and both, and what is in TF32 then.
STATES = {
    "pass": BOTH[:1],
    "b.cudnn.allow_tf32 = False": [],
    "b.cuda.matmul.allow_tf32 = True": BOTH,
    "torch.set_float32_matmul_precision('high')": BOTH,
    "b.fp32_precision = 'ieee'": [],
    "b.fp32_precision = 'tf32'": BOTH,
    "b.cudnn.conv.fp32_precision = 'ieee'": [],
    "b.cudnn.allow_tf32 = False; b.cuda.matmul.fp32_precision = 'tf32'": BOTH[1:],
    "torch.set_float32_matmul_precision('high'); b.fp32_precision = 'ieee'; b.cuda.matmul.fp32_precision = 'ieee'": [],
}
ASK = """
import json, os, sys, torch
from ldp_fast._precision import in_tf32
b, found = torch.backends, {}
for state in json.loads(sys.argv[1]):  # none can be undone: each in a process of its own
    read, write = os.pipe()
    if not os.fork():
        try:
            exec(state)
            said = json.dumps(in_tf32())
        except Exception as error:
            said = json.dumps(repr(error))
        os.write(write, said.encode())
        os._exit(0)
    os.wait()
    found[state] = json.loads(os.read(read, 10000))
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process for each state")
def test_whatever_a_user_has_set_can_be_asked() -> None:
    """`allow_tf32` raises in some of these."""
    command = [sys.executable, "-c", ASK, json.dumps(list(STATES))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == STATES


def test_the_package_sets_none_of_them() -> None:
    statements = (
        r"^[^#\n`]*\b(allow_tf32|fp32_precision|cudnn\.deterministic|cudnn\.benchmark)\s*=[^=]",
        r"^\s*torch\.(set_float32_matmul_precision|use_deterministic_algorithms)\(",
    )
    setting = re.compile("|".join(statements), re.MULTILINE)
    files = [*(ROOT / "ldp_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    assert len(files) > 100
    for statement in ("torch.backends.cudnn.allow_tf32 = False", "    torch.use_deterministic_algorithms(True)"):
        assert setting.search(f"import torch\n{statement}\n")
    assert [str(file) for file in files if setting.search(file.read_text())] == []


def test_float32_is_float32_within_and_as_before_after() -> None:
    before = in_tf32()
    with pytest.raises(KeyError), gpu.full_float32():
        assert in_tf32() == ()
        raise KeyError
    assert in_tf32() == before and torch.backends.cudnn.allow_tf32 is ("convolutions" in before)


@pytest.mark.parametrize("warn_only", [False, True])
def test_algorithms_are_deterministic_within_and_as_before_after(warn_only: bool) -> None:
    def state() -> tuple[bool, ...]:
        enabled, warns = torch.are_deterministic_algorithms_enabled, torch.is_deterministic_algorithms_warn_only_enabled
        return enabled(), warns(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark

    first = state()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        before = state()
        with pytest.raises(KeyError), gpu.deterministic():
            assert state() == (True, False, True, False)
            raise KeyError
        assert state() == before
    finally:
        torch.use_deterministic_algorithms(first[0], warn_only=first[1])

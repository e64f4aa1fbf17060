"""Compiles Triton kernels for a GPU that need not be there, and reads the machine code.

`compile_kernel` takes a kernel and one value per argument, as a launcher would pass them, and asks Triton for the
binary of an architecture; `MachineCode` counts instructions in its disassembly (by Triton's own nvdisasm). `codes`
gives that of many at once: nvdisasm takes longer to begin than to disassemble a hundred kernels.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from ldp_fast.kernels._host import FUSED

ARCHITECTURES = (80, 90)

ALIGNED = [["tt.divisibility", 16]]

INSTRUCTION = 16  # bytes, from sm_70 on
LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Za-z0-9_.]+)", re.M)


def needs_compiler() -> pytest.MarkDecorator:
    """Returns a mark that skips where Triton cannot compile: not installed, or told to interpret."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return pytest.mark.skip(reason=f"Triton is not importable: {error}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        return pytest.mark.skip(reason="TRITON_INTERPRET is set: Triton interprets and does not compile")
    if sys.platform != "linux":
        return pytest.mark.skip(reason="Triton's disassembler comes with its Linux wheel only")
    return pytest.mark.filterwarnings("default")


@dataclass(frozen=True)
class MachineCode:
    """The disassembly of one kernel.

    Attributes:
        name: of the kernel.
        architecture: 80 for sm_80.
        sass: the disassembly.
        shared: bytes of shared memory.
    """

    name: str
    architecture: int
    sass: str
    shared: int

    @cached_property
    def opcodes(self) -> Counter[str]:
        """How often each instruction stands in the code, with its modifiers: `LDG.E.128`."""
        return Counter(opcode for _, opcode in LINE.findall(self.sass))

    def global_loads(self, bits: int | None = None) -> int:
        """Counts loads from global memory, of any width or of 128, 64, 32, 16 or 8 bits."""
        return self._count("LDG", bits)

    def global_stores(self, bits: int | None = None) -> int:
        """Counts stores to global memory, of any width or of 128, 64, 32, 16 or 8 bits."""
        return self._count("STG", bits)

    def local_accesses(self) -> int:
        """Counts accesses of local memory: spilled registers and arrays that did not fit."""
        return sum(count for opcode, count in self.opcodes.items() if opcode.split(".")[0] in ("LDL", "STL"))

    def _count(self, opcode: str, bits: int | None) -> int:
        return sum(
            n for name, n in self.opcodes.items() if name.split(".")[0] == opcode and bits in (None, _width(name))
        )


def _width(opcode: str) -> int:
    parts = opcode.split(".")
    for width in (128, 64):
        if str(width) in parts:
            return width
    narrow = {"U8": 8, "S8": 8, "U16": 16, "S16": 16}
    return next((narrow[part] for part in parts if part in narrow), 32)


def compile_kernel(
    kernel: Any,
    arguments: dict[str, Any],
    architecture: int,
    *,
    num_warps: int = 4,
    num_stages: int = 3,
    maxnreg: int | None = None,
) -> Any:
    """Compiles a kernel for an architecture and returns the binary, as Triton returns it.

    Args:
        kernel: a `@triton.jit` function.
        arguments: for every parameter a Triton type ("*fp16", "i32", "fp32"), with ":16" appended when pointer or
            integer is to be taken as a multiple of 16, as Triton does for such values at a launch; a tuple of these;
            or a constant (None included) where the parameter is a compile-time one.
        architecture: 80 for sm_80.
        num_warps: as in a launch.
        num_stages: as in a launch.
        maxnreg: as in a launch; None where it says nothing of registers.

    Raises:
        TypeError: a parameter without a value, or a value without a parameter.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if set(arguments) != set(kernel.arg_names):
        raise TypeError(f"{kernel.__name__}: expected values for {kernel.arg_names}, got {list(arguments)}")
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}

    def describe(value: Any, path: tuple[int, ...]) -> Any:
        if isinstance(value, tuple):
            return tuple(describe(part, (*path, index)) for index, part in enumerate(value))
        if isinstance(value, str) and re.fullmatch(r"(\*[a-z0-9]+|[iu]\d+|fp\d+|bf16)(:16)?", value):
            if value.endswith(":16"):
                attributes[path] = ALIGNED
            return value.removesuffix(":16")
        constants[path] = value
        return "constexpr"

    for index, name in enumerate(kernel.arg_names):
        signature[name] = describe(arguments[name], (index,))

    source = ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": num_warps, "num_stages": num_stages, **FUSED}
    options |= {} if maxnreg is None else {"maxnreg": maxnreg}
    return triton.compile(source, target=target, options=options)


def codes(binaries: Mapping[str, Any]) -> dict[str, MachineCode]:
    """Returns the machine code of binaries that Triton has made for one architecture.

    Args:
        binaries: by any names, which the result has too.
    """
    (architecture,) = {binary.metadata.target.arch for binary in binaries.values()}
    pieces = [instructions(binary.asm["cubin"]) for binary in binaries.values()]
    text = nvdisasm(b"".join(pieces), "-b", f"SM{architecture}", "-ndf")
    lines = [(int(line[1], 16), line.start()) for line in LINE.finditer(text)]
    if [address for address, _ in lines] != list(range(0, sum(map(len, pieces)), INSTRUCTION)):
        raise ValueError(f"nvdisasm: expected an instruction every {INSTRUCTION} bytes, got {len(lines)} lines")
    found, begin = {}, 0
    for (name, binary), piece in zip(binaries.items(), pieces, strict=True):
        end = begin + len(piece) // INSTRUCTION
        sass = text[lines[begin][1] : lines[end][1] if end < len(lines) else None]
        found[name] = MachineCode(name, architecture, sass, binary.metadata.shared)
        begin = end
    return found


def disassemble(cubin: bytes) -> str:
    """Returns the disassembly of all that is in a cubin, by section."""
    return nvdisasm(cubin, "-c", "-ndf")


def nvdisasm(image: bytes, *options: str) -> str:
    """Returns what the nvdisasm that comes with Triton's wheel prints of a file.

    With `-ndf` it leaves out its analysis of the data flow, which changes nothing of what is printed.
    """
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile() as file:
        file.write(image)
        file.flush()
        result = subprocess.run([str(tool), *options, file.name], capture_output=True, text=True, check=True)
    return result.stdout


def instructions(cubin: bytes) -> bytes:
    """Returns the machine code in a cubin, an ELF file of 64 bits: what its sections named .text hold."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    # Of each the place of its name, kind, flags, address, offset and length.
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + index * size) for index in range(count)]
    strings = sections[names][4]
    code = [section[4:6] for section in sections if cubin.startswith(b".text.", strings + section[0])]
    if not cubin.startswith(b"\x7fELF\x02\x01") or not code:
        raise ValueError("cubin: expected an ELF file of 64 bits with code")
    return b"".join(cubin[offset : offset + length] for offset, length in code)

"""Translates PTX, as nvcc writes it, to C++ for the harness of tests/cuda_on_cpu: a function for a kernel, a variable
for a register, a statement for an instruction. What the instructions mean stands in ptx_words.h. What is not known here
or there is refused, by a ValueError here or by the C++ compiler.

One thread is one fiber, as in the harness, so that nothing has to be known about divergence; barriers, shuffles, votes
and mma wait for the other lanes as the harness's do. Global memory is the driver's own, under AddressSanitizer.
"""

from __future__ import annotations

import math
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

REGISTERS = {
    "pred": "bool",
    "b16": "uint16_t",
    "f16": "uint16_t",
    "b32": "uint32_t",
    "b64": "uint64_t",
    "f32": "float",
    "f64": "double",
}
TYPES = {
    **{f"{kind}{bits}": f"uint{bits}_t" for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
    "f16": "Half",
    "tf32": "Tf32",
    "f32": "float",
    "f64": "double",
    "pred": "bool",
}
SPECIAL = {
    f"%{name}.{axis}": f"{of}.{axis}"
    for name, of in (("tid", "threadIdx"), ("ctaid", "blockIdx"), ("ntid", "blockDim"), ("nctaid", "gridDim"))
    for axis in "xyz"
} | {"%laneid": "static_cast<uint32_t>(::cuda_on_cpu::lane())"}
# Bytes of the whole numbers. From one to another C++ keeps the low bits, or extends, as `get` and `put` do; a compiler
# takes long to look those up tens of thousands of times.
WHOLE = {f"{sign}int{bits}_t": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)}
# Instructions whose result has the type that they name.
SAME = {"add", "sub", "mul", "mad", "fma", "div", "rem", "min", "max", "neg", "abs"}
SAME |= {"and", "or", "xor", "not", "shl", "shr", "selp", "bfi", "brev"}
# What C++ has an operator for, in types that it does not widen. Whole numbers wrap, so they are taken as unsigned ones.
ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "mul_lo": "*", "and": "&", "or": "|", "xor": "^"}
COMPARISONS = {"setp_eq": "==", "setp_lt": "<", "setp_le": "<=", "setp_gt": ">", "setp_ge": ">="}
UNSIGNED = {"int32_t": "uint32_t", "int64_t": "uint64_t"}
OPERATED = {*UNSIGNED, *UNSIGNED.values(), "float", "double", "bool"}
SPACES = ("global", "shared", "param")
# Hints and orders that change nothing for threads that take turns.
IGNORED = {"nc", "uni", "relaxed", "gpu", "aligned", "to", "L1::no_allocate"}
SHARED_WINDOW = 24


def demangle(names: list[str]) -> list[str]:
    """Names as C++ has them, without namespaces: "hash_grid_kernel<2, float>"."""
    tool = shutil.which("c++filt")
    if tool is None:
        raise FileNotFoundError("c++filt")
    text = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [_plain(line) for line in text.splitlines()]


def _plain(name: str) -> str:
    name = re.sub(r"(?:ldp|_GLOBAL__N__\w+|\(anonymous namespace\))::", "", name).removeprefix("void ")
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:at]
    return name


@dataclass
class Kernel:
    """One .entry of a PTX module."""

    name: str
    parameters: str
    body: str
    dynamic: list[str]  # module-wide arrays in dynamic shared memory
    offsets: dict[str, int] = field(default_factory=dict)
    windows: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)  # of registers, by their names in C++

    def code(self) -> str:
        """The C++ function and its registration, in the order that a compiler wants them."""
        bytes_ = self._lay_out_parameters()
        shared = re.findall(r"\.shared\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[(\d+)\];", self.body)
        sites = "\n".join(f"    static ::cuda_on_cpu::SharedSite site{i};" for i in range(len(shared)))
        places = [f"::cuda_on_cpu::static_shared(site{i}, {size})" for i, (_, size) in enumerate(shared)]
        places += ["::cuda_on_cpu::dynamic_shared()"] * len(self.dynamic)
        self.windows = {name: i + 1 for i, name in enumerate([*(n for n, _ in shared), *self.dynamic])}
        lines = [*self._registers(), *self._statements()]
        function = "kernel_" + re.sub(r"\W+", "_", self.name)
        return "\n".join(
            [
                # It touches registers alone, thousands that would each be guarded; memory is `load` and `store`'s.
                f"__attribute__((no_sanitize_address)) void {function}(const unsigned char* parameters) {{",
                "    (void)parameters;",
                sites,
                f"    void* const windows[] = {{nullptr, {', '.join(places)}}};",
                "    constexpr size_t kWindows = std::size(windows);",
                "    (void)windows;",
                *lines,
                "}",
                f'const Registration of_{function}("{self.name}", {bytes_}, &{function});\n',
            ]
        )

    def _lay_out_parameters(self) -> int:
        at = 0
        for align, kind, name, size in re.findall(
            r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", self.parameters
        ):
            width = int(re.sub(r"\D", "", kind)) // 8
            step = int(align or width)
            at = (at + step - 1) // step * step
            self.offsets[name] = at
            at += width * int(size or 1)
        return at

    def _registers(self) -> Iterator[str]:
        for kind, name, count in re.findall(r"\.reg\s+\.(\w+)\s+%(\w+)<(\d+)>;", self.body):
            self.types |= {f"{name}{i}": REGISTERS[kind] for i in range(int(count))}
            names = [f"{name}{i}{{}}" for i in range(int(count))]
            for i in range(0, len(names), 16):
                yield f"    {REGISTERS[kind]} {', '.join(names[i : i + 16])};"

    def _statements(self) -> Iterator[str]:
        text = re.sub(r"//.*", "", self.body)
        text = re.sub(r"\.reg\s+\.\w+\s+%\w+<\d+>;|\.shared\s+\.align[^;]*;|\.pragma[^;]*;", "", text)
        # Braces of inline assembly stand alone; those of vectors come within an instruction.
        for part in re.findall(r"\s*(\$?[\w$]+:(?!:)|[{}]|[^;{}\s][^;{}]*(?:\{[^{}]*\}[^;{}]*)*;)", text):
            part = part.strip()
            if part in "{}":
                yield part
            elif part.endswith(":"):
                yield f"{_label(part[:-1])}:;"
            elif part.startswith(".reg"):
                kind, names = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*);", part, re.S).groups()  # type: ignore[union-attr]
                self.types |= dict.fromkeys(_elements(names.replace("%", "")), REGISTERS[kind])
                yield f"{REGISTERS[kind]} {names.replace('%', '')};"
            else:
                yield self._instruction(part[:-1].strip())

    def _instruction(self, text: str) -> str:
        match = re.fullmatch(r"(?:@(!?)%(\w+)\s+)?([\w.:]+)\s*(.*)", text, re.S)
        if match is None:
            raise ValueError(f"{self.name}: not an instruction: {text}")
        negated, guard, opcode, rest = match.groups()
        head, *modifiers = opcode.split(".")
        modifiers = [m for m in modifiers if m not in IGNORED]
        operands = [o.strip() for o in re.findall(r"\s*(\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*)", rest) if o.strip()]
        try:
            statement = self._statement(head, modifiers, operands)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{self.name}: this PTX is not known: {text} ({error})") from error
        if guard:
            statement = f"if ({negated and '!'}{guard}) {{ {statement} }}"
        return f"    {statement}"

    def _statement(self, head: str, modifiers: list[str], operands: list[str]) -> str:
        special: dict[str, Callable[[list[str], list[str]], str]] = {
            "bra": lambda _, o: f"goto {_label(o[0])};",
            "ret": lambda _, o: "return;",
            "exit": lambda _, o: "return;",
            "ld": self._load,
            "st": self._store,
            "atom": self._atomic,
            "red": self._atomic,
            "mov": self._move,
            "cvta": self._address_conversion,
            "bar": self._barrier,
            "shfl": self._shuffle,
            "mma": self._mma,
        }
        if head in special:
            return special[head](modifiers, operands)
        kinds = [m for m in modifiers if m in TYPES]
        words = [m for m in modifiers if m not in TYPES]
        name = "_".join(["op", head, *words])
        target, *sources = operands
        if head == "cvt" and modifiers == ["rn", "f16x2", "f32"]:
            high, low = (f"op_cvt_rn<Half>({self._read(s, 'float')})" for s in sources)
            return f"put({self._register(target)}, pack<uint32_t>({low}, {high}));"
        if head == "cvt":
            to, source = TYPES[kinds[0]], TYPES[kinds[1]]
            return self._put(target, to, f"{name}<{to}>({self._read(sources[0], source)})")
        kind = TYPES[kinds[-1]]
        reads = [kind] * len(sources)
        if head in ("shl", "shr"):
            reads[1] = "uint32_t"
        if head == "selp":
            reads[2] = "bool"
        if head == "bfi":
            reads[2:] = ["uint32_t", "uint32_t"]
        if head == "mad" and "wide" in words:
            reads[2] = {"uint32_t": "uint64_t", "int32_t": "int64_t"}[kind]
        if head == "vote":
            reads = ["bool", "uint32_t"]
        values = ", ".join(self._read(s, k) for s, k in zip(sources, reads, strict=True))
        operator = "_".join([head, *words])
        if kind in OPERATED and operator in ARITHMETIC:
            kind = UNSIGNED.get(kind, kind)
            return self._put(target, kind, f" {ARITHMETIC[operator]} ".join(self._read(s, kind) for s in sources))
        if kind in OPERATED and operator in COMPARISONS:
            return self._put(target, "bool", f" {COMPARISONS[operator]} ".join(self._read(s, kind) for s in sources))
        result = "bool" if head == "setp" else kind if head in SAME and "wide" not in words else ""
        return self._put(target, result, f"{name}<{kind}>({values})")

    def _load(self, modifiers: list[str], operands: list[str]) -> str:
        kind, count = TYPES[modifiers[-1]], _vector(modifiers)
        names = _elements(operands[0])
        address = self._address(operands[1], modifiers)
        known = [m for m in modifiers[:-1] if m not in (*SPACES, "v2", "v4")]
        if known or len(names) != count:
            raise KeyError(*known)
        if count == 1:
            return self._put(names[0], kind, f"load<{kind}>({address})")
        puts = " ".join(self._put(n, kind, f"loaded[{i}]") for i, n in enumerate(names))
        return f"{{ const auto loaded = load<{kind}, {count}>({address}); {puts} }}"

    def _store(self, modifiers: list[str], operands: list[str]) -> str:
        kind, count = TYPES[modifiers[-1]], _vector(modifiers)
        names = _elements(operands[1])
        address = self._address(operands[0], modifiers)
        known = [m for m in modifiers[:-1] if m not in (*SPACES, "v2", "v4")]
        if known or len(names) != count:
            raise KeyError(*known)
        if count == 1:
            return f"store<{kind}>({address}, {self._read(names[0], kind)});"
        return f"store<{kind}, {count}>({address}, {{{', '.join(self._read(n, kind) for n in names)}}});"

    def _atomic(self, modifiers: list[str], operands: list[str]) -> str:
        (word,) = [m for m in modifiers[:-1] if m not in (*SPACES, "v2", "v4")]
        kind, count = TYPES[modifiers[-1]], _vector(modifiers)
        returned = _elements(operands.pop(0)) if not operands[0].startswith("[") else []
        address = self._address(operands[0], modifiers)
        values = ", ".join(self._read(n, kind) for n in _elements(operands[1]))
        puts = " ".join(f"put({self._register(n)}, old[{i}]);" for i, n in enumerate(returned))
        return f"{{ const auto old = atomic_{word}<{kind}, {count}>({address}, {{{values}}}); {puts} (void)old; }}"

    def _move(self, modifiers: list[str], operands: list[str]) -> str:
        kind = TYPES[modifiers[-1]]
        target, source = operands
        if target.startswith("{"):
            names = ", ".join(self._register(n) for n in _elements(target))
            return f"unpack({self._read(source, kind)}, {names});"
        if source.startswith("{"):
            names = ", ".join(self._register(n) for n in _elements(source))
            return f"put({self._register(target)}, pack<{kind}>({names}));"
        return self._put(target, kind, self._read(source, kind))

    def _address_conversion(self, modifiers: list[str], operands: list[str]) -> str:
        source = self._read(operands[1], "uint64_t")
        if modifiers == ["shared", "u64"]:
            source = f"reinterpret_cast<uint64_t>(in_shared(windows, kWindows, {source}))"
        elif modifiers not in (["global", "u64"], ["param", "u64"]):
            raise KeyError(*modifiers)
        return self._put(operands[0], "uint64_t", source)

    def _barrier(self, modifiers: list[str], operands: list[str]) -> str:
        if modifiers == ["warp", "sync"]:
            return f"__syncwarp({self._read(operands[0], 'uint32_t')});"
        if modifiers != ["sync"] or operands != ["0"]:
            raise KeyError("a barrier other than number 0, of the whole block")
        return "__syncthreads();"

    def _shuffle(self, modifiers: list[str], operands: list[str]) -> str:
        target, _, predicate = operands[0].partition("|")
        values = ", ".join(self._read(o, "uint32_t") for o in operands[1:])
        there = f"&{self._register(predicate)}" if predicate else "nullptr"
        if modifiers[0] != "sync" or modifiers[2:] != ["b32"]:
            raise KeyError(*modifiers)
        return self._put(target, "uint32_t", f"op_shfl_{modifiers[1]}({there}, {values})")

    def _mma(self, modifiers: list[str], operands: list[str]) -> str:
        name = "mma_" + "_".join(m for m in modifiers if m != "sync")
        to, a, b, c = (_elements(o) for o in operands)
        lists = [
            "{" + ", ".join(self._read(n, kind) for n in names) + "}"
            for names, kind in ((a, "uint32_t"), (b, "uint32_t"), (c, "float"))
        ]
        puts = " ".join(self._put(n, "float", f"sums[{i}]") for i, n in enumerate(to))
        return f"{{ const auto sums = {name}({', '.join(lists)}); {puts} }}"

    def _address(self, operand: str, modifiers: list[str]) -> str:
        match = re.fullmatch(r"\[([%\w$]+)(?:([+-]+)(\d+))?\]", operand)
        if match is None:
            raise KeyError(f"not an address: {operand}")
        base, sign, offset = match.groups()
        steps = int(offset or 0) * (-1 if sign and "-" in sign else 1)
        if "shared" in modifiers:
            return f"in_shared(windows, kWindows, {self._read(base, 'uint32_t')} + uint32_t({steps}))"
        return f"reinterpret_cast<unsigned char*>({self._read(base, 'uint64_t')} + uint64_t({steps}))"

    def _register(self, name: str) -> str:
        name = name.strip()
        if name in SPECIAL or not re.fullmatch(r"%?\w+", name):
            raise KeyError(f"not a register: {name}")
        return name.removeprefix("%")

    def _put(self, name: str, kind: str, value: str) -> str:
        register = self._register(name)
        has = self.types.get(register)
        plain = has == kind or (has in WHOLE and kind in WHOLE)
        return f"{register} = {value};" if plain else f"put({register}, {value});"

    def _read(self, operand: str, kind: str) -> str:
        operand = operand.strip()
        if operand in SPECIAL:
            return f"get<{kind}>({SPECIAL[operand]})"
        if operand in self.offsets:
            return f"reinterpret_cast<uint64_t>(parameters + {self.offsets[operand]})"
        if operand in self.windows:
            return f"{kind}({self.windows[operand]}u << {SHARED_WINDOW})"
        if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", operand):
            (value,) = struct.unpack(">f", bytes.fromhex(match[1]))
            if kind == "float" and math.isfinite(value):
                return f"{value.hex()}f"
            return f"get<{kind}>(uint32_t(0x{match[1]}u))"
        if match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", operand):
            return f"get<{kind}>(uint64_t(0x{match[1]}ull))"
        if re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+", operand):
            return f"static_cast<{kind}>({operand}ll)" if int(operand, 0) < 2**63 else f"{kind}({operand}ull)"
        negated = "!" * operand.startswith("!")
        register = self._register(operand.removeprefix("!"))
        has = self.types.get(register, "")
        if has == kind:
            return f"{negated}{register}"
        narrows = WHOLE.get(kind, 9) <= WHOLE.get(has, 0)
        return f"{negated}{kind}({register})" if narrows else f"{negated}get<{kind}>({register})"


def _label(name: str) -> str:
    return name.strip().replace("$", "L")


def _vector(modifiers: list[str]) -> int:
    return next((int(m[1]) for m in modifiers if m in ("v2", "v4")), 1)


def _elements(operand: str) -> list[str]:
    return [part.strip() for part in operand.strip("{} \n\t").split(",")]


def kernels(ptx: str) -> list[Kernel]:
    """The kernels of a module, as nvcc -ptx writes it."""
    dynamic = re.findall(r"^\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[\];", ptx, re.M)
    found = re.findall(r"^\s*(?:\.visible\s+)?\.entry\s+([\w$]+)\((.*?)^\)(.*?)^\{$(.*?)^\}$", ptx, re.S | re.M)
    names = demangle([name for name, *_ in found])
    return [
        Kernel(name, parameters, body, dynamic) for name, (_, parameters, _, body) in zip(names, found, strict=True)
    ]


def translate(ptx: str, wanted: str) -> str:
    """A C++ file with the kernels whose names match a regular expression, at least one."""
    chosen = [kernel for kernel in kernels(ptx) if re.search(wanted, kernel.name)]
    if not chosen:
        raise ValueError(f"expected a kernel named {wanted}, got {sorted(k.name for k in kernels(ptx))}")
    code = [kernel.code() for kernel in chosen]
    return "\n".join(['#include "ptx_words.h"\n', "using namespace ptx;\n", "namespace {\n", *code, "}  // namespace"])

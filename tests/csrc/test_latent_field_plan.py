"""What of the field's backward lies in shared memory, and how many of its blocks a multiprocessor really holds."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import pytest

from ..cuda_on_cpu import harness
from ..cuda_on_cpu.sass import ARCHITECTURES, machine_code

DRIVER = harness.ROOT / "tests" / "csrc" / "latent_field_plan_driver.cpp"
KIB = 1024
DEFAULT, WITH_BIASES = (32, 64, 2, 4, 0), (32, 64, 2, 4, 1)  # encoding, hidden, layers, channels, bias
NETWORKS = list(itertools.product((1, 32, 128), (16, 64, 128), (1, 2, 4), (1, 15), (0, 1)))


@dataclass(frozen=True)
class Multiprocessor:
    """CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; memory in bytes."""

    shared: int
    shared_of_block: int
    warps: int
    registers: int = 65536
    reserved: int = 1 * KIB

    def holds(self, warps: int, shared: int, registers: int) -> int:
        """Blocks at once: registers are given out in 256 a warp, shared memory in 128 bytes."""
        of_warp = -(-registers * 32 // 256) * 256
        of_block = -(-(shared + self.reserved) // 128) * 128
        return min(self.registers // (of_warp * warps), self.shared // of_block, self.warps // warps)


KNOWN = {
    80: Multiprocessor(164 * KIB, 163 * KIB, 64),
    90: Multiprocessor(228 * KIB, 227 * KIB, 64),
    120: Multiprocessor(100 * KIB, 99 * KIB, 48),
}


@dataclass(frozen=True)
class Plan:
    blocks: int
    warps: int
    bytes: int
    weights: bool
    sums: bool
    pack: int


def printed(network: tuple[int, ...], architecture: int, samples: int = 1) -> list[int]:
    environment = {"LDP_CUDA_DEVICE": f"sm_{architecture}"}
    numbers = harness.check(DRIVER, (), *map(str, (*network, samples)), environment=environment)
    return [int(number) for number in numbers.split()]


def plan(network: tuple[int, ...], architecture: int) -> Plan:
    blocks, warps, size, weights, sums, pack = printed(network, architecture)[:6]
    return Plan(blocks, warps, size, bool(weights), bool(sums), pack)


def registers(architecture: int) -> int:
    """Of the greediest instance of the kernel. The machine keeps two beside those that instructions name."""
    kernels = machine_code(harness.CSRC / "latent_field" / "latent_field_bwd.cu", architecture).named(
        "field_backward_kernel"
    )
    return max(int(number) for kernel in kernels for number in re.findall(r"\bR(\d+)\b", kernel.sass)) + 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_room_for_biases_that_there_are_not(architecture: int) -> None:
    assert plan(DEFAULT, architecture).pack == 64 * 40 + 64 * 72 + 8 * 72
    assert plan(WITH_BIASES, architecture).pack == 64 * 40 + 64 * 72 + 8 * 72 + 64 + 64 + 8


@pytest.mark.parametrize(
    "network, architecture, expected",
    [
        (DEFAULT, 90, Plan(2, 4, 115200, True, True, 7744)),  # 112.5 KiB
        (DEFAULT, 80, Plan(1, 8, 137472, True, False, 7744)),
        (DEFAULT, 120, Plan(1, 4, 84224, True, False, 7744)),
        (WITH_BIASES, 90, Plan(1, 8, 169536, True, True, 7880)),
    ],
)
def test_plans(network: tuple[int, ...], architecture: int, expected: Plan) -> None:
    assert plan(network, architecture) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_as_many_blocks_are_resident_as_were_planned(architecture: int) -> None:
    of, used = KNOWN[architecture], registers(architecture)
    for network in NETWORKS:
        planned = plan(network, architecture)
        assert planned.bytes <= of.shared_of_block
        assert of.holds(planned.warps, planned.bytes, used) >= planned.blocks, (network, planned)


@pytest.mark.parametrize("network, blocks, warps", [(DEFAULT, 2, 4), (WITH_BIASES, 1, 8)], ids=["default", "biased"])
@pytest.mark.parametrize("samples", [0, 1, 65, 10**6])
def test_the_workspace_is_what_the_plan_needs(network: tuple[int, ...], blocks: int, warps: int, samples: int) -> None:
    """The packed weights, with slots for biases where there are any, and as much again for each block that starts."""
    pack, multiprocessors, forward, backward = printed(network, 90, samples)[5:]
    assert forward == pack
    started = min(blocks * multiprocessors, max(1, -(-samples // (16 * warps))))
    assert backward == pack * (1 + started)

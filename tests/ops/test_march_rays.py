"""march_rays: the samples of rays, the same ones on every backend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldp_fast import reference
from ldp_fast.ops import _library, _native
from ldp_fast.reference.occupancy import Grid, morton

from ..support import samples
from .common import NoSync, bitwise_equal, guarded

march_rays = torch.ops.ldp_fast.march_rays
NAMES = ("positions", "distances", "steps", "ray_offsets", "counts")

INPUTS = st.fixed_dictionaries(
    {
        "rays": st.integers(0, 70),
        "box": st.sampled_from([samples.occupancy.BOX, samples.occupancy.UNEVEN_BOX]),
        "resolution": st.sampled_from([4, 8, 32]),
        "cascades": st.integers(1, 4),
        "share": st.sampled_from([None, 0.0, 0.05, 0.5, 1.0]),
        "near": st.sampled_from([0.0, 0.1, 3.0]),
        "far": st.sampled_from([math.inf, 4.0]),
        "step": st.floats(0.01, 3.0),
        "cone_angle": st.sampled_from([0.0, 0.004, 0.1]),
        "max_step": st.sampled_from([3.5, math.inf]),
        "jitter": st.booleans(),
        "capacity": st.integers(1, 6000),
        "seed": st.integers(-(2**31), 2**31),
    }
)


def made(options: dict[str, Any]) -> dict[str, Any]:
    return samples.march_rays.inputs(**options | {"seed": abs(options["seed"])}) | {
        "seed": torch.tensor([options["seed"]])
    }


def rays_of(offsets: Tensor) -> Tensor:
    """The ray of every sample."""
    return torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())


@pytest.mark.skipif(_native.extension() is None, reason="the extension was not built: there is no other backend")
@given(options=INPUTS)
@settings(deadline=None, max_examples=60)
def test_native_has_the_bits_of_the_reference(options: dict[str, Any]) -> None:
    inputs = made(options)
    for name, ours, wanted in zip(NAMES, march_rays(**inputs), reference.march_rays(**inputs), strict=True):
        assert bitwise_equal(ours, wanted), name


@given(options=INPUTS)
@settings(deadline=None, max_examples=40)
def test_samples_are_what_is_promised(options: dict[str, Any]) -> None:
    inputs = made(options)
    positions, t, dt, offsets, counts = march_rays(**inputs)
    written, required, capacity = int(counts[0]), int(counts[1]), inputs["capacity"]
    assert written == min(required, capacity) and offsets[0] == 0 and offsets[-1] == written
    assert (offsets.diff() >= 0).all()
    assert all((x[written:] == 0).all() for x in (positions, t, dt))

    positions, t, dt, ray = positions[:written], t[:written], dt[:written], rays_of(offsets)
    assert positions.isfinite().all() and t.isfinite().all()
    lower, upper = torch.tensor(inputs["box"][:3]), torch.tensor(inputs["box"][3:])
    assert ((positions >= lower) & (positions <= upper)).all()
    assert ((t >= inputs["near"]) & (t < inputs["far"])).all()
    on_ray = inputs["origins"][ray] + t[:, None] * inputs["directions"][ray]
    assert torch.allclose(on_ray, positions, atol=1e-5)
    assert (t.diff()[ray.diff() == 0] > 0).all(), "not sorted along a ray"
    assert ((dt >= np.float32(inputs["step"])) & (dt <= max(np.float32(inputs["step"]), inputs["max_step"]))).all()
    if inputs["cone_angle"] == 0:
        same = ray.diff() == 0
        apart = t.diff()[same].double() / float(np.float32(inputs["step"]))
        assert torch.allclose(apart, apart.round(), atol=1e-2), "not on the lattice"
    if inputs["bits"] is not None:
        grid = Grid.of(inputs["box"], inputs["resolution"], inputs["cascades"], positions)
        cells = grid.cells(positions)
        assert (inputs["bits"][cells >> 3] >> (cells & 7).to(torch.uint8) & 1).all(), "a sample in an empty cell"


@pytest.mark.parametrize("cone_angle", [0.0, 0.02])
@pytest.mark.parametrize("cascades", [1, 3])
def test_skipping_is_filtering(cone_angle: float, cascades: int) -> None:
    """What is skipped moves no sample: the march through bits is the march through everything, filtered."""
    inputs = samples.march_rays.inputs(cone_angle=cone_angle, cascades=cascades, capacity=9000)
    everything = march_rays(**inputs | {"bits": None})
    positions, t, dt = (x[: int(everything[4][0])] for x in everything[:3])
    cells = Grid.of(samples.occupancy.BOX, 16, cascades, positions).cells(positions)
    keep = (inputs["bits"][cells >> 3] >> (cells & 7).to(torch.uint8) & 1).bool()
    filtered = march_rays(**inputs)
    assert 0 < int(filtered[4][0]) == int(keep.sum()) < len(keep)
    for ours, wanted in zip(filtered, (positions[keep], t[keep], dt[keep]), strict=False):
        assert torch.equal(ours[: len(wanted)], wanted)
    assert torch.equal(rays_of(filtered[3]), rays_of(everything[3])[keep])


def test_cells_inside_a_finer_cascade_are_never_asked() -> None:
    inputs = samples.march_rays.inputs(cascades=3, share=0.4, capacity=9000)
    index = torch.arange(16)
    inner = (index >= 4) & (index < 12)
    x, y, z = torch.meshgrid(index, index, index, indexing="ij")
    nested = (inner[x] & inner[y] & inner[z]).reshape(-1)
    codes = morton(torch.stack([x, y, z], -1).reshape(-1, 3))[nested]
    changed = inputs["bits"].clone()
    for cascade in (1, 2):
        for cell in (cascade * 16**3 + codes).tolist():
            changed[cell >> 3] ^= 1 << (cell & 7)
    assert not torch.equal(changed, inputs["bits"])
    for ours, wanted in zip(march_rays(**inputs | {"bits": changed}), march_rays(**inputs), strict=True):
        assert torch.equal(ours, wanted)
    assert not torch.equal(march_rays(**inputs | {"bits": ~inputs["bits"]})[3], march_rays(**inputs)[3])


def one_ray(**options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = samples.march_rays.inputs(1, share=None, jitter=False, step=0.5, near=0.0, capacity=8)
    inputs |= {"origins": torch.tensor([[0.25, 0.0, 3.0]]), "directions": torch.tensor([[0.0, 0.0, -1.0]])}
    return march_rays(**inputs | options)


def test_a_known_ray() -> None:
    positions, t, dt, offsets, counts = one_ray()
    assert t.tolist() == [2.25, 2.75, 3.25, 3.75, 0, 0, 0, 0]
    assert dt.tolist() == [0.5] * 4 + [0.0] * 4
    assert positions[:4].tolist() == [[0.25, 0.0, z] for z in (0.75, 0.25, -0.25, -0.75)]
    assert offsets.tolist() == [0, 4] and counts.tolist() == [4, 4]


def test_a_known_cone() -> None:
    """dt(2) = 0.5 before the first sample; then a quarter of t, up to 0.625."""
    _, t, dt, _, counts = one_ray(cone_angle=0.25, max_step=0.625)
    assert t[:4].tolist() == [2.25, 2.8125, 3.4375, 0.0] and dt[:3].tolist() == [0.5625, 0.625, 0.625]
    assert counts.tolist() == [3, 3]


def test_a_known_cell() -> None:
    """The sample at (0.25, 0, 0.75) of 4³ cells of length ½: cell (2, 2, 3), Morton 0b111100 = 60."""
    bits = torch.zeros(8, dtype=torch.uint8)
    bits[7] = 1 << 4
    assert one_ray(bits=bits, resolution=4)[1].tolist() == [2.25] + [0.0] * 7
    bits[7] = 0xFF - (1 << 4)  # all of its neighbours in the byte, (2, 2, 2) below it among them
    assert one_ray(bits=bits, resolution=4)[1].tolist() == [2.75] + [0.0] * 7


@pytest.mark.parametrize("near, far, wanted", [(2.5, math.inf, [2.75, 3.25, 3.75]), (0.0, 3.0, [2.25, 2.75])])
def test_near_and_far(near: float, far: float, wanted: list[float]) -> None:
    assert one_ray(near=near, far=far)[1].tolist() == wanted + [0.0] * (8 - len(wanted))


@pytest.mark.parametrize(
    "origin, direction",
    [
        ([0.0, 0.0, 3.0], [0.0, 0.0, 1.0]),  # behind
        ([1.5, 0.0, 3.0], [0.0, 0.0, -1.0]),  # beside, parallel to two faces
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),  # at rest
        ([math.nan, 0.0, 3.0], [0.0, 0.0, -1.0]),
        ([0.0, 0.0, 3.0], [0.0, math.inf, -1.0]),
    ],
)
def test_rays_without_samples(origin: list[float], direction: list[float]) -> None:
    assert one_ray(origins=torch.tensor([origin]), directions=torch.tensor([direction]))[4].tolist() == [0, 0]


def test_a_ray_along_a_face_and_one_from_inside() -> None:
    assert one_ray(origins=torch.tensor([[1.0, 0.0, 3.0]]))[4].tolist() == [4, 4]
    assert one_ray(origins=torch.tensor([[0.0, 0.0, 0.0]]))[1][:3].tolist() == [0.25, 0.75, 0.0]


def test_a_direction_near_zero_ends() -> None:
    """Its lattice would go on for ever: it ends after 2²⁰ points, on every backend."""
    inputs = {"directions": torch.tensor([[0.0, 0.0, -1e-30]]), "origins": torch.tensor([[0.25, 0.0, 0.5]])}
    assert one_ray(**inputs)[4].tolist() == [8, 2**20]


def test_overflow_drops_the_last_samples_and_says_so() -> None:
    inputs = samples.march_rays.inputs(capacity=9000)
    whole = march_rays(**inputs)
    required = int(whole[4][1])
    for capacity in (1, required // 2, required - 1, required, required + 1):
        cut = march_rays(**inputs | {"capacity": capacity})
        kept = min(capacity, required)
        assert cut[4].tolist() == [kept, required]
        assert torch.equal(cut[3], whole[3].clamp(max=capacity))
        for ours, wanted in zip(cut[:3], whole[:3], strict=True):
            assert torch.equal(ours[:kept], wanted[:kept])


def test_jitter_moves_rays_apart_and_repeats_by_seed() -> None:
    inputs = samples.march_rays.inputs(64, share=None)
    still = march_rays(**inputs | {"jitter": False})
    first, again = march_rays(**inputs), march_rays(**inputs)
    other = march_rays(**inputs | {"seed": torch.tensor([1])})
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    starts = [x[1][x[3][:-1][x[3].diff() > 0]] for x in (still, first, other)]
    hit = still[3].diff() > 0
    for a, b in ((0, 1), (1, 2)):
        if len(starts[a]) == len(starts[b]):
            assert (starts[a] != starts[b]).float().mean() > 0.9
    shift = (first[1][first[3][:-1][hit]] - still[1][still[3][:-1][hit]]) / 0.06
    assert (shift.abs() <= 0.5001).all() and shift.std() > 0.2


@pytest.mark.parametrize("share", [None, 0.3])
def test_opcheck(share: float | None) -> None:
    inputs = samples.march_rays.inputs(share=share)
    torch.library.opcheck(march_rays.default, tuple(inputs.values()))
    results, promised = march_rays(**inputs), _library.OPERATORS["march_rays"].fake(**inputs)
    for result, promise in zip(results, promised, strict=True):
        assert (result.shape, result.stride(), result.dtype) == (promise.shape, promise.stride(), promise.dtype)


def test_every_element_is_written_and_nothing_else() -> None:
    if _native.extension() is None:
        pytest.skip("the extension was not built")
    inputs = samples.march_rays.inputs()
    outputs = _library.OPERATORS["march_rays"].fake(**inputs)
    made_outputs = [guarded(tuple(x.shape), x.dtype, "cpu") for x in outputs]
    native = _library.OPERATORS["march_rays"].native
    assert native is not None
    native(*(x for x, _ in made_outputs), **inputs)
    for _, check in made_outputs:
        check()


def test_nothing_reads_a_value() -> None:
    if _native.extension() is None:
        pytest.skip("the extension was not built, and the reference reads values")
    with NoSync():
        march_rays(**samples.march_rays.inputs())


def test_a_gradient_is_refused() -> None:
    inputs = samples.march_rays.inputs(share=None)
    positions = march_rays(**inputs | {"origins": inputs["origins"].requires_grad_()})[0]
    with pytest.raises(RuntimeError, match="march_rays: expected no backward"):
        positions.sum().backward()


def test_float64_takes_the_reference() -> None:
    inputs = samples.march_rays.inputs(share=None)
    double = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in inputs.items()}
    positions = march_rays(**double)[0]
    assert positions.dtype == torch.float64
    assert abs(int(march_rays(**double)[4][1]) - int(march_rays(**inputs)[4][1])) < 10


@pytest.mark.skipif(_native.extension() is None, reason="the extension was not built")
@pytest.mark.parametrize(
    "change, message",
    [
        ({"capacity": 0}, "march_rays: capacity: expected at least 1, got 0"),
        ({"box": samples.occupancy.BOX[:5]}, "box: expected 6 numbers"),
        ({"box": [1.0, -1.0, -1.0, -1.0, 1.0, 1.0]}, "box: expected an upper corner above the lower one"),
        ({"box": [-math.inf, *samples.occupancy.BOX[1:]]}, "box: expected finite numbers"),
        ({"resolution": 100}, "resolution: expected a power of two from 4 to 1024, got 100"),
        ({"cascades": 9}, "cascades: expected 1 to 8, got 9"),
        ({"near": -1.0}, "near: expected a finite number of at least 0"),
        ({"far": 0.01}, "far: expected a number above near"),
        ({"step": 0.0}, "step: expected a finite number above 0"),
        ({"step": 1e-7}, "step: expected less than 1048576 steps along the box's diagonal"),
        ({"cone_angle": math.nan}, "cone_angle: expected a finite number"),
        ({"cone_angle": 0.1, "max_step": 0.01}, "max_step: expected at least step"),
        ({"directions": torch.zeros(36, 3)}, r"directions: expected shape \[37, 3\], got \[36, 3\]"),
        ({"origins": torch.zeros(37, 2)}, r"origins: expected shape \[37, 3\]"),
        ({"bits": torch.zeros(3, dtype=torch.uint8)}, r"bits: expected shape \[512\], got \[3\]"),
        ({"bits": torch.zeros(512)}, "bits: expected uint8"),
        ({"seed": torch.zeros(1)}, "seed: expected int64"),
        ({"directions": torch.ones(37, 6)[:, ::2]}, "directions: expected a contiguous tensor"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        march_rays(**samples.march_rays.inputs() | change)


@pytest.mark.gpu
@pytest.mark.parametrize("rays", [0, 1, 4096, 5000])
@pytest.mark.parametrize("cone_angle", [0.0, 0.01])
@pytest.mark.parametrize("share", [None, 0.2])
def test_the_gpu_has_the_bits_of_the_cpu(rays: int, cone_angle: float, share: float | None) -> None:
    options: dict[str, Any] = {"cone_angle": cone_angle, "share": share, "resolution": 64, "step": 0.01}
    for cascades, capacity in ((1, 200_000), (3, 10_000)):
        inputs = samples.march_rays.inputs(rays, cascades=cascades, capacity=capacity, **options)
        on_gpu = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in inputs.items()}
        for name, ours, wanted in zip(NAMES, march_rays(**on_gpu), march_rays(**inputs), strict=True):
            assert bitwise_equal(ours.cpu(), wanted), name


@pytest.mark.gpu
def test_nothing_synchronises_and_a_captured_graph_follows_its_seed() -> None:
    inputs = samples.march_rays.inputs(4096, device="cuda", capacity=400_000)
    march_rays(**inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        march_rays(**inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = march_rays(**inputs)
    inputs["seed"].fill_(5)
    inputs["bits"].copy_(samples.occupancy.bits(16**3, 0.6, seed=9))
    graph.replay()
    for ours, wanted in zip(captured, march_rays(**inputs), strict=True):
        assert torch.equal(ours, wanted)

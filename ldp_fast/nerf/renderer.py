"""The renderer: cameras in, latents out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..ops import outside_graphs
from .cameras import Cameras
from .compositing import Composited, composite_with_regularisers
from .marching import RaySamples, check_box, check_far, march_rays
from .occupancy import OccupancyGrid

OVERFLOWS = ("error", "report")
Background = Tensor | nn.Module | Callable[[Tensor, int, int], Tensor]


class SampleOverflow(RuntimeError):
    """More samples than the buffers hold: far samples of the last rays are missing from the picture."""


@dataclass(frozen=True)
class RenderStatistics:
    """What a rendering needed; it lies on the device, and reading it waits for the device.

    Attributes:
        counts: [2] int64: samples written, samples there were.
        capacity: samples the buffers held.
        rays: number of rays.
    """

    counts: Tensor
    capacity: int
    rays: int

    @property
    def overflowed(self) -> Tensor:
        """[] bool on the device: whether samples are missing."""
        return self.counts[1] > self.capacity

    def check(self) -> None:
        """Waits for the counts.

        Raises:
            SampleOverflow: samples are missing; says how many the buffers should hold.
        """
        if not self.counts.is_meta:
            raise_overflow(int(self.counts[1]), self.capacity, self.rays)


def raise_overflow(required: int, capacity: int, rays: int) -> None:
    """Raises SampleOverflow if more was required than there was room for."""
    if required > capacity:
        raise SampleOverflow(
            f"LatentRenderer: max_samples: expected at least {required} for these {rays} rays, got {capacity}; "
            f"raise it, or lower steps_per_ray, the resolution or the number of views, or update the occupancy grid"
        )


@dataclass(frozen=True)
class RenderOutput:
    """What was rendered.

    Attributes:
        latents: [V, C, H, W] with the background.
        opacity: [V, 1, H, W] in [0, 1].
        depth: [V, 1, H, W] Σ w·distance, world units; not divided by the opacity.
        statistics: counts of samples.
        distortion: [V, 1, H, W], per ray (see `composite_with_regularisers`).
        emptiness: [V, 1, H, W], per ray.
        weights: [M] of the packed samples.
        samples: the packed samples themselves.
        normals: [V, 3, H, W] Σ w·normal in world coordinates, if asked for; without gradients.
    """

    latents: Tensor
    opacity: Tensor
    depth: Tensor
    statistics: RenderStatistics
    distortion: Tensor
    emptiness: Tensor
    weights: Tensor
    samples: RaySamples
    normals: Tensor | None = None


class LatentRenderer(nn.Module):
    """Renders a field: rays are marched through occupied space, the field is evaluated at the samples and composited.

    Args:
        field: positions [M, 3], count -> density [M], channels [M, C]: LatentField, VoxelField, or a module of yours
            (with an attribute `bound`, or give `box`).
        occupancy: skips empty space; its `update` is the caller's to call.
        background: None (zero), a tensor [C] or [V, C, H, W] (a parameter is trained), or a module of
            `ldp_fast.nerf.background`: directions [R, 3], height, width -> [R, C].
        max_samples: capacity of the sample buffers; by default rays × (steps_per_ray + 1), which cannot overflow.
        steps_per_ray: a step is the box's diagonal over this, so that no ray has more samples.
        near, far: distances between which to march, in world units.
        cone_angle: steps grow with the distance by this factor; 0: they do not.
        early_stop: transmittance at which a ray ends; 0: never.
        emptiness_scale: of the emptiness regulariser.
        jitter: shift the samples of each ray at random. None: while training.
        box: minimum and maximum of the marched space, six numbers; the field's [−bound, bound]³ by default.
        overflow: "error": raise SampleOverflow when samples do not fit — at once on a CPU; on a GPU, which is not
            waited for, at a later call, when the count has arrived. Replays of a captured graph run no Python: ask
            `statistics.check()` after them. "report": leave it to `statistics`.

    Raises:
        ValueError: an argument out of range, an inverted box.

    Examples:
        A field from three sides; the prior's loss would stand where the mean stands:

        >>> from ldp_fast.nerf import Cameras, HashGrid, LatentField, LatentRenderer
        >>> field = LatentField(HashGrid(log2_table_size=12), channels=4)
        >>> renderer = LatentRenderer(field, steps_per_ray=32)
        >>> out = renderer(Cameras.orbit(azimuth=[0.0, 120.0, 240.0]), height=8, width=8)
        >>> out.latents.shape, out.opacity.shape
        (torch.Size([3, 4, 8, 8]), torch.Size([3, 1, 8, 8]))
        >>> out.latents.square().mean().backward()
        >>> bool(field.grid.table.grad.any())
        True
    """

    def __init__(
        self,
        field: nn.Module,
        occupancy: OccupancyGrid | None = None,
        background: Background | None = None,
        max_samples: int | None = None,
        *,
        steps_per_ray: int = 256,
        near: float = 0.0,
        far: float = math.inf,
        cone_angle: float = 0.0,
        early_stop: float = 1e-4,
        emptiness_scale: float = 10.0,
        jitter: bool | None = None,
        box: Sequence[float] | None = None,
        overflow: str = "error",
    ):
        super().__init__()
        name = "LatentRenderer"
        self.field, self.occupancy = field, occupancy
        self.background: Any
        if occupancy is not None and not isinstance(occupancy, OccupancyGrid):
            checks.fail(name, "occupancy", "an OccupancyGrid or None", type(occupancy).__name__, TypeError)
        if isinstance(background, Tensor) and not isinstance(background, nn.Parameter):
            self.register_buffer("background", background)
        elif background is None or isinstance(background, Tensor) or callable(background):
            self.background = background  # a parameter is trained
        else:
            checks.fail(name, "background", "None, a tensor or a module", type(background).__name__, TypeError)
        self.max_samples = None if max_samples is None else checks.whole(name, "max_samples", max_samples, 1)
        self.steps_per_ray = checks.whole(name, "steps_per_ray", steps_per_ray, 1)
        self.near = checks.number(name, "near", near, 0.0)
        self.far = check_far(name, far, self.near)
        self.cone_angle = checks.number(name, "cone_angle", cone_angle, 0.0)
        self.early_stop = checks.number(name, "early_stop", early_stop, 0.0)
        self.emptiness_scale = checks.number(name, "emptiness_scale", emptiness_scale, 0.0)
        if jitter not in (None, True, False):
            checks.fail(name, "jitter", "True, False or None", repr(jitter))
        self.jitter = jitter
        if box is None and not hasattr(field, "bound"):
            checks.fail(name, "box", "six numbers for a field without an attribute `bound`", "None")
        bound = getattr(field, "bound", 0.0)
        self.box = check_box(name, [-bound] * 3 + [bound] * 3 if box is None else box)
        if occupancy is not None and occupancy.box != self.box:
            checks.fail(name, "occupancy", f"a grid of the box {self.box}", f"one of {occupancy.box}")
        self.overflow = checks.choice(name, "overflow", overflow, OVERFLOWS)
        self._awaited: deque[tuple[Tensor, torch.cuda.Event, int, int]] = deque()

    @property
    def step(self) -> float:
        """The (smallest) length of a step, in world units."""
        return math.dist(self.box[:3], self.box[3:]) / self.steps_per_ray

    def forward(
        self,
        cameras: Cameras,
        height: int = 64,
        width: int = 64,
        *,
        seed: int | Tensor = 0,
        background: Tensor | None = None,
        normals: bool = False,
    ) -> RenderOutput:
        """Renders V views.

        Args:
            cameras: V of them, on the field's device.
            height, width: of the picture in pixels (of latents).
            seed: of the jitter: a number, or an int64 tensor [1] on the device.
            background: instead of the renderer's own: [C] or [V, C, H, W].
            normals: whether to render normals too (one more pass over the field).

        Returns:
            RenderOutput. Gradients go to the field's and the background's parameters.

        Raises:
            SampleOverflow: `max_samples` is too small (see `overflow`).
            TypeError, ValueError: cameras or a background of another dtype, shape or device.
        """
        if not isinstance(cameras, Cameras):
            checks.fail("LatentRenderer", "cameras", "Cameras", type(cameras).__name__, TypeError)
        self._report_awaited(cameras.poses.device)
        origins, directions = cameras.rays(height, width)
        rays, like = len(origins), next(self.field.parameters(), origins)
        if like.device != origins.device:
            checks.fail(
                "LatentRenderer", "cameras", f"cameras on the field's device, {like.device}", f"on {origins.device}"
            )
        capacity = self.max_samples or max(rays * (self.steps_per_ray + 1), 1)
        samples = march_rays(
            origins.float(),
            directions.float(),
            capacity=capacity,
            step=self.step,
            box=self.box,
            occupancy=self.occupancy,
            near=self.near,
            far=self.far,
            cone_angle=self.cone_angle,
            jitter=self.training if self.jitter is None else self.jitter,
            seed=seed,
        )
        statistics = RenderStatistics(samples.counts, capacity, rays)
        self._watch(statistics)
        if samples.counts.device.type == "cpu" and not torch.compiler.is_compiling():
            samples = samples.cut(int(samples.counts[0]))  # no padding is carried along where nothing waits for a count
        positions = samples.positions.to(like.dtype)
        density, values = self.field(positions, samples.counts[:1])
        result = composite_with_regularisers(
            density,
            values,
            samples.distances.to(density.dtype),
            samples.steps.to(density.dtype),
            samples.ray_offsets,
            background=self._background(directions, height, width, values, background),
            early_stop=self.early_stop,
            emptiness_scale=self.emptiness_scale,
        )
        turned = self._normals(positions, samples, result) if normals else None
        return _pictures(result, turned, (len(cameras), height, width), statistics, samples)

    def _background(
        self, directions: Tensor, height: int, width: int, values: Tensor, given: Tensor | None
    ) -> Tensor | None:
        behind: Any = self.background if given is None else given
        if behind is None:
            return None
        if not isinstance(behind, Tensor):
            behind = behind(directions.to(values.dtype), height, width)
        elif behind.dim() == 4:
            views, channels = len(directions) // (height * width), values.shape[1]
            if behind.shape != (views, channels, height, width):
                want = f"shape [C] or [{views}, {channels}, {height}, {width}]"
                checks.fail("LatentRenderer", "background", want, checks.shape_text(behind))
            behind = behind.permute(0, 2, 3, 1).reshape(-1, channels)
        return behind.to(values.dtype)

    def _normals(self, positions: Tensor, samples: RaySamples, result: Composited) -> Tensor:
        if not hasattr(self.field, "normals"):
            checks.fail("LatentRenderer", "normals", "a field with a method `normals`", type(self.field).__name__)
        vectors = self.field.normals(positions)  # type: ignore[operator]
        weights = result.weights.detach()
        rays = torch.arange(len(samples.ray_offsets) - 1, device=positions.device)
        # Padding has weight zero, so that it may go to any ray.
        sample = torch.arange(len(positions), device=positions.device)
        ray = (torch.searchsorted(samples.ray_offsets, sample, right=True) - 1).clamp(0, max(len(rays) - 1, 0))
        return vectors.new_zeros(len(rays), 3).index_add_(0, ray, weights[:, None] * vectors)

    def _watch(self, statistics: RenderStatistics) -> None:
        if self.overflow == "error" and self.max_samples is not None:
            self._check_or_await(statistics)

    # A compiled graph breaks here rather than dropping samples silently.
    @outside_graphs
    def _check_or_await(self, statistics: RenderStatistics) -> None:
        counts = statistics.counts
        if counts.device.type == "cpu":
            statistics.check()
        elif counts.is_cuda:
            # Events and captures are the current device's, which need not be the tensors'.
            with torch.cuda.device(counts.device):
                if torch.cuda.is_current_stream_capturing():
                    return
                copied = counts.new_empty(2, device="cpu", pin_memory=True).copy_(counts, non_blocking=True)
                event = torch.cuda.Event()
                event.record()
            self._awaited.append((copied, event, statistics.capacity, statistics.rays))

    def _report_awaited(self, device: torch.device) -> None:
        if not self._awaited or torch.compiler.is_compiling():
            return
        with torch.cuda.device(device):
            if torch.cuda.is_current_stream_capturing():
                return  # an event must not be asked then
        while self._awaited and self._awaited[0][1].query():
            copied, _, capacity, rays = self._awaited.popleft()
            raise_overflow(int(copied[1]), capacity, rays)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_awaited": deque()}

    def extra_repr(self) -> str:
        limit = "rays × steps" if self.max_samples is None else self.max_samples
        return f"steps_per_ray={self.steps_per_ray}, max_samples={limit}, early_stop={self.early_stop:g}"


def _pictures(
    result: Composited,
    normals: Tensor | None,
    size: tuple[int, int, int],
    statistics: RenderStatistics,
    samples: RaySamples,
) -> RenderOutput:
    def picture(values: Tensor) -> Tensor:
        return values.view(*size, values.shape[1] if values.dim() == 2 else 1).permute(0, 3, 1, 2).contiguous()

    return RenderOutput(
        latents=picture(result.values),
        opacity=picture(result.opacity),
        depth=picture(result.depth),
        statistics=statistics,
        distortion=picture(result.distortion),
        emptiness=picture(result.emptiness),
        weights=result.weights,
        samples=samples,
        normals=None if normals is None else picture(normals),
    )

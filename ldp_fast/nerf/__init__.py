"""The renderer of text-to-3D: fields, rays and compositing, from cameras to latents.

Letters: S samples in space (M in the marcher's buffers), R rays, V views, C channels, L levels, F features of a level.
Positions are world coordinates in [−bound, bound]³, except for `HashGrid`, whose box is [0, 1]³.
"""

from .background import ConstantBackground, DirectionalBackground, LearnedBackground
from .cameras import Cameras
from .compositing import Composited, composite, composite_with_regularisers
from .fields import Blob, LatentField
from .hash_grid import HashGrid
from .marching import RaySamples, march_rays
from .occupancy import OccupancyGrid
from .optimiser import FusedAdam
from .renderer import LatentRenderer, RenderOutput, RenderStatistics, SampleOverflow
from .voxel_field import VoxelField

__all__ = [
    "Blob",
    "Cameras",
    "Composited",
    "ConstantBackground",
    "DirectionalBackground",
    "FusedAdam",
    "HashGrid",
    "LatentField",
    "LatentRenderer",
    "LearnedBackground",
    "OccupancyGrid",
    "RaySamples",
    "RenderOutput",
    "RenderStatistics",
    "SampleOverflow",
    "VoxelField",
    "composite",
    "composite_with_regularisers",
    "march_rays",
]

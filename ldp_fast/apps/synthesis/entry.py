"""Image synthesis, as sweeps and evaluations know it: its picture is what a metric sees."""

from __future__ import annotations

from typing import Any

from ...errors import UsageError
from ..entry import Entry
from . import jobs
from .configuration import NAME, Synthesis
from .expected import check_fits
from .run import APPLICATION


def described(configuration: Synthesis) -> dict[str, Any]:
    """The run's plain settings, with `prompt`, `method` and `seed` among them.

    Raises:
        UsageError: it has several prompts or seeds, whose pictures are not told apart by a folder.
    """
    plain = configuration.plain()
    prompts, seeds = plain.pop("prompts"), plain.pop("seeds")
    if len(prompts) != 1 or len(seeds) != 1:
        raise UsageError(
            "a run of synthesize is measured if it has one prompt and one seed, as those of a sweep have; of others "
            "give their images/, which is a folder of pictures"
        )
    return {"prompt": prompts[0], "seed": seeds[0], "method": NAME, **plain}


ENTRY = Entry(APPLICATION, jobs.add_arguments, jobs.plan, described, check_fits=check_fits)

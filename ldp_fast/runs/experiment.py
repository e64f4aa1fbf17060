"""What an application is to the loop: a configuration, an experiment, and a list of products."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .configuration import Configuration, read_yaml
from .expectation import Expectation
from .flags import from_file

Part = Callable[[str], contextlib.AbstractContextManager[None]]
# Each makes files of a finished run, and returns them.
Products = Mapping[str, Callable[[], list[pathlib.Path]]]


@contextlib.contextmanager
def untimed(_: str) -> Iterator[None]:
    """Stands where a profile would take the time of a part."""
    yield


def as_subject(names: Sequence[str], plural: Sequence[str] = ()) -> list[str]:
    """Names as the beginning of one sentence, as `Experiment.not_finite` returns it: `lsd and the latents are`.

    Args:
        names: of what is not finite.
        plural: those of them that stand for several things.

    Returns:
        One text, none where there are no names.
    """
    if not names:
        return []
    *before, last = names
    if before:
        return [f"{', '.join(before)} and {last} are"]
    return [f"{last} {'are' if last in plural else 'is'}"]


class Experiment(Protocol):
    """What is optimised, step after step. What a step draws depends on the configuration and the step alone.

    Attributes:
        device: where it is computed.
        losses: names in `latest` that the log shows as losses.
        shown: of those, what the progress bar shows; when one of them is not finite, the run has diverged.
    """

    @property
    def device(self) -> torch.device:
        """See above."""

    @property
    def losses(self) -> tuple[str, ...]:
        """See above."""

    @property
    def shown(self) -> tuple[str, ...]:
        """See above."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def total(self) -> int:
        """Steps there are."""

    def advance(self, part: Part = untimed) -> None:
        """One step.

        Args:
            part: a context manager that is entered with the name of each part of the step, for a profile.
        """

    def latest(self) -> dict[str, float]:
        """What the last step recorded; reading it may wait for the device."""

    def weights(self) -> dict[str, float]:
        """Weights of this moment, for the log: `lambda_…`, `weight_…`."""

    def state(self) -> dict[str, Tensor]:
        """All that the next step and `latest` depend on, on the CPU; the parameters first of all."""

    def facts(self) -> dict[str, str]:
        """More of that state, as words."""

    def load_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Goes on from `state` and `facts`; `facts["step"]` is the step.

        Raises:
            ValueError: they do not fit; nothing is changed then.
            UsageError: they fit, and what the user has given beside them does not; nothing is changed then.
        """

    def about(self) -> dict[str, Any]:
        """What the run's record says besides, such as the guidance scale that the model chose."""

    def not_finite(self) -> list[str]:
        """What is not finite of that which a checkpoint would keep; empty where all is well.

        Each as the beginning of a sentence, such as `the colours are`; see `as_subject` for several.

        Raises:
            FloatingPointError: something is, and the usual advice, a lower learning rate, would not help; says what is.
        """

    def preview(self) -> Tensor:
        """What there is to see now, [3, H, W] in [0, 1]."""

    def products(self, folder: pathlib.Path) -> Products:
        """What is made of it at the end, by names such as `pictures`, `film`, `mesh`."""


@dataclasses.dataclass(frozen=True)
class Application:
    """A command whose runs the loop carries out.

    Attributes:
        name: the command's, such as `text-to-3d`.
        class_of: the class of the configuration that plain settings make.
        begin: an experiment from a configuration; `device=`, `rank=` and `world=` are this process's.
        result: the file one looks at first.
        essential: of the products those without which a run is not finished, each with a file that it leaves. What
            else cannot be made is left out.
        labels: of a profile's parts, such as `optimiser`, for people.
        networks: attaches a `Profile` to an experiment's networks.
        shares: how many processes can share a step, and the flag that says so.
        to_lower: flags that lower the memory.
        command: what starts it; `--resume DIR` after it goes on. Where it is empty: `ldp-fast NAME`.
        check: refuses, with a UsageError, a folder in which a run of a configuration may not write; asked first of all,
            and before anything is loaded.
        expect: what the steps that are left take; changes nothing. The first rank asks, before the run's folder is
            changed. None: not known.
        former_files: what a run from before its record listed files may have left, as patterns.
        former_configuration: reads the plain configuration of a run without config.yaml; None if it has none either.
        former_state: reads the checkpoint of such a run: tensors and facts; None if it has none.
    """

    name: str
    class_of: Callable[[dict[str, Any]], type[Any]]
    begin: Callable[..., Experiment]
    result: str
    labels: Mapping[str, str]
    essential: Mapping[str, str] = dataclasses.field(default_factory=dict)
    networks: Callable[[Experiment, Any], None] | None = None
    shares: Callable[[Any], tuple[int, str]] = lambda configuration: (1, "")
    to_lower: str = ""
    command: str = ""
    check: Callable[[pathlib.Path, Any], None] = lambda folder, configuration: None
    expect: Callable[[Any], Expectation] | None = None
    former_files: tuple[str, ...] = ()
    former_configuration: Callable[[pathlib.Path], dict[str, Any] | None] = lambda folder: None
    former_state: Callable[[pathlib.Path, Configuration], tuple[dict[str, Tensor], dict[str, str]] | None] = (
        lambda folder, configuration: None
    )

    @property
    def typed(self) -> str:
        """The command that starts it, without its arguments."""
        return self.command or f"ldp-fast {self.name}"

    def resume(self, folder: pathlib.Path) -> str:
        """The command that goes on with a run."""
        return f"{self.typed} --resume {folder}"

    def read(self, folder: pathlib.Path) -> Any:
        """The configuration of the run in a folder.

        Raises:
            UsageError: it is missing or damaged; names the file and the field.
        """
        path, former = folder / "config.yaml", self.former_configuration(folder)
        if not path.exists() and former is not None:
            return from_file(self.class_of(former), former, folder / "run.json")
        plain = read_yaml(path)
        plain.pop("application", None)
        return from_file(self.class_of(plain), plain, path)

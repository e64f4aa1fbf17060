"""The loop that every application runs in: checks, interruption, records, log, bar, preview, profile, products."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import UsageError, of_memory, reason
from . import checkpoints, distributed, image_files
from .expectation import FEWEST
from .experiment import Application, Experiment, untimed
from .finishing import listed, make_all
from .folder import RunFolder, status
from .interruption import Interruption
from .log import RunLog, grouped
from .profile import Profile

# Steps between two entries of the log.
LOG_EVERY = 10


class Watch(Protocol):
    """Who looks at an experiment while it grows, such as a page; it looks between two steps."""

    lock: contextlib.AbstractContextManager[Any]

    def update(self, step: int, losses: dict[str, float] | Callable[[], dict[str, float]]) -> None:
        """Is told of every step."""

    def close(self) -> None:
        """Is told of the end."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What may be said anew when a run is continued: it changes what is shown and where it runs, not the run.

    Attributes:
        preview: steps between two writings of preview.png, or None.
        resume: the command that continues, for the message after an interruption.
        overwrite: drop what an earlier run left in the folder, once this one is known to be able to start.
        profile: print where the time went.
        without: names of products that are not wanted.
        device: in place of the configuration's.
        watch: makes who looks at the experiment, which is told the name of the run's folder.
    """

    preview: int | None = None
    resume: str | None = None
    overwrite: bool = False
    profile: bool = False
    without: tuple[str, ...] = ()
    device: str | None = None
    watch: Callable[[Experiment, str], Watch] | None = None


def run(application: Application, folder: pathlib.Path, configuration: Any, options: Options | None = None) -> int:
    """Runs a configuration in a folder, from its newest checkpoint if there is one.

    Args:
        application: whose.
        folder: where to.
        configuration: of the application's class, with `device`, `checkpoint_every` and `keep`.
        options: of this call.

    Returns:
        The exit code: 0, or 130 after an interruption.

    Raises:
        UsageError: what the user can mend; nothing in the folder is changed then, or all but what an application's
            `essential` names is there.
        FloatingPointError: the run diverged; what it kept is from before.
    """
    options = options or Options()
    application.check(folder, configuration)
    command = options.resume or application.resume(folder)
    device = options.device or configuration.device
    try:
        with distributed.ranks(application.shares(configuration), device) as joined, contextlib.ExitStack() as stack:
            rank, world, device = joined
            experiment = application.begin(configuration, device=device, rank=rank, world=world)
            watch = None
            if options.watch is not None and rank == 0:
                # Before anything is written: its port may be taken.
                watch = options.watch(experiment, folder.name)
                stack.callback(watch.close)
            home = RunFolder(folder, application)
            if rank == 0:
                stack.enter_context(home.claimed(configuration, options.overwrite))
            distributed.wait(world)
            if not options.overwrite:
                continue_from(home, experiment, configuration)
            if rank == 0 and 0 < experiment.step < experiment.total:
                print(f"continuing {folder} at step {experiment.step} of {experiment.total}", file=sys.stderr)
            with Interruption() as interruption:
                if not _announced(application, experiment, folder.name, interruption, rank, world):
                    if rank == 0:
                        print(_interrupted_before(home, experiment, options.overwrite, command), file=sys.stderr)
                    return 130
                if rank == 0:
                    home.begin(configuration, options.overwrite)
                loop = _Loop(home, experiment, configuration, options, command, rank, world, watch)
                try:
                    return loop.go(interruption)
                except FloatingPointError:
                    with contextlib.suppress(OSError):
                        loop.record_divergence()
                    raise
                except distributed.RanksLost as error:
                    kept = "its last checkpoint is whole, " if checkpoints.steps(folder) else ""
                    raise UsageError(f"{error}; {kept}continue with: {command}") from error
    except (RuntimeError, MemoryError) as error:
        if not of_memory(error) or not application.to_lower:
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"there is not enough memory: lower {application.to_lower} ({said})") from error


def _announced(
    application: Application, experiment: Experiment, name: str, interruption: Interruption, rank: int, world: int
) -> bool:
    """Says what the run takes; False where it was interrupted meanwhile, on whichever rank."""
    if application.expect is None or experiment.total - experiment.step < FEWEST:
        return True
    stopped = False
    try:
        if rank == 0:
            try:
                with interruption.at_once():
                    if interruption.requested:
                        raise KeyboardInterrupt
                    print(f"{name}: {application.expect(experiment).line()}", file=sys.stderr)
            except KeyboardInterrupt:
                stopped = True
        # The others wait here, and not in the first step's collective: if the first rank fails, they hear of it.
        return not distributed.any_rank(stopped or interruption.requested, world)
    except KeyboardInterrupt:  # the second one, while the ranks wait for each other
        return False


def _interrupted_before(home: RunFolder, experiment: Experiment, overwrite: bool, command: str) -> str:
    if overwrite:
        return f"interrupted before the first step: what {home.path} holds is as it was"
    if (home.path / "config.yaml").exists() or experiment.step > 0:
        return f"interrupted before step {experiment.step + 1}; continue with: {command}"
    return "interrupted before the first step: nothing was written"


def continue_from(home: RunFolder, experiment: Experiment, configuration: Any) -> None:
    """Puts the newest checkpoint into an experiment, if there is one.

    Raises:
        UsageError: it is damaged, or belongs to another configuration; nothing is changed then.
    """
    found = checkpoints.steps(home.path)
    path = checkpoints.path_of(home.path, found[-1]) if found else home.path
    held = checkpoints.read(path, configuration.fingerprint()) if found else None
    held = held or home.application.former_state(home.path, configuration)
    if held is not None:
        try:
            experiment.load_state(*held)
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"{path} is damaged: {error}") from None


class _Loop:
    """One process's part of a run."""

    def __init__(
        self,
        home: RunFolder,
        experiment: Experiment,
        configuration: Any,
        options: Options,
        command: str,
        rank: int,
        world: int,
        watch: Watch | None,
    ):
        self.home, self.experiment, self.configuration, self.options = home, experiment, configuration, options
        self.command, self.rank, self.world, self.watch = command, rank, world, watch
        self.profile: Profile | None = None
        if options.profile:
            self.profile = Profile(home.application.labels, experiment.device)
            if home.application.networks is not None:
                home.application.networks(experiment, self.profile)
        self.log: RunLog | None = None
        self.first, self.started, self.saved = experiment.step, time.perf_counter(), -1
        # Of the steps that an earlier process did, until there are others.
        self.seconds = status(home.path).get("seconds_per_step", 0.0)
        self.left_out: dict[str, str] = {}
        self.unseen = False

    def go(self, interruption: Interruption) -> int:
        """Steps and products; the exit code.

        Args:
            interruption: entered; who interrupts before the first record is heard at the first step.
        """
        self._record("running")
        self.log = RunLog(self.home.path, self.experiment.step) if self.rank == 0 else None
        try:
            try:
                stopped = self._steps(interruption)
            finally:
                if self.log:
                    self.log.close()
            if stopped:
                self._check_finite()
                self._save("interrupted")
                self._say(f"interrupted at step {self.experiment.step}; continue with: {self.command}")
                return 130
            # Kept before anything is made of it.
            self._check_finite()
            self._save("finishing")
        except KeyboardInterrupt:
            self._record("interrupted")
            self._say(f"{self._interrupted_at_once()}: {self.command}")
            return 130
        try:
            if self.rank == 0:
                with interruption.at_once():
                    # Asked for while the last checkpoint was written.
                    if interruption.requested:
                        raise KeyboardInterrupt
                    self._finish()
        except KeyboardInterrupt:
            self._record("interrupted")
            self._say(f"interrupted before all was written; make the rest with: {self.command}")
            return 130
        self._record("finished")
        return 0

    def _say(self, line: str) -> None:
        if self.rank == 0:
            print(line, file=sys.stderr)

    def _interrupted_at_once(self) -> str:
        kept = checkpoints.steps(self.home.path)
        where = (
            f"at its last checkpoint, step {kept[-1]}, "
            if kept
            else "at the beginning, as there is no checkpoint yet, "
        )
        return f"interrupted at once in step {self.experiment.step + 1}; continue {where}with"

    def _steps(self, interruption: Interruption) -> bool:
        """Runs to the end, or to an interruption: then True."""
        from tqdm import tqdm

        experiment = self.experiment
        bar = tqdm(
            total=experiment.total,
            initial=experiment.step,
            desc=self.home.path.name,
            unit="step",
            disable=self.rank != 0,
        )
        part = self.profile.part if self.profile else untimed
        try:
            with bar:
                while not self._stops(interruption.requested):
                    if experiment.step == experiment.total:
                        return False
                    # Whoever looks, looks between two steps.
                    with self.watch.lock if self.watch else contextlib.nullcontext():
                        experiment.advance(part)
                        bar.update()
                        self._after_step(bar)
                    if self.watch:
                        self.watch.update(experiment.step, self._shown)
                return True
        finally:
            if self.profile:
                self.profile.steps = experiment.step - self.first
                self.profile.close()
                print(self.profile.table(time.perf_counter() - self.started))

    def _stops(self, requested: bool) -> bool:
        # Asking the other ranks waits for a GPU, so that they are not asked at every step there.
        on_gpu = self.experiment.device.type == "cuda"
        if self.world > 1 and on_gpu and self.experiment.step % LOG_EVERY:
            return False
        return distributed.any_rank(requested, self.world)

    def _shown(self) -> dict[str, float]:
        last = self.experiment.latest()
        return {name: last[name] for name in self.experiment.shown}

    def _after_step(self, bar: Any) -> None:
        step, total = self.experiment.step, self.experiment.total
        saves = step % self.configuration.checkpoint_every == 0 and step < total
        if step % LOG_EVERY == 0 or step == total or saves:
            self._report(bar)
        if saves:
            self._save("running")
        asked = self.options.preview is not None and step % self.options.preview == 0
        if self.rank == 0 and (asked or saves or step == total):
            self._show(asked, bar)

    def _check_finite(self) -> None:
        """Before anything is saved, so that it does not push out what is whole."""
        if self.experiment.step == self.first:
            return
        bad = self.experiment.not_finite()
        if not bad:
            return
        kept = checkpoints.steps(self.home.path)
        from_before = f"its last checkpoint, of step {kept[-1]}, is from before; " if kept else ""
        raise FloatingPointError(
            f"{self.home.path} diverged before step {self.experiment.step}: {', '.join(bad)} not finite; "
            f"{from_before}lower --learning-rate or the weights"
        )

    def _report(self, bar: Any) -> None:
        self._check_finite()
        bar.set_postfix({name: f"{value:.3g}" for name, value in self._shown().items()}, refresh=False)
        if self.log:
            values = {**self.experiment.latest(), **self.experiment.weights()}
            self.log.scalars(self.experiment.step, grouped(values, self.experiment.losses))

    def _show(self, asked: bool, bar: Any) -> None:
        """The views of this moment, for the log, and as preview.png if that was asked for; said once if that fails."""
        try:
            picture = self.experiment.preview()
            if asked:
                image_files.save_png(self.home.path / "preview.png", picture)
            if self.log:
                self.log.image(self.experiment.step, "views", picture)
        except Exception as error:  # the steps are worth more than a look at them, and the last ones are not kept yet
            if not self.unseen:
                bar.write(f"preview: left out at step {self.experiment.step}: {reason(error)}", sys.stderr)
            self.unseen = True

    def _save(self, state: str) -> None:
        experiment, folder = self.experiment, self.home.path
        if self.rank == 0 and experiment.step > 0 and self.saved != experiment.step:
            path = checkpoints.path_of(folder, experiment.step)
            fingerprint = self.configuration.fingerprint()
            checkpoints.write(path, experiment.state(), experiment.facts(), experiment.step, fingerprint)
            self.saved = experiment.step
            checkpoints.keep(folder, self.configuration.keep)
        self._record(state)

    def record_divergence(self) -> None:
        """Records that it diverged; checkpoints and seconds stay what they were."""
        self._record("diverged")

    def _record(self, state: str) -> None:
        if self.rank != 0:
            return
        experiment = self.experiment
        facts: dict[str, Any] = {"step": experiment.step, "steps": experiment.total, **experiment.about()}
        if experiment.step > self.first:
            if state in ("running", "interrupted", "finishing") and not self.left_out:
                self.seconds = (time.perf_counter() - self.started) / (experiment.step - self.first)
        if self.seconds:
            facts["seconds_per_step"] = self.seconds
        if experiment.step:
            # JSON does not know what a diverged run has for numbers.
            facts["last"] = {name: x if math.isfinite(x) else None for name, x in experiment.latest().items()}
        if self.options.without:
            facts["without"] = list(self.options.without)
        if self.left_out:
            facts["left_out"] = self.left_out
        self.home.record(state, **facts)

    def _finish(self) -> None:
        """Pictures, films and the like; what cannot be made is said, and does not take the rest along.

        Raises:
            UsageError: what cannot be made is `essential`; the run is not finished then.
        """
        products, unwanted = self.experiment.products(self.home.path), self.options.without
        made, self.left_out = make_all(products, unwanted)
        essential = self.home.application.essential
        lost = {name: why for name, why in self.left_out.items() if name in essential and name not in unwanted}
        # The disk may be full: what is said last counts more than the record.
        with contextlib.suppress(OSError) if lost else contextlib.nullcontext():
            self.home.add(made)
            if lost:
                self._record("interrupted")
        for name, why in self.left_out.items():
            if name not in lost:
                print(f"{name}: left out: {why}", file=sys.stderr)
        print(", ".join(listed(made)))
        if lost:
            reasons = "; ".join(f"{name}: {why}" for name, why in lost.items())
            raise UsageError(
                f"{self.home.path} lacks its result ({reasons}); the checkpoint of step "
                f"{self.experiment.step} is there: when that is mended, make the rest with: {self.command}"
            )

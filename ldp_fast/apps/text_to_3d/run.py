"""A run of text-to-3D in its folder: progress, checkpoints, previews, interruption, and what it leaves."""

from __future__ import annotations

import contextlib
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ...errors import UsageError
from .. import files, folders
from ..interruption import Interruption
from ..options import load_prior
from . import checkpoints, distributed, pictures
from .configuration import REGULARISERS, check, fingerprint, read_configuration, write_configuration
from .log import RunLog
from .mesh import export_mesh
from .profile import Profile
from .scene import Scene, checkpoint_steps
from .trainer import Trainer, untimed
from .trajectories import TRAJECTORIES

if TYPE_CHECKING:
    from .viewer import Viewer

# Steps between two entries of the log.
LOG_EVERY = 10
RESULTS = (
    *("views.png", "depth.png", "opacity.png", "normals.png", "turntable.mp4", "turntable.gif", "preview.png"),
    *("mesh.glb", "mesh.obj", "mesh.mtl", "mesh.png", "mesh.json", "run.json", "config.yaml"),
)


def clear(folder: pathlib.Path) -> None:
    """Removes what an earlier run left: its results, checkpoints and log, and nothing else."""
    paths = [folder / name for name in RESULTS]
    paths += [*folder.glob("checkpoints/step-*.safetensors"), *folder.glob("log/events.out.tfevents.*")]
    paths += [path for name in TRAJECTORIES for path in folder.glob(f"{name}-*.mp4")]
    for path in paths:
        path.unlink(missing_ok=True)


def run_text_to_3d(
    folder: pathlib.Path,
    configuration: dict[str, Any],
    *,
    preview: int | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    viewer: int | None = None,
    profile: bool = False,
) -> int:
    """Runs a configuration in a folder, from its newest checkpoint if there is one.

    Args:
        folder: where to.
        configuration: of `command.configure`, or as config.yaml has it.
        preview: steps between previews (preview.png), or None.
        resume: the command that continues, for the message after an interruption.
        overwrite: drop what an earlier run left in the folder, once this one is known to be able to start.
        viewer: port of a web page that shows the object as it grows, or None.
        profile: print where the time went.

    Returns:
        The exit code: 0, or 130 after an interruption.

    Raises:
        UsageError: what the user can mend; nothing in the folder is changed then.
        FloatingPointError: the run diverged; its last checkpoint is from before.
    """
    check(configuration)
    configuration = files.plain(configuration)
    with distributed.ranks(configuration) as (rank, world, configuration), contextlib.ExitStack() as stack:
        prior = load_prior(configuration)
        scene = Scene(configuration, prior)
        trainer = Trainer(scene, prior, rank=rank, world=world)
        page = None
        if viewer is not None and rank == 0:
            # Before anything is written: its port may be taken.
            from .viewer import Viewer

            page = Viewer(lambda step: scene, viewer, title=folder.name)
            stack.callback(page.close)
            print(f"shown at {page.url}", file=sys.stderr)
        if rank == 0:
            _claim(folder, configuration, overwrite)
        distributed.wait(world)
        steps = checkpoint_steps(folder)
        if steps:
            trainer.load(checkpoints.path_of(folder, steps[-1]))
            if rank == 0 and trainer.step < trainer.total:
                print(f"continuing {folder} at step {trainer.step} of {trainer.total}", file=sys.stderr)
        command = resume or f"ldp-fast text-to-3d --resume {folder}"
        try:
            return _Run(folder, trainer, rank, preview, command, page, profile).go()
        except distributed.RanksLost as error:
            raise UsageError(f"{error}; its last checkpoint is whole, continue with: {command}") from error


def _claim(folder: pathlib.Path, configuration: dict[str, Any], overwrite: bool) -> None:
    if overwrite:
        clear(folder)
    if (folder / "config.yaml").exists():
        if fingerprint(read_configuration(folder)) != fingerprint(configuration):
            raise UsageError(f"{folder} holds another run: choose another --out, or replace it with --overwrite")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_configuration(folder, configuration)


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        folder: pathlib.Path,
        trainer: Trainer,
        rank: int,
        preview: int | None,
        command: str,
        page: Viewer | None,
        profile: bool,
    ):
        self.folder, self.trainer, self.rank, self.preview, self.command = folder, trainer, rank, preview, command
        self.configuration = trainer.configuration
        self.profile = Profile(trainer.prior) if profile else None
        self.page = page
        self.log = RunLog(folder, trainer.step) if rank == 0 else None
        self.first, self.started, self.saved, self.seconds = trainer.step, time.perf_counter(), -1, 0.0

    def go(self) -> int:
        trainer = self.trainer
        self._record("running")
        try:
            interrupted = self._steps()
        finally:
            if self.log:
                self.log.close()
        if interrupted:
            self._check_finite()
            self._save("interrupted")
            if self.rank == 0:
                print(f"interrupted at step {trainer.step}; continue with: {self.command}", file=sys.stderr)
            return 130
        # Kept before anything is made of it.
        self._save("finishing")
        if self.rank == 0:
            try:
                self._finish()
            except KeyboardInterrupt:
                print(f"interrupted before all was written; make the rest with: {self.command}", file=sys.stderr)
                return 130
        self._record("finished")
        return 0

    def _steps(self) -> bool:
        """Runs to the end, or to an interruption: then True."""
        trainer = self.trainer
        hidden = self.rank != 0
        bar = tqdm(
            total=trainer.total,
            initial=trainer.step,
            desc=self.folder.name,
            unit="step",
            disable=hidden,
        )
        part = self.profile.part if self.profile else untimed
        try:
            with Interruption() as interruption, bar:
                while not self._stops(interruption.requested):
                    if trainer.step == trainer.total:
                        return False
                    # Whoever looks at the page looks between two steps.
                    with self.page.lock if self.page else contextlib.nullcontext():
                        trainer.advance(part)
                        bar.update()
                        self._after_step(bar)
                    if self.page:
                        self.page.update(trainer.step, self._losses)
                return True
        finally:
            if self.profile:
                self.profile.steps = trainer.step - self.first
                self.profile.close()
                print(self.profile.table(time.perf_counter() - self.started))

    def _stops(self, requested: bool) -> bool:
        # Asking the other ranks waits for a GPU, so that they are not asked at every step there.
        on_gpu = self.trainer.prior.device.type == "cuda"
        if self.trainer.world > 1 and on_gpu and self.trainer.step % LOG_EVERY:
            return False
        return distributed.any_rank(requested, self.trainer.world)

    def _losses(self) -> dict[str, float]:
        last = self.trainer.latest()
        return {name: last[name] for name in ("lsd", "fm", "kl")}

    def _after_step(self, bar: Any) -> None:
        step, total = self.trainer.step, self.trainer.total
        saves = step % self.configuration["checkpoint_every"] == 0 and step < total
        if step % LOG_EVERY == 0 or step == total or saves:
            self._report(bar)
        if saves:
            self._save("running")
        asked = self.preview is not None and step % self.preview == 0
        if self.rank == 0 and (asked or saves or step == total):
            self._show(asked)

    def _check_finite(self) -> None:
        """Before anything is kept, lest it push out what is whole."""
        if self.trainer.step == self.first:
            return
        last = self.trainer.latest()
        bad = [name for name in ("lsd", "fm", "kl", "gradient_norm") if not math.isfinite(last[name])]
        if bad:
            raise folders.diverged(self.folder, self.trainer.step, ", ".join(bad))

    def _report(self, bar: Any) -> None:
        self._check_finite()
        bar.set_postfix({name: f"{value:.3g}" for name, value in self._losses().items()}, refresh=False)
        if self.log:
            self.log.scalars(self.trainer.step, self._logged())

    def _logged(self) -> dict[str, float]:
        groups = {"norm_": "gradient_norm/", "lambda_": "weight/", "weight_": "weight/"}
        found = {}
        for name, value in {**self.trainer.latest(), **self.trainer.weights()}.items():
            group = next((prefix for prefix in groups if name.startswith(prefix)), None)
            if group:
                found[groups[group] + name.removeprefix(group)] = value
            elif name in ("lsd", "fm", "kl", *REGULARISERS):
                found[f"loss/{name}"] = value
            else:
                found["gradient_norm/parameters" if name == "gradient_norm" else f"run/{name}"] = value
        return found

    def _show(self, asked: bool) -> None:
        """The views of this moment, for the log, and as preview.png if that was asked for."""
        picture = pictures.preview(self.trainer.scene)
        if asked:
            files.save_png(self.folder / "preview.png", picture)
        if self.log:
            self.log.image(self.trainer.step, "views", picture)

    def _save(self, status: str) -> None:
        trainer = self.trainer
        if self.rank == 0 and trainer.step > 0 and self.saved != trainer.step:
            trainer.save(checkpoints.path_of(self.folder, trainer.step))
            self.saved = trainer.step
            for step in checkpoint_steps(self.folder)[: -self.configuration["keep"]]:
                checkpoints.path_of(self.folder, step).unlink(missing_ok=True)
        self._record(status)

    def _record(self, status: str) -> None:
        if self.rank != 0:
            return
        trainer = self.trainer
        record = {
            "status": status,
            "step": trainer.step,
            "steps": trainer.total,
            "guidance_scale": trainer.prior.guidance_scale,
            "versions": files.versions(),
        }
        if trainer.step > self.first:
            if status in ("running", "interrupted", "finishing"):
                self.seconds = (time.perf_counter() - self.started) / (trainer.step - self.first)
            record["seconds_per_step"] = self.seconds
        if trainer.step:
            record["last"] = trainer.latest()
        files.write_json(self.folder / "run.json", record)

    def _finish(self) -> None:
        """Pictures, films and mesh; what cannot be made is said, and does not take the rest along."""
        scene, folder, made = self.trainer.scene.eval(), self.folder, []

        def mesh() -> list[pathlib.Path]:
            print(f"mesh: {export_mesh(scene, folder)}")
            return [folder / "mesh.glb", folder / "mesh.obj"]

        products: dict[str, Callable[[], list[pathlib.Path]]] = {
            "pictures": lambda: pictures.write_grids(scene, folder),
            "turntable": lambda: pictures.write_turntable(scene, folder, progress=True),
            "mesh": mesh,
        }
        for name, make in products.items():
            try:
                made += make()
            except ModuleNotFoundError as error:
                reason = f"{error.name} is not installed: pip install 'ldp-fast[apps]'"
                print(f"{name}: left out: {reason}", file=sys.stderr)
            except Exception as error:  # after a long run the object is worth more than any of its pictures
                reason = " ".join(str(error).split()) or type(error).__name__
                print(f"{name}: left out: {reason} (ldp-fast render, ldp-fast export)", file=sys.stderr)
        print(", ".join(str(path) for path in made))

"""Adaptation step by step: a trained copy of a generator, whose pictures a guide moves (paper §4.1, §5.2)."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...generators import StyleGAN2
from ...runs import checkpoints, distributed
from ...runs.experiment import Part, Products, as_subject, untimed
from . import products, selection
from .configuration import Adaptation, PriorGuided
from .draws import LOOKED_AT, NOISE, Draws
from .guides import Guide
from .trained import Pair, check_precision, named

# Name of what is summed beside the columns.
_LOST = "lost"
# Of facts, the digest of the generator that it is a copy of.
SOURCE = "source"
# Pictures are about [-1, 1]; what is beyond this is white and black, and a guide sees its clamp.
LARGEST = 1e3
# A picture is lost where so large a share of its values is FAR beyond what is white, or where it is one colour of full
# whites and blacks. Runs with the defaults had at most 0.2 of their values beyond 1 and none beyond 2; those that
# diverged passed through such pictures on their way to LARGEST, or stayed there.
FAR, SHARE = 4.0, 0.5


def trained_names(configuration: Adaptation, source: Any) -> list[str]:
    """Names of the parameters that a run trains, or chooses from.

    Raises:
        UsageError: --train or --select-layers that the generator does not have.
    """
    c = configuration
    if c.select_layers is None:
        return named(source, c.train)
    selection.check_layers(source, c.select_layers)
    layers = selection.layers_of(source)
    found = selection.within(named(source, c.train, selected=True), layers)
    there = sum(selection.trains(layer, found) for layer in layers)
    if c.select_layers > there:
        raise UsageError(
            f"--select-layers: expected at most {there}, the layers of which --train trains something; got "
            f"{c.select_layers}"
        )
    return found


class AdaptExperiment:
    """A run's experiment: the pair of generators, the guide, and Adam.

    What a step draws comes from (seed, step, sample) alone, so that ranks that split a step's samples do together what
    one would do alone, up to the order of a sum, and a resumed run goes on unchanged.

    Args:
        configuration: of the run.
        guide: what moves the pictures.
        source: the generator: a StyleGAN2, or any module with `mapping(z)`, `synthesis(w)` and `z_dim`.
        view_words: says of z [B, Z] from where each picture shows its thing, B words such as "low side"; None: nobody
            knows, or nobody wants it in the prompt.
        rank, world: which share of a step's samples is this process's; with a world above 1 gradients are summed over
            the default process group.

    Attributes:
        losses, shown: see `Experiment`.
        step, total: steps done, and those there are.
        columns: names of what is recorded a step.
        pair: the generators.
        layers: those that were selected last; empty where all are trained.

    Raises:
        UsageError: --train or --select-layers that the generator does not have.
    """

    def __init__(
        self,
        configuration: Adaptation,
        guide: Guide,
        source: Any,
        *,
        view_words: Callable[[Tensor], Sequence[str]] | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        c = self.configuration = configuration
        self.view_words = view_words
        self.guide, self.rank, self.world = guide, rank, world
        self.device = guide.device
        self.losses, self.shown = guide.losses, guide.shown
        # Root mean square of the pictures, and of their distance to the source's where those are computed.
        self.columns = (*guide.columns, "amplitude", *(("changed",) if guide.wants_sources else ()), "gradient_norm")
        names = trained_names(c, source)
        check_precision(source, names)
        self.pair = Pair(source.to(self.device), names, c.ema)
        self.layers: list[str] = []
        self.step, self.total = 0, c.steps
        self.optimizer = torch.optim.Adam(self.pair.parameters.values(), lr=c.learning_rate, betas=c.betas)
        self._rows: list[Tensor] = []
        self._lost = torch.zeros((), device=self.device)

    @property
    def history(self) -> Tensor:
        """[steps so far, len(columns)] float32; reading it synchronises with the device."""
        return torch.stack(self._rows).cpu() if self._rows else torch.zeros(0, len(self.columns))

    def advance(self, part: Part = untimed) -> None:
        """One step."""
        c = self.configuration
        if c.select_layers is not None and self.step % c.select_every == 0:
            with part("selection"):
                self.select()
        self.learn(part)

    def learn(self, part: Part = untimed) -> None:
        """One step, in which what was selected last is trained."""
        c, pair = self.configuration, self.pair
        mine = range(self.rank, c.batch, self.world)
        # Beside the columns, the share of the pictures that are lost.
        row = torch.zeros(len(self.columns) + 1, device=self.device)
        if mine:
            z, draws = self._drawn(Draws(c.seed, self.step, tuple(mine)))
            w = pair.w(z, c.truncation)
            noise = self._noise(draws, w)
            with part("source"):
                sources = self._sources(w, noise)
            with part("generator"):
                pictures = _synthesis(pair.adapted, w, noise())
            with part("guide"):
                gradient, values = self._guided(pictures, sources, draws)
            with part("backward"):
                pictures.backward(gradient / c.batch)
            values["amplitude"] = _root_mean_square(pictures.detach())
            if sources is not None:
                values["changed"] = _root_mean_square(pictures.detach() - sources)
            values[_LOST] = lost(pictures.detach())
            for index, name in enumerate((*self.columns, _LOST)):
                if name in values:
                    row[index] = values[name].detach().float().sum() / c.batch
        with part("optimiser"):
            if self.world > 1:
                distributed.add_gradients([p for p in pair.parameters.values() if p.requires_grad], row)
            norms = torch._foreach_norm([p.grad for p in pair.parameters.values() if p.grad is not None])
            if norms:
                row[self.columns.index("gradient_norm")] = torch.stack(norms).norm()
            self.optimizer.step()
            self.optimizer.zero_grad()
            pair.step_average(self.step + 1)
        self.step += 1
        self._rows.append(row[:-1])
        self._lost = row[-1]

    def _drawn(self, draws: Draws) -> tuple[Tensor, Draws]:
        """z of samples, and their draws with the views of these z where those are known."""
        z = draws.latents(self.pair.source.z_dim)
        return z, draws if self.view_words is None else dataclasses.replace(draws, views=tuple(self.view_words(z)))

    def _noise(self, draws: Draws, w: Any) -> Callable[[], Any]:
        """What gives each generator that is asked for pictures of w the same noise; None stands for its own."""
        if self.configuration.noise == "fixed":
            return lambda: None
        source = self.pair.source
        if not isinstance(source, StyleGAN2):
            return lambda: draws.generators(NOISE)
        shapes = [x.shape for name, x in source.named_buffers() if name.endswith(".noise")]
        drawn = draws.noises(shapes, w.device, w.dtype)
        return lambda: drawn

    def _sources(self, w: Tensor, noise: Callable[[], Any]) -> Tensor | None:
        if not self.guide.wants_sources:
            return None
        with torch.no_grad():
            return _synthesis(self.pair.source, w, noise())

    def _guided(self, pictures: Tensor, sources: Tensor | None, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        seen = pictures.detach()
        gradient, values = self.guide.gradient(seen, seen if sources is None else sources, draws, self._progress())
        return gradient.to(pictures.dtype), dict(values)

    def _progress(self) -> float:
        return self.step / max(1, self.total)

    def select(self) -> None:
        """Chooses the `select_layers` layers that are trained from here on."""
        c, pair = self.configuration, self.pair
        mine = range(self.rank, c.select_samples, self.world)
        layers = selection.layers_of(pair.adapted)
        draws = Draws(c.seed, self.step, tuple(LOOKED_AT + index for index in mine))
        moved = torch.zeros(len(layers), device=self.device)
        # As many at once as a process has of a step.
        for some in _split(draws, share_of(c.batch, self.world)):
            z, some = self._drawn(some)
            w = pair.w(z, c.truncation)
            noise = self._noise(some, w)
            sources = self._sources(w, noise)

            def gradient(x: Tensor, sources: Tensor | None = sources, some: Draws = some) -> Tensor:
                return self._guided(x, sources, some)[0]

            moved += selection.moved(pair.adapted, w, noise(), gradient)
        if self.world > 1:
            distributed.add(moved)
        # Of layers without anything that is trained none can be chosen.
        trained = [selection.trains(layer, pair.parameters) for layer in layers]
        moved = moved.masked_fill(~torch.tensor(trained, device=moved.device), -1.0)
        self.layers = selection.chosen(layers, moved, c.select_layers or len(layers))
        selection.train_only(pair.parameters, self.layers)

    def latest(self) -> dict[str, float]:
        """What the last step recorded, means over its samples."""
        return dict(zip(self.columns, self._rows[-1].tolist(), strict=True))

    def weights(self) -> dict[str, float]:
        """The λ's and the regularisers' weights."""
        c, found = self.configuration, {"lr": self.configuration.learning_rate}
        if isinstance(c, PriorGuided):
            found |= {name: getattr(c.settings, name) for name in ("lambda_fm", "lambda_kl", "lambda_lsd")}
            others = {name: getattr(c.regularisers, name) for name in ("directional", "reconstruction", "lpips")}
            found |= {f"weight_{name}": weight for name, weight in others.items() if weight}
        return found

    def state(self) -> dict[str, Tensor]:
        """What is trained, Adam's moments and the history, on the CPU; the source is where it was loaded from."""
        return {**self.pair.state(), **checkpoints.optimiser_state(self.optimizer), "history": self.history}

    def facts(self) -> dict[str, str]:
        """Which generator it is a copy of, and the layers that were selected last."""
        return {SOURCE: self.source_digest, "layers": " ".join(self.layers)}

    @functools.cached_property
    def source_digest(self) -> str:
        """A digest of the source's tensors."""
        return checkpoints.digest({name: x.cpu() for name, x in self.pair.source.state_dict().items()})

    def load_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Goes on from `state` and `facts`.

        Raises:
            ValueError: they do not fit; nothing is changed then.
            UsageError: they were made from another generator; nothing is changed then.
        """
        step, layers = int(facts["step"]), facts["layers"].split()
        if facts[SOURCE] != self.source_digest:
            raise UsageError(
                f"--generator: the run cannot go on: it was made from another generator than "
                f"{self.configuration.generator!r} is now (SHA-256 of its tensors {self.source_digest[:16]}…, then "
                f"{facts[SOURCE][:16]}…): put that one back, or begin anew with another --out"
            )
        if tensors["history"].shape[1:] != (len(self.columns),):
            raise ValueError("its history is of other columns")
        self.pair.load_state(tensors)
        checkpoints.load_optimiser_state(self.optimizer, tensors)
        self.step, self.layers, self._rows = step, layers, list(tensors["history"].to(self.device))
        if layers:
            selection.train_only(self.pair.parameters, layers)

    def about(self) -> dict[str, Any]:
        """The guidance scale, which the model may have chosen, and what is trained."""
        scale = getattr(self.guide.model, "guidance_scale", None)
        counted = sum(p.numel() for p in self.pair.parameters.values())
        found = {"trained": {"tensors": len(self.pair.parameters), "numbers": counted}}
        return {**found, **({} if scale is None else {"guidance_scale": scale})}

    def not_finite(self) -> list[str]:
        """Losses and gradient of the last step, weights, or pictures that are not finite, too large or saturated.

        Raises:
            FloatingPointError: something is, and the generator's own pictures were not pictures to begin with.
        """
        found = self._diverged()
        if found:
            own = float(self._rows[0][self.columns.index("amplitude")]) if self._rows else 0.0
            if not own < FAR:
                raise FloatingPointError(
                    f"the generator's own pictures are out of range, before anything was learned: their root mean "
                    f"square is {own:.4g}, expected pictures about [-1, 1]"
                )
        return found

    def _diverged(self) -> list[str]:
        last = self.latest() if self._rows else {}
        bad = [name for name in (*self.shown, "gradient_norm") if not math.isfinite(last.get(name, 0.0))]
        norms = torch._foreach_norm([p.detach() for p in self.pair.parameters.values()])
        if not bool(torch.stack(norms).isfinite().all()):
            bad.append("the weights")
        size = last.get("amplitude", 0.0)
        if not math.isfinite(size):
            bad.append("the pictures")
        if not bad and size >= LARGEST:
            return [f"the pictures are beyond {LARGEST:g} (root mean square {size:.0f}), as good as"]
        if not bad and float(self._lost) > 0.999:
            return ["the pictures are saturated (all of them far beyond [-1, 1], or one full colour), as good as"]
        return as_subject(bad, plural=("the weights", "the pictures"))

    def preview(self) -> Tensor:
        """The same z above one another, source and adapted."""
        return products.before_after(self.pair.source, self.pair.result(), self.configuration, columns=6)

    def products(self, folder: pathlib.Path) -> Products:
        """Pictures, the generator, samples, the losses and a film."""
        return products.of(self, folder)


def share_of(count: int, world: int) -> int:
    """The most that one of so many processes has of a number of samples."""
    return -(-count // world)


def _synthesis(generator: Any, w: Any, noise: Any) -> Tensor:
    # What is not asked for is not passed, so that a generator of somebody else's may lack it.
    found: Tensor = generator.synthesis(w) if noise is None else generator.synthesis(w, noise=noise)
    return found


def _root_mean_square(pictures: Tensor) -> Tensor:
    """Of each picture, [B]."""
    return pictures.float().square().mean((1, 2, 3)).sqrt()


def lost(pictures: Tensor) -> Tensor:
    """Of each picture, whether it is saturated throughout: nothing of what is shown of it says anything; [B]."""
    size, shown = pictures.float().abs().flatten(1), pictures.float().clamp(-1, 1)
    far = (size > FAR).float().mean(1) >= SHARE
    flat = (shown == shown[:, :, :1, :1]).flatten(1).all(1) & (size >= 1).all(1)
    return far | flat


def _split(draws: Draws, size: int) -> Sequence[Draws]:
    parts = [draws.samples[at : at + size] for at in range(0, len(draws.samples), size)]
    return [Draws(draws.seed, draws.step, part) for part in parts]

"""What of a generator is trained: parameters by name, a frozen source beside a trained copy, a moving average."""

from __future__ import annotations

import copy
import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from .configuration import ALL, HOST
from .draws import carried

# StyleGANFusion with --freeze_bias: of `convs` the convolution, what makes its style of w, and how strong its noise is.
# Not the constant, conv1, to_rgb*, any bias or the mapping.
_KINDS = r"(weight|modulation\.weight|noise_strength)"
_HOSTS = re.compile(rf"convs\.\d+\.{_KINDS}")
# Where layers are selected, any of them is trained, and of it the same kinds.
_SELECTED = re.compile(rf".*\.{_KINDS}")
# What makes w, which stays that of the source.
_MAPPINGS = ("style", "mapping")


def mapping_of(generator: Any) -> nn.Module | None:
    """The network that makes w, where a generator has one that can be told from the rest."""
    found = (getattr(generator, name, None) for name in _MAPPINGS)
    return next((x for x in found if isinstance(x, nn.Module)), None)


def trainable(generator: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by name but those of the mapping."""
    mapping = mapping_of(generator)
    fixed = {id(p) for p in mapping.parameters()} if mapping is not None else set()
    return {name: p for name, p in generator.named_parameters() if id(p) not in fixed}


def named(generator: nn.Module, words: Sequence[str], *, selected: bool = False) -> list[str]:
    """Names of the parameters that `--train` means.

    Args:
        generator: with the parameters.
        words: `host`, `all`, names of parameters, of modules (all that is in them), or patterns with * and ?.
        selected: whether layers of them are selected later, of which there are more than the host's.

    Raises:
        UsageError: a word that does not stand for any.
    """
    known = list(trainable(generator))
    found: set[str] = set()
    for word in words:
        if word == ALL:
            mine = known
        elif word == HOST:
            pattern = _SELECTED if selected else _HOSTS
            mine = [name for name in known if pattern.fullmatch(name)]
        else:
            mine = [name for name in known if _means(word, name)]
        if not mine:
            raise UsageError(f"--train: {_unknown(word, generator, known)}")
        found |= set(mine)
    return [name for name in known if name in found]


def _means(word: str, name: str) -> bool:
    return name == word or name.startswith(f"{word}.") or fnmatch.fnmatchcase(name, word)


def _unknown(word: str, generator: nn.Module, known: Sequence[str]) -> str:
    if word.partition(".")[0] in _MAPPINGS and mapping_of(generator) is not None:
        return f"{word} makes w, which stays as it is; expected {HOST}, {ALL}, or layers of the synthesis"
    parts = dict.fromkeys(
        ".".join(name.split(".")[:count]) for name in known for count in range(1, name.count(".") + 2)
    )
    close = difflib.get_close_matches(word, parts, n=1)
    tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name in known))
    hint = f"did you mean {close[0]}?" if close else f"expected {HOST}, {ALL}, or names within {tops}"
    if word == HOST:
        hint = f"this generator lacks layers convs.*; expected {ALL}, or names within {tops}"
    return f"{word!r} does not name any parameter of the generator; {hint}"


def check_precision(generator: nn.Module, names: Sequence[str]) -> None:
    """Checks that parameters can be trained: in half precision Adam's first step would make NaN of them.

    Raises:
        UsageError: one is of another dtype; names it.
    """
    own = dict(generator.named_parameters())
    for name in names:
        if own[name].dtype not in (torch.float32, torch.float64):
            raise UsageError(
                f"generator: expected parameters in float32 or float64 to train, {name} is {own[name].dtype}: "
                f"generator.float() makes such a one"
            )


def copied(source: Any) -> Any:
    """A copy of a generator that shares the mapping, in training mode as its source is."""
    mapping = mapping_of(source)
    return copy.deepcopy(source, {id(mapping): mapping} if mapping is not None else {})


class Pair:
    """A frozen generator, and a copy of it that is trained.

    Args:
        source: any module with `mapping(z)` and `synthesis(w)`; becomes frozen.
        names: of the parameters that are trained.
        ema: decay of their moving average; None: there is none.

    Attributes:
        source: the frozen one.
        adapted: the trained one.
        parameters: of it, those that are trained, by name.
        average: their moving average, by name; empty where there is none.
    """

    def __init__(self, source: Any, names: Sequence[str], ema: float | None = None):
        self.source, self.ema = source.eval().requires_grad_(False), ema
        self.adapted = copied(source)
        own = dict(self.adapted.named_parameters())
        self.parameters: dict[str, nn.Parameter] = {name: own[name].requires_grad_() for name in names}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if ema else {}

    def w(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """w of z, of the frozen mapping, without a graph."""
        like = next(iter(self.parameters.values()))
        z = carried(z, like.device, like.dtype)
        with torch.no_grad():
            found: Tensor = self.source.mapping(z) if truncation == 1 else self.source.mapping(z, truncation)
        return found

    def step_average(self, count: int) -> None:
        """Moves the average towards the parameters, after the optimiser's step number `count`, from 1.

        The weights that training began with do not count (as in Adam's moments): else a short run would end at them.
        """
        if self.ema:
            share = (1 - self.ema) / (1 - self.ema**count)
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), share)

    def result(self) -> Any:
        """The adapted generator: a copy with the average's weights, or the trained one itself where there is none."""
        if not self.average:
            return self.adapted
        found = copied(self.adapted).requires_grad_(False)
        own = dict(found.named_parameters())
        for name, x in self.average.items():
            own[name].copy_(x)
        return found

    def state(self) -> dict[str, Tensor]:
        """What is trained, on the CPU: `generator.NAME`, and `average.NAME`."""
        return {name: x.detach().cpu().contiguous() for name, x in self._held().items()}

    def _held(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {f"generator.{name}": p for name, p in self.parameters.items()}
        return found | {f"average.{name}": x for name, x in self.average.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from `state`.

        Raises:
            ValueError: it does not fit; nothing is changed then.
        """
        own = self._held()
        for name, x in own.items():
            if name not in tensors:
                raise ValueError(f"it lacks {name}")
            if tensors[name].shape != x.shape:
                raise ValueError(f"{name} is {list(tensors[name].shape)}, expected {list(x.shape)}")
        with torch.no_grad():
            for name, x in own.items():
                x.copy_(tensors[name])

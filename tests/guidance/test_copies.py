"""Copies of a prior, and several users of one: right, or refused in a sentence."""

from __future__ import annotations

import concurrent.futures
import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ldp_fast.guidance import LatentDiffusionPrior

from ..support import processes
from ..support.models import tiny_vae
from .steps import fixed, make


def _through_a_file(prior: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(prior, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


RELOADS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "torch.save": _through_a_file,
}


def gradient(prior: LatentDiffusionPrior, latents: torch.Tensor, text: Any) -> torch.Tensor:
    return prior.gradient(latents, text, **fixed(latents))[0]


@pytest.mark.parametrize("name", RELOADS)
def test_a_copy_is_right_and_its_own(name: str) -> None:
    """Before and after a step, several times over, and after the copy is gone."""
    prior, latents, text = make()
    early = RELOADS[name](prior)
    expected = gradient(prior, latents, text)
    for _ in range(3):
        other = RELOADS[name](prior)
        assert torch.equal(gradient(other, latents, text), expected)
        assert other.unet is not prior.unet and other.vae is not prior.vae
        with torch.no_grad():
            for parameter in [*other.vae.parameters(), *other.unet.parameters()]:
                parameter.mul_(1.25)
        changed = gradient(other, latents, text)
        made = LatentDiffusionPrior(other.unet, other.vae, other.scheduler, settings=other.settings)
        assert torch.equal(changed, gradient(made, latents, text)), "the copy does not use its own weights"
        other.vae = tiny_vae()
        assert not torch.equal(gradient(other, latents, text), changed)
        del other, made
        assert torch.equal(gradient(prior, latents, text), expected)
    assert torch.equal(gradient(early, latents, text), expected)
    # Nothing that was derived from a network or a scheduler is the original's.
    kept = RELOADS[name](prior)
    assert kept._checked[0] is kept.unet and not kept._schedule_of.holds(prior.scheduler)
    assert kept.schedule is kept.schedule and kept._schedule_of.holds(kept.scheduler)
    assert kept.decoder.vae is kept.vae


@pytest.mark.parametrize("name", RELOADS)
def test_a_copy_keeps_a_decoder_that_was_handed_over(name: str) -> None:
    """And it follows the copy's VAE, not the original's."""
    prior, latents, text = make(memory="recompute")
    expected = gradient(prior, latents, text)
    other = RELOADS[name](prior)
    assert other.decoder.memory == "recompute" and other.decoder is not prior.decoder
    assert torch.equal(gradient(other, latents, text), expected)
    with torch.no_grad():
        for parameter in other.vae.parameters():
            parameter.mul_(1.25)
    made = LatentDiffusionPrior(other.unet, other.vae, other.scheduler, settings=other.settings)
    assert torch.equal(gradient(other, latents, text), gradient(made, latents, text))
    assert torch.equal(gradient(prior, latents, text), expected)


class Steps(torch.utils.data.Dataset):
    """A data set whose items are gradients of a prior."""

    def __init__(self, prior: LatentDiffusionPrior, latents: torch.Tensor, text: Any):
        self.inputs = prior, latents, text

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        return gradient(*self.inputs)


@pytest.mark.skipif("fork" not in torch.multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_workers_of_a_data_loader_that_are_forks() -> None:
    """A data set that holds a prior, in worker processes that have it already."""
    # In a process of its own: torch forbids a backward in a fork of a process whose autograd has started threads, which
    # another test may have made it do.
    done = processes.Started(check_workers, "fork").wait(300)
    assert done.code == 0, done.err


def test_workers_of_a_data_loader_that_get_it_pickled() -> None:
    """The same in workers that have nothing yet."""
    processes.context()
    sharing = torch.multiprocessing.get_sharing_strategy()
    try:
        # As a file descriptor each, a prior's tensors are more than a fork server takes.
        torch.multiprocessing.set_sharing_strategy("file_system")
        check_workers(processes.METHOD)
    finally:
        torch.multiprocessing.set_sharing_strategy(sharing)


def check_workers(context: str) -> None:
    """Gradients of the workers of a data loader are those made here."""
    prior, latents, text = make()
    expected = gradient(prior, latents, text)
    loader = torch.utils.data.DataLoader(
        Steps(prior, latents, text), batch_size=None, num_workers=1, multiprocessing_context=context, timeout=120
    )
    found = list(loader)
    # One thread there, more here: sums may be taken in another order.
    assert len(found) == 2 and torch.equal(*found)
    assert (found[0] - expected).norm() < 1e-4 * expected.norm()
    assert torch.equal(gradient(prior, latents, text), expected)


def test_threads_that_share_a_prior() -> None:
    """Also in the first step, in which the decoder is made."""
    prior, latents, text = make()
    expected = [gradient(make()[0], latents + k, text) for k in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda k: gradient(prior, latents + k, text), range(4)))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", RELOADS)
def test_a_copy_of_a_compiled_prior_is_not_compiled(name: str) -> None:
    prior, latents, text = make(lambda_fm=0.0)
    compiled = prior.compile(backend="eager")
    gradient(compiled, latents, text)
    other = RELOADS[name](compiled)
    assert type(other.unet) is type(prior.unet) and other.unet is not prior.unet
    torch.testing.assert_close(gradient(other, latents, text), gradient(prior, latents, text))
    again = other.compile(backend="eager")
    torch.testing.assert_close(gradient(again, latents, text), gradient(prior, latents, text))


@pytest.mark.parametrize("name", RELOADS)
def test_a_captured_step_is_not_copied(name: str) -> None:
    prior, latents, text = make(lambda_fm=0.0)
    step = prior.capture(latents, text)
    assert torch.equal(RELOADS[name](step)(latents, **fixed(latents))[0], gradient(prior, latents, text))
    step._graph = object()  # what there is on a GPU
    with pytest.raises(TypeError, match=r"CapturedStep: .* a copy of a CUDA graph; copy the prior and capture another"):
        RELOADS[name](step)


def test_what_has_no_copy_says_so() -> None:
    """A weighting written on the spot is Python's to refuse: its sentence names it."""
    prior, _, _ = make(lambda_fm=0.0, weighting=lambda t: t / 1000)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(prior)
    assert copy.deepcopy(prior).settings.weighting is prior.settings.weighting

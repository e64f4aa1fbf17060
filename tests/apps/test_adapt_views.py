"""The side that a z shows is named in the prompt, where it is known: `--view-prompts`."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldp_fast.apps.adapt import own, run
from ldp_fast.apps.adapt.draws import Draws
from ldp_fast.apps.adapt.guides import by_prior
from ldp_fast.apps.adapted import root_of
from ldp_fast.cli import main
from ldp_fast.errors import UsageError
from ldp_fast.generators import load, sampling, save
from ldp_fast.zoo import generator, world

from . import adapt_stub as stub
from .adapt_guides import ALL, DRAWS, close, fresh_guide_of, guide_of, pictures
from .test_adapt_own import Foreign

WORDS = ("low side", "high front", "low side")


def in_three(z: Tensor) -> list[str]:
    return [("low", "raised", "high")[int(3 * x)] + " front" for x in z[:, 0].sigmoid()]


def view_prompts(name: str, **said: Any) -> Any:
    """What a run records."""
    return stub.configuration(name, **said).plain().get("view_prompts")


def test_the_words_are_those_of_captions_for_the_view_that_is_shown() -> None:
    z = sampling.latents(5, 0, 64, generator.SETTINGS.z_dim)
    found = generator.view_words(z)
    for words, view in zip(found, generator.attributes(z).views(), strict=True):
        assert view.agrees(f"a red cube, {words} view")
        height, side = words.split()
        assert side == ("front" if abs(view.azimuth) < np.pi / 4 else "side")
        assert height == (
            "low" if view.elevation <= np.radians(15) else "raised" if view.elevation <= np.radians(35) else "high"
        )
    assert set(found) == set(generator.all_view_words()) and len(set(found)) == 2 * len(world.HEIGHTS)


@pytest.mark.parametrize(
    "more",
    [{}, {"regularisers": ALL}, {"settings": {"noises": 2}}, {"settings": {"noises": 2}, "regularisers": ALL}],
    ids=str,
)
def test_each_sample_is_guided_by_its_own_view(more: dict[str, Any]) -> None:
    guide, x, sources = guide_of(**more), pictures(), pictures(seed=1)
    found, _ = guide.gradient(x, sources, dataclasses.replace(DRAWS, views=WORDS), 0.0)
    for i, words in enumerate(WORDS):
        named = guide_of(prompt=f"a red sphere, {words} view", **more)
        parts = x[i : i + 1], sources[i : i + 1]
        alone, _ = named.gradient(*parts, Draws(3, 5, (i,)), 0.0)
        assert close(found[i : i + 1], alone)
        assert close(guide.gradient(*parts, Draws(3, 5, (i,), (words,)), 0.0)[0], alone)
    assert not close(found, guide.gradient(x, sources, DRAWS, 0.0)[0], 0.01)


def test_texts_of_views_are_made_once_and_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    guide, asked = fresh_guide_of(prompt="a red sphere. "), list[str]()
    encode = guide.prior.encode_prompt
    monkeypatch.setattr(
        guide.prior, "encode_prompt", lambda text, negative: asked.append(text) or encode(text, negative)
    )
    monkeypatch.setattr(by_prior, "MOST_VIEWS", 2)
    for views in (WORDS[:2], WORDS, ("low front",), WORDS[:2]):
        x = pictures(len(views))
        guide.gradient(x, x, Draws(3, 5, tuple(range(len(views))), views), 0.0)
    wanted = ["low side", "high front", "low front", "low side", "high front"]
    assert asked == [f"a red sphere, {words} view" for words in wanted]
    with pytest.raises(UsageError, match="does not know 'leftmost'"):
        guide.know_views(["leftmost"])


def test_a_step_names_the_views_of_its_own_samples() -> None:
    guide = stub.Red()
    experiment = stub.experiment(guide, select_layers=1, select_samples=3)
    experiment.view_words = in_three
    experiment.advance()
    assert [len(draws.samples) for draws, _ in guide.seen] == [2, 1, 2]
    for draws, _ in guide.seen:
        assert draws.views == tuple(in_three(draws.latents(6)))


def test_views_are_named_where_they_are_known_and_free(tmp_path: pathlib.Path) -> None:
    assert view_prompts("primitives") == "by-z"
    assert view_prompts("primitives", guidance="lsd") == "by-z"
    assert view_prompts("primitives", prompt="a red sphere, low side view.") == "none"
    assert view_prompts("primitives", truncation=0.7) == "none", "such a picture is not where its z says"
    assert view_prompts("primitives", view_prompts="none") == "none"
    assert view_prompts("primitives", truncation=0.7, view_prompts="by_z") == "by-z"
    assert view_prompts("primitives", model="somebody/sd") == "none", "nobody has tried these words there"
    assert view_prompts("primitives", guidance="clip-directional") is None
    assert view_prompts(stub.saved(tmp_path / "other")) == "none"


@pytest.mark.parametrize(
    ("prompt", "free"),
    [
        ("a red sphere", True),
        ("Interviews with a red sphere", True),
        ("a sphere from Venice", True),
        ("a red sphere, high view", False),
        ("Low side view: a red sphere", False),
        ("a red sphere, low side-view!", False),
        ("two views of a red sphere", False),
        ("a red sphere from above", False),
        ("a dog seen from the side", False),
        ("a red sphere, low", False),
        ("a red sphere, high side.", False),
        ("a red sphere, overhead", False),
        ("a high red sphere", True),
    ],
)
def test_a_prompt_that_names_a_view_is_left_alone(prompt: str, free: bool) -> None:
    assert view_prompts("primitives", prompt=prompt) == ("by-z" if free else "none")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["adapt", *words, "--device", "cpu", "--print-config"]) == 0
    return capsys.readouterr().out


def test_a_file_says_again_what_it_has_recorded(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for said in ("none", "by-z"):
        text = printed(capsys, stub.PROMPT, "--view-prompts", said)
        (tmp_path / f"{said}.yaml").write_text(text)
        assert f"view_prompts: {said}" in text
        again = printed(capsys, "--config", str(tmp_path / f"{said}.yaml"), "--seed", "3")
        assert f"view_prompts: {said}" in again
    # What was decided for one prompt and one generator is not forced on another.
    by_z = str(tmp_path / "by-z.yaml")
    assert "view_prompts: none" in printed(capsys, "a red sphere, low side view", "--config", by_z)
    other = stub.saved(tmp_path / "other")
    assert "view_prompts: none" in printed(capsys, "--config", by_z, "--generator", other)
    assert "view_prompts: none" in printed(capsys, "a cone", "--config", str(tmp_path / "none.yaml"))


def adapted_from(folder: pathlib.Path, name: str, **more: Any) -> str:
    made = stub.tiny()
    made.about["adapted"] = {"prompt": "a red sphere", "from": name, **more}
    save(folder, made)
    return str(folder)


def test_what_an_embedded_generator_has_become_is_known(tmp_path: pathlib.Path) -> None:
    first = adapted_from(tmp_path / "first", "primitives")
    second = adapted_from(tmp_path / "second", first)
    assert root_of("primitives") == root_of(first) == root_of(second) == "primitives"
    assert view_prompts(second) == "by-z"
    assert root_of(adapted_from(tmp_path / "kept", str(tmp_path / "gone"), root="primitives")) == "primitives"
    circle = adapted_from(tmp_path / "circle", str(tmp_path / "circle"))
    for name in (
        circle,
        adapted_from(tmp_path / "lost", str(tmp_path / "gone")),
        stub.saved(tmp_path / "other"),
        "none",
    ):
        assert root_of(name) is None


def test_a_run_says_what_its_generator_goes_back_to(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.guided_by_red(monkeypatch)
    words = ["--device", "cpu", "--steps", "1", "--samples", "0", "--no-film", "--generator", "primitives"]
    assert main(["adapt", stub.PROMPT, *words, "--out", str(tmp_path / "run")]) == 0
    about = load(tmp_path / "run" / "generator").about["adapted"]
    assert (about["from"], about["root"]) == ("primitives", "primitives")


def test_the_command_asks_the_embedded_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    stub.guided_by_red(monkeypatch)
    experiment = run.begin(stub.configuration("primitives"))
    assert experiment.view_words is generator.view_words
    assert run.begin(stub.configuration("primitives", view_prompts="none")).view_words is None


def test_a_generator_whose_history_is_gone_goes_on(tmp_path: pathlib.Path) -> None:
    first = adapted_from(tmp_path / "first", "primitives")
    given = stub.configuration(adapted_from(tmp_path / "second", first), steps=1, batch=1)
    shutil.rmtree(first)
    assert run.begin(given).view_words is generator.view_words


def test_views_that_nobody_knows_are_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = stub.saved(tmp_path / "other")
    for words, said in (
        (
            ["--generator", other, "--view-prompts", "by-z"],
            "--view-prompts: expected none with a generator whose z's views",
        ),
        (["--view-prompts", "left"], "--view-prompts: expected one of"),
        (
            ["--guidance", "clip-directional", "--view-prompts", "by-z"],
            "--view-prompts: expected only with --guidance ldp",
        ),
    ):
        assert main(["adapt", stub.PROMPT, *words, "--device", "cpu", "--out", str(tmp_path / "run")]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


class Turned(Foreign):
    """Somebody's own generator that knows its views."""

    def view_words(self, z: Tensor) -> list[str]:
        return in_three(z)


def seen(monkeypatch: pytest.MonkeyPatch, module: torch.nn.Module, **settings: Any) -> list[Any]:
    guide = stub.Red()
    monkeypatch.setattr(own, "load_guide", lambda configuration: guide)
    own.adapt(module, stub.PROMPT, device="cpu", steps=1, batch=2, **settings)
    return [draws.views for draws, _ in guide.seen]


def test_a_generator_of_your_own_may_say_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = Draws(0, 0, (0, 1))
    assert seen(monkeypatch, Turned()) == [tuple(in_three(draws.latents(5)))]
    assert seen(monkeypatch, Foreign()) == [None]
    assert seen(monkeypatch, Turned(), view_prompts="none") == [None]
    assert seen(monkeypatch, Turned(), guidance="clip-directional", source_prompt="a cube") == [None]
    with pytest.raises(UsageError, match=r"view_prompts: expected none, or a generator with view_words\(z\); Foreign"):
        own.adapt(Foreign(), stub.PROMPT, device="cpu", view_prompts="by-z")
    for wrong in (["low side view"] * 2, ["", "low side"], [", low", "low"], ["low side "] * 2):
        monkeypatch.setattr(Turned, "view_words", lambda self, z, wrong=wrong: wrong * (len(z) // 2))
        with pytest.raises(
            UsageError, match=r"expected words such as 'low side' of view_words\(z\), without 'view', got"
        ):
            own.adapt(Turned(), stub.PROMPT, device="cpu", batch=2, steps=1)
    for wrong in (["low side"], "ab", [1, 2], None):
        monkeypatch.setattr(Turned, "view_words", lambda self, z, wrong=wrong: wrong)
        with pytest.raises(UsageError, match=r"generator: expected 2 texts of view_words\(z\), got"):
            own.adapt(Turned(), stub.PROMPT, device="cpu", batch=2, steps=1)

"""The generator that comes with the package draws what its card says."""

from __future__ import annotations

import torch

from ldp_fast.generators import StyleGAN2, load
from ldp_fast.generators.sampling import in_unit_range, latents, pictures
from ldp_fast.zoo.generator import FINE, SETTINGS, mixed
from ldp_fast.zoo.generator_card import COLUMNS, ROWS, main, renders, rows


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def test_samples_are_what_their_z_say() -> None:
    generator = load("primitives")
    assert generator.settings == SETTINGS and generator.about["shows"] == "a cube"
    z = latents(11, 0, 24, generator.z_dim)
    made, wanted = pictures(generator, z), renders(z)
    assert psnr(made, wanted) > 28
    assert psnr(made, wanted.roll(1, 0)) < 16, "each picture is of its own z"


def test_mixed_styles_have_the_first_pose_and_the_second_colours() -> None:
    generator = load("primitives")
    first, second = latents(12, 0, 16, generator.z_dim), latents(13, 0, 16, generator.z_dim)
    with torch.no_grad():
        shown = in_unit_range(generator.synthesis(mixed(generator, first, second)))
    greys, own, other = (x[:, :, 0, 0].mean(1) for x in (shown, renders(second), renders(first)))
    assert (greys - own).abs().max() < 0.06 < (greys - other).abs().max() and 0 < FINE < generator.layers


def test_the_card_s_figure_and_numbers(tmp_path, capsys) -> None:
    torch.manual_seed(0)
    assert rows(StyleGAN2(SETTINGS)).shape == (COLUMNS * len(ROWS), 3, 64, 64)
    assert main(["--samples", "4", "--out", str(tmp_path)]) == 0
    assert '"psnr": ' in capsys.readouterr().out and {x.name for x in tmp_path.iterdir()} == {
        "results.json",
        "generator.png",
    }

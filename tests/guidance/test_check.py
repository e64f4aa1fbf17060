"""What a prior cannot serve is refused by name when it is made; what it can is right."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, TextEmbeddings
from ldp_fast.guidance.check import bare, check_model

from ..support.models import TEXT_WIDTH, scheduler, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae
from .pipelines import stable_diffusion, stable_diffusion_xl

SETTINGS = PriorSettings(0.0, 0.1, guidance_scale=2.0)


def unet_with(**options: Any) -> UNet2DConditionModel:
    """Stable Diffusion's class with other options."""
    torch.manual_seed(1)
    small = {
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**{**small, **options}).eval().requires_grad_(False)


def prior_on(unet: Any, vae: Any = None, **parts: Any) -> LatentDiffusionPrior:
    return LatentDiffusionPrior(unet, vae, scheduler(), settings=SETTINGS, **parts)


def step(prior: LatentDiffusionPrior, **text: Any) -> torch.Tensor:
    """A gradient at a t and an ε that are given."""
    g = torch.Generator().manual_seed(4)
    v, noise = (torch.randn(2, 4, 8, 8, generator=g) for _ in range(2))
    text = TextEmbeddings(*torch.randn(2, 1, 5, TEXT_WIDTH, generator=g), **text)
    return prior.gradient(v, text, timesteps=300, noise=noise)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 9}, r"9 in and 4 out: it is given a mask and masked latents, for inpainting as well"),
        ({"in_channels": 8}, "8 in and 4 out: it is given another picture's latents as well"),
        ({"in_channels": 7}, "7 in and 4 out: it is given a small picture, for upscaling as well"),
        ({"in_channels": 5}, "5 in and 4 out: it is given a depth map as well"),
        ({"out_channels": 8}, "4 in and 8 out: a network that learns its variance"),
        ({"num_class_embeds": 10}, r"wants class labels \(num_class_embeds=10\)"),
        (
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8},
            r"wants class labels \(class_embed_type='projection'\)",
        ),
        ({"time_cond_proj_dim": 32}, r"guidance scale \(time_cond_proj_dim=32: a latent consistency model\)"),
        (
            {"addition_embed_type": "image", "encoder_hid_dim": 8, "cross_attention_dim": 16},
            r"image embeddings \(addition_embed_type='image'\)",
        ),
        (
            {"encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 8},
            r"image embeddings \(encoder_hid_dim_type='image_proj'\)$",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_networks_that_want_more(options: dict[str, Any], message: str) -> None:
    unet = unet_with(**options)
    for wrapped in (unet, torch.compile(unet), nn.DataParallel(unet)):
        with pytest.raises(UsageError, match=f"^unet: expected .*{message}"):
            prior_on(wrapped)


def test_ip_adapter() -> None:
    unet = unet_with()
    prior = prior_on(unet)
    step(prior)
    unet.config.encoder_hid_dim_type = "ip_image_proj"  # what load_ip_adapter writes
    for use in (lambda: prior_on(unet), lambda: step(prior), lambda: step(prior.compile())):
        with pytest.raises(UsageError, match=r"encoder_hid_dim_type='ip_image_proj'\); unload_ip_adapter\(\) takes"):
            use()
    unet.config.encoder_hid_dim_type = None
    step(prior)


def test_projected_text_has_the_width_before_the_projection() -> None:
    unet = unet_with(encoder_hid_dim_type="text_proj", encoder_hid_dim=24)
    prior = prior_on(unet)
    v = torch.zeros(1, 4, 8, 8)
    prior.gradient(v, torch.zeros(2, 5, 24))
    with pytest.raises(ValueError, match="width 24, got 16"):
        prior.gradient(v, torch.zeros(2, 5, 16))


def test_other_networks_of_diffusers_are_refused_by_name() -> None:
    from diffusers import PixArtTransformer2DModel, UNet2DModel

    unconditional = UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
    )
    pixart = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        sample_size=8,
        cross_attention_dim=8,
        caption_channels=8,
    )
    for network in (unconditional, pixart):
        with pytest.raises(UsageError, match=f"UNet2DConditionModel, or a module of .* got {type(network).__name__}$"):
            prior_on(network)
    with pytest.raises(UsageError, match=r"unet: expected an nn.Module, got NoneType"):
        prior_on(None)


class Own(nn.Module):
    """A network of a host's own, without a configuration; its channels are what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, sample: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        return self.inner(sample) + encoder_hidden_states.mean()


class OwnKind(UNet2DConditionModel):
    """A host's subclass."""


def test_networks_of_a_host_are_taken() -> None:
    own = Own()
    for network in (own, torch.compile(own, backend="eager"), nn.DataParallel(own)):
        assert bare(network) is own
        assert torch.isfinite(step(prior_on(network))).all()
    with pytest.raises(UsageError, match="latent_shape: expected a UNet whose configuration has in_channels"):
        _ = prior_on(own).latent_shape
    kind = OwnKind(**dict(unet_with().config)).eval()
    assert torch.isfinite(step(prior_on(kind))).all()


def test_the_sizes_a_network_was_made_for() -> None:
    for size, shape in ((8, (4, 8, 8)), ([8, 6], (4, 8, 6)), ((8, 6), (4, 8, 6))):
        assert prior_on(unet_with(sample_size=size)).latent_shape == shape
        assert prior_on(torch.compile(unet_with(sample_size=size))).latent_shape == shape
    assert prior_on(unet_with(sample_size=None), tiny_vae()).latent_shape == (4, 8, 8)  # 64 pixels, 8 a latent
    with pytest.raises(UsageError, match=r"sample_size of one or two numbers, got in_channels=4 and sample_size=None"):
        _ = prior_on(unet_with(sample_size=None)).latent_shape


def test_parts_have_to_fit(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="vae: expected the UNet's 4 channels, got 16 of this AutoencoderKL"):
        prior_on(unet_with(), tiny_vae(latent_channels=16))
    text: dict[str, Any] = {"tokenizer": tiny_tokenizer(tmp_path), "text_encoder": tiny_text_encoder()}
    with pytest.raises(UsageError, match=r"text_encoder: expected embeddings of the UNet's width 24, got 16$"):
        prior_on(unet_with(cross_attention_dim=24), **text)
    both = {**text, "tokenizer_2": text["tokenizer"], "text_encoder_2": tiny_text_encoder(projection=True)}
    with pytest.raises(UsageError, match=r"width 16, got 16 \+ 16$"):
        prior_on(unet_with(), **both)
    with pytest.raises(UsageError, match=r"text_encoder_2: this UNet \(SDXL's\) wants a second .*, got None"):
        prior_on(tiny_unet(sdxl=True), **text)
    prior_on(tiny_unet(sdxl=True), **both)
    prior_on(tiny_unet(sdxl=True))  # whose host brings embeddings
    text["text_encoder"].config.vocab_size = 60
    with pytest.raises(UsageError, match="tokenizer: expected at most the text encoder's 60 tokens, got 64"):
        prior_on(unet_with(), **text)


def test_a_vocabulary_of_marks_alone() -> None:
    """What transformers makes of a folder without tokenizer files: every prompt would be the same."""

    class Empty:
        all_special_ids: tuple[int, ...] = (0, 1)

        def __len__(self) -> int:
            return 2

    with pytest.raises(UsageError, match="tokenizer: expected a vocabulary, got one of 2 tokens, all of them special"):
        prior_on(unet_with(), tokenizer=Empty(), text_encoder=tiny_text_encoder())


def test_the_refiner(tmp_path: pathlib.Path) -> None:
    options = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    refiner = unet_with(**options, projection_class_embeddings_input_dim=5 * 8 + TEXT_WIDTH)
    second = {"tokenizer_2": tiny_tokenizer(tmp_path), "text_encoder_2": tiny_text_encoder(projection=True)}
    with pytest.raises(UsageError, match=r"width 16, got a network for 8 beside six .* five numbers .*refiner"):
        prior_on(refiner, **second)
    with pytest.raises(ValueError, match=r"width 8, got 16: it wants five numbers .*refiner"):
        step(prior_on(refiner), pooled=torch.zeros(1, 16), pooled_uncond=torch.zeros(1, 16))
    odd = unet_with(**options, projection_class_embeddings_input_dim=6 * 8 + 3)
    with pytest.raises(UsageError, match=r"width 16, got a network for 3 beside six numbers of size and crop$"):
        prior_on(odd, **second)
    pipe = stable_diffusion_xl(tmp_path)
    pipe.register_to_config(requires_aesthetics_score=True)
    with pytest.raises(UsageError, match=r"pipe: .* StableDiffusionXLPipeline wants five and an aesthetic score"):
        LatentDiffusionPrior.from_pipe(pipe)


def test_pipelines_with_parts_that_would_be_left_out(tmp_path: pathlib.Path) -> None:
    pipe = stable_diffusion(tmp_path)
    for name in ("controlnet", "adapter", "motion_adapter"):
        setattr(pipe, name, nn.Linear(1, 1))
        with pytest.raises(UsageError, match=f"pipe: .* the {name} of this StableDiffusionPipeline would not be used"):
            LatentDiffusionPrior.from_pipe(pipe)
        setattr(pipe, name, None)
    LatentDiffusionPrior.from_pipe(pipe)


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.bfloat16])
def test_layerwise_casting(storage: torch.dtype) -> None:
    """The precision is the one that the layers compute in, also where it is asked for later."""
    unet = unet_with()
    if not hasattr(unet, "enable_layerwise_casting"):
        pytest.skip("this diffusers has no layerwise casting")
    prior = prior_on(unet)
    before = step(prior)
    unet.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    assert next(unet.parameters()).dtype == storage
    assert prior.dtype == prior_on(unet).dtype == prior_on(torch.compile(unet)).dtype == torch.float32
    after = step(prior)
    rounded = unet_with()
    with torch.no_grad():  # the same weights, rounded to what they are stored in
        for name, module in rounded.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and "norm" not in name:
                for parameter in module.parameters():
                    parameter.copy_(parameter.to(storage).float())
    torch.testing.assert_close(after, step(prior_on(rounded)))
    assert not torch.equal(after, before)
    with pytest.raises(UsageError, match=f"optimise: expected a UNet in float32, got one cast .* from {storage}"):
        prior.optimise(torch.zeros(1, 4, 8, 8), torch.zeros(2, 5, TEXT_WIDTH))
    vae = tiny_vae()
    vae.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    with pytest.raises(
        UsageError, match=f"vae: expected .*enable_layerwise_casting.*, from {storage} to torch.float32"
    ):
        prior_on(unet_with(), vae)
    with pytest.raises(UsageError, match=r"unet: expected weights in float16, .*, got torch.float8_e5m2"):
        prior_on(unet_with().to(torch.float8_e5m2))


def test_offload() -> None:
    accelerate = pytest.importorskip("accelerate")
    for part in ("unet", "vae"):
        networks: dict[str, Any] = {"unet": unet_with(), "vae": tiny_vae()}
        accelerate.cpu_offload_with_hook(networks[part], execution_device="cpu")
        with pytest.raises(UsageError, match=rf"{part}: .*offloaded \(enable_model_cpu_offload\): use pipe.to"):
            prior_on(**networks)
        networks = {"unet": unet_with(), "vae": tiny_vae()}
        accelerate.cpu_offload(networks[part], execution_device="cpu")
        with pytest.raises(UsageError, match=rf"{part}: .*offloaded \(enable_sequential_cpu_offload\)"):
            prior_on(**networks)
        networks = {"unet": unet_with(), "vae": tiny_vae()}
        if not hasattr(networks[part], "enable_group_offload"):
            continue  # this diffusers has none
        networks[part].enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
        with pytest.raises(UsageError, match=rf"{part}: .*offloaded \(enable_group_offload\)"):
            prior_on(**networks)


def test_a_cache_across_steps() -> None:
    hooks = pytest.importorskip("diffusers.hooks", reason="this diffusers has no caches across steps")
    unet = unet_with()
    registry = hooks.HookRegistry.check_if_exists_or_initialize(unet.mid_block)
    registry.register_hook(hooks.ModelHook(), "faster_cache_block")
    with pytest.raises(UsageError, match=r"unet: expected every step computed; a cache .* \(faster_cache_block\)"):
        prior_on(unet)


def test_lora_on_a_live_pipeline() -> None:
    peft = pytest.importorskip("peft")
    unet = unet_with()
    prior = prior_on(unet)
    plain = step(prior)
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    with_adapter = step(prior)
    assert not torch.equal(with_adapter, plain)
    torch.testing.assert_close(step(prior_on(unet)), with_adapter)
    unet.disable_adapters()
    torch.testing.assert_close(step(prior), plain)
    wrapped = peft.get_peft_model(unet_with(), peft.LoraConfig(r=2, target_modules=["to_q"]))
    assert prior_on(wrapped).latent_shape == (4, 8, 8)
    torch.testing.assert_close(step(prior_on(wrapped)), plain)  # an adapter starts as nothing


def test_networks_that_are_replaced_are_checked_at_the_next_step() -> None:
    prior = prior_on(unet_with(), tiny_vae())
    prior.unet = unet_with(time_cond_proj_dim=32)
    with pytest.raises(UsageError, match="latent consistency"):
        step(prior)
    prior.unet = unet_with()
    prior.vae = tiny_vae(latent_channels=16)
    with pytest.raises(UsageError, match="vae: expected the UNet's 4 channels"):
        step(prior)


def test_the_check_takes_a_few_milliseconds() -> None:
    """Of a network as deep as SDXL's, whose modules have to be looked at for hooks."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=2048, transformer_layers_per_block=(1, 2, 10, 10))
        vae = AutoencoderKL(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            layers_per_block=2,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
        )
    prior = prior_on(unet, vae)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        check_model(prior)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.05, taken


def test_settings_survive(tmp_path: pathlib.Path) -> None:
    """A prior with other settings shares what was checked, and checks nothing again."""
    prior = LatentDiffusionPrior.from_pipe(stable_diffusion(tmp_path))
    other = prior.with_settings(lambda_fm=0.0)
    assert other._checked is prior._checked
    assert dataclasses.replace(prior.settings, lambda_fm=0.0) == other.settings

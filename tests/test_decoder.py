import copy
import functools
import math
import re
from typing import Any

import pytest
import torch

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.backbone import NAMES, Base, build_sam
from unsam_lightning.decoder import Embedding, GranularityDecoder, GranularityEncoder
from unsam_lightning.errors import UserError
from unsam_lightning.lora import LoRALinear
from unsam_lightning.model import UnSAM


@pytest.fixture(scope="module")
def small() -> torch.nn.Module:
    """SAM-2.1 small with random weights."""
    torch.manual_seed(0)
    return build_sam("small").requires_grad_(False)


def adapter_of(sam: torch.nn.Module, config: AdapterConfig) -> GranularityDecoder:
    return GranularityDecoder(config, sam.sam_mask_decoder, sam.sam_prompt_encoder.not_a_point_embed.weight)


def num_trained(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def test_official_preset_adds_the_official_number(small: torch.nn.Module) -> None:
    decoder = adapter_of(small, AdapterConfig.preset("official"))
    assert num_trained(decoder) == 345_760
    parts = {
        "granularity_encoder.mlp": 111_232,
        "granularity_encoder.type_embedding": 256,
        "token": 256,
        "mask_head": 139_808,
        "transformer": 94_208,
    }
    counted = {
        part: sum(p.numel() for name, p in decoder.named_parameters() if name.startswith(part) and p.requires_grad)
        for part in parts
    }
    assert counted == parts
    assert sum(isinstance(module, LoRALinear) for module in decoder.modules()) == 28


def test_compact_preset_keeps_the_abstracts_promise(small: torch.nn.Module) -> None:
    decoder = adapter_of(small, AdapterConfig.preset("compact"))
    assert 0 < num_trained(decoder) <= 9_212
    # And all of it is used.
    image = torch.randn(1, 256, 8, 8)
    high_res = (torch.randn(1, 32, 32, 32), torch.randn(1, 64, 16, 16))
    prompt = torch.randn(1, 2, 256)
    embedding, index = Embedding(image, high_res), torch.zeros(1, dtype=torch.long)
    out = decoder(small.sam_mask_decoder, embedding, index, image, prompt, image, torch.tensor([0.5]))
    (out[0].sum() + out[1].sum()).backward()
    assert all(p.grad is not None for p in decoder.parameters() if p.requires_grad)


def test_unknown_preset_is_named() -> None:
    with pytest.raises(UserError, match=r"default, official, compact.*'tiny'"):
        AdapterConfig.preset("tiny")


@pytest.mark.parametrize("name", ["default", "official", "compact"])
def test_config_survives_plain_values(name: str) -> None:
    config = AdapterConfig.preset(name)
    assert AdapterConfig.from_dict(config.to_dict()) == config
    assert all(isinstance(value, int | float | str | bool | list) for value in config.to_dict().values())


def test_features_of_a_granularity_by_hand() -> None:
    torch.manual_seed(0)
    encoder = GranularityEncoder(AdapterConfig(fourier_dim=4, hidden_dims=(), fourier_temperature=100.0), 4)
    with torch.no_grad():
        encoder.mlp[0].weight.copy_(torch.eye(4))
        encoder.mlp[0].bias.zero_()
        encoder.type_embedding.zero_()
    # Frequencies 100^0 = 1 and 100^(1/2) = 10; sine and cosine in turns.
    expected = [[f(k * g) for k in (1, 10) for f in (math.sin, math.cos)] for g in (0.1, 0.7)]
    torch.testing.assert_close(encoder(torch.tensor([0.1, 0.7])), torch.tensor(expected))


def test_lora_by_hand() -> None:
    base = torch.nn.Linear(3, 2).requires_grad_(False)
    lora = LoRALinear(base, rank=2, alpha=6.0, dropout=0.0)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lora(x), base(x))  # starts without an effect
    with torch.no_grad():
        lora.lora_b.normal_(generator=torch.Generator().manual_seed(1))
    expected = base(x) + 3.0 * (lora.lora_b @ (lora.lora_a @ x.T)).T
    torch.testing.assert_close(lora(x), expected)
    torch.testing.assert_close(lora.merged()(x), expected)
    assert not any(p.requires_grad for p in lora.merged().parameters())


def test_lora_dropout_acts_in_training_only_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    lora = LoRALinear(torch.nn.Linear(16, 4).requires_grad_(False), rank=2, alpha=2.0, dropout=0.5)
    with torch.no_grad():
        lora.lora_b.normal_()
    x = torch.randn(1, 16)
    settled = lora.eval()(x)
    assert torch.equal(settled, lora(x))
    draws = lora.train()(x.expand(20_000, -1))
    assert draws.std(0).min() > 1e-3
    torch.testing.assert_close(draws.mean(0, keepdim=True), settled, atol=0.02, rtol=0.02)


def test_transformer_is_shared_number_by_number(small: torch.nn.Module) -> None:
    decoder = adapter_of(small, AdapterConfig())
    own = {id(parameter) for parameter in decoder.parameters() if not parameter.requires_grad}
    assert own == {id(parameter) for parameter in small.sam_mask_decoder.transformer.parameters()}
    assert not any(isinstance(module, LoRALinear) for module in small.modules())


def test_lora_goes_where_the_config_says(small: torch.nn.Module) -> None:
    def places(**options: object) -> set[str]:
        decoder = adapter_of(small, AdapterConfig(**options))
        return {name for name, module in decoder.transformer.named_modules() if isinstance(module, LoRALinear)}

    assert len(places()) == 28
    assert places(lora_rank=0) == set()
    assert places(lora_targets=("v_proj",), lora_blocks="final_attn") == {"final_attn_token_to_image.v_proj"}


def test_warm_start_copies_sams_single_mask(small: torch.nn.Module) -> None:
    sam_decoder = small.sam_mask_decoder
    decoder = adapter_of(small, AdapterConfig())
    assert torch.equal(decoder.token, sam_decoder.mask_tokens.weight[:1])
    head = sam_decoder.output_hypernetworks_mlps[0].state_dict()
    assert all(torch.equal(value, head[name]) for name, value in decoder.mask_head.state_dict().items())
    assert torch.equal(decoder.granularity_encoder.type_embedding, small.sam_prompt_encoder.not_a_point_embed.weight)
    assert all(p.requires_grad for p in (decoder.token, *decoder.mask_head.parameters()))


@torch.no_grad()
def test_warm_start_is_near_sams_own_mask_and_a_cold_one_is_not(small: torch.nn.Module) -> None:
    torch.manual_seed(0)
    image, dense, sparse = torch.randn(2, 256, 16, 16), torch.randn(2, 256, 16, 16), torch.randn(2, 2, 256)
    high_res = (torch.randn(2, 32, 64, 64), torch.randn(2, 64, 32, 32))
    image_pe = small.sam_prompt_encoder.pe_layer((16, 16))[None]
    stock = small.sam_mask_decoder(image, image_pe, sparse, dense, False, False, list(high_res))[0]

    def correlation(config: AdapterConfig) -> float:
        torch.manual_seed(1)
        out = adapter_of(small, config).eval()
        embedding, index, wanted = Embedding(image, high_res), torch.arange(2), torch.tensor([0.2, 0.9])
        masks = out(small.sam_mask_decoder, embedding, index, image_pe, sparse, dense, wanted)[0]
        return float(torch.corrcoef(torch.stack((masks.flatten(), stock.flatten())))[0, 1])

    assert correlation(AdapterConfig()) > 0.85
    assert abs(correlation(AdapterConfig(warm_start=False))) < 0.5


def test_deep_copy_is_independent(small: torch.nn.Module) -> None:
    decoder = adapter_of(small, AdapterConfig.preset("compact"))
    twin = copy.deepcopy(decoder)
    with torch.no_grad():
        twin.token.add_(1)
    assert not torch.equal(twin.token, decoder.token)


#: Numbers of SAM-2.1 itself, counted from the sam2 package's configs; SAM-2 lacks 16,512 of its memory's.
SIZES = {"tiny": 38_962_498, "small": 46_060_354, "base_plus": 80_850_178, "large": 224_446_642}
SIZES |= {f"sam2_{name}": number - 16_512 for name, number in SIZES.items()}
SIZES["nano"] = 2_831_401
EXTRA = {"default": 411_809, "official": 345_760, "compact": 6_797}
EXTRA_OF_NANO = {"default": 145_069, "official": 135_660, "compact": 2_797}


@pytest.mark.parametrize("name", [*NAMES, "nano"])
def test_numbers_of_every_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Hiera reads its drop path rates out of a tensor, which `meta` does not have.
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        sam = build_sam(name)
        models = {p: UnSAM(Base(sam=sam, name=name, sha256=""), AdapterConfig.preset(p)) for p in EXTRA}
    extra = EXTRA_OF_NANO if name == "nano" else EXTRA
    for preset, model in models.items():
        share = 100 * extra[preset] / SIZES[name]
        total = extra[preset] + SIZES[name]
        frozen = f"{SIZES[name]:,} of {name} are frozen ({share:.3f} %)"
        assert model.size_report() == f"{extra[preset]:,} of {total:,} parameters train, {frozen}"


def test_lora_that_no_layer_carries_is_refused(small: torch.nn.Module) -> None:
    with pytest.raises(UserError, match=r"name attentions of the decoder.*crossattn"):
        adapter_of(small, AdapterConfig(lora_blocks="crossattn"))


@pytest.mark.parametrize(
    "setting", [{"fourier_temperature": -2.5}, {"lora_targets": ("q_proj", "x_proj")}, {"hidden_dims": (10**6,)}]
)
def test_impossible_shapes_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=re.escape(str(next(iter(setting.values())))[:6])):
        AdapterConfig(**setting)

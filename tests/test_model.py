"""The model against stock SAM-2 and against the official UnSAMv2 model's recorded outputs."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor

from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.backbone import Base, build_sam
from unsam_lightning.errors import UserError
from unsam_lightning.lora import LoRALinear
from unsam_lightning.model import Decoded, Embedding, UnSAM


def random_lora(model: UnSAM, scale: float = 0.1) -> UnSAM:
    """Return the model with LoRA that does something, as after training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoRALinear):
                module.lora_b.copy_(scale * torch.randn(module.lora_b.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def nano() -> UnSAM:
    return random_lora(UnSAM.from_pretrained("nano"))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def embedding(nano: UnSAM, images: torch.Tensor) -> Embedding:
    return nano.encode(images)


@pytest.fixture
def one(embedding: Embedding) -> Embedding:
    return embedding.select(torch.tensor([1]))


def prompts(count: int, clicks: int, frame: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * frame
    return {
        "points_xy": torch.rand(count, clicks, 2, generator=generator) * frame,
        "labels": (torch.rand(count, clicks, generator=generator) < 0.6).int(),
        "boxes": corners.flatten(1),
        "masks": 4 * torch.randn(count, 1, frame // 4, frame // 4, generator=generator),
    }


#: Which prompts go together.
KINDS = [
    ("points_xy", "labels"),
    ("boxes",),
    ("masks",),
    ("points_xy", "labels", "boxes"),
    ("points_xy", "labels", "masks"),
    ("boxes", "masks"),
    ("points_xy", "labels", "boxes", "masks"),
]


def arguments(wanted: dict[str, torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    """Arguments of `decode` after the embedding, without a granularity."""
    return tuple(wanted.get(name) for name in ("points_xy", "labels", "granularity", "boxes", "masks"))


def stock_features(sam: Any, normalized: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Image features as SAM2ImagePredictor makes them."""
    _, features, _, sizes = sam._prepare_backbone_features(sam.forward_image(normalized))
    features[-1] = features[-1] + sam.no_mem_embed
    maps = [
        level.permute(1, 2, 0).view(len(normalized), -1, *size) for level, size in zip(features, sizes, strict=True)
    ]
    return maps[-1], maps[:-1]


def stock_decode(
    sam: Any, image: torch.Tensor, high_res: list[torch.Tensor], wanted: dict[str, torch.Tensor], multimask: bool
) -> tuple[torch.Tensor, ...]:
    """All prompts on one image, as SAM2ImagePredictor does it."""
    points = (wanted["points_xy"], wanted["labels"]) if "points_xy" in wanted else None
    if "boxes" in wanted:
        corners = wanted["boxes"].reshape(-1, 2, 2)
        kinds = torch.tensor([[2, 3]], dtype=torch.int).repeat(len(corners), 1)
        points = (
            (torch.cat([corners, points[0]], dim=1), torch.cat([kinds, points[1]], dim=1))
            if points
            else (corners, kinds)
        )
    sparse, dense = sam.sam_prompt_encoder(points=points, boxes=None, masks=wanted.get("masks"))
    return sam.sam_mask_decoder(
        image_embeddings=image,
        image_pe=sam.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        repeat_image=True,
        high_res_features=high_res,
    )


def assert_same_bits(ours: Decoded, stock: tuple[torch.Tensor, ...]) -> None:
    for mine, theirs in zip(ours[:4], stock, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_without_a_granularity_it_is_stock_sam(
    nano: UnSAM, images: torch.Tensor, one: Embedding, kind: tuple[str, ...], multimask: bool
) -> None:
    image, high_res = stock_features(nano.sam, nano.normalize(images))
    wanted = {name: value for name, value in prompts(5, 3, 256).items() if name in kind}
    stock = stock_decode(nano.sam, image[1:2], [level[1:2] for level in high_res], wanted, multimask)
    ours = nano.decode(one, *arguments(wanted), multimask=multimask)
    assert ours.masks.shape == (5, 3 if multimask else 1, 64, 64)
    assert ours.pixels is None
    assert_same_bits(ours, stock)


@torch.no_grad()
def test_without_a_granularity_a_real_size_is_stock_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tiny = UnSAM(Base(sam=build_sam("tiny"), name="tiny", sha256="")).eval()
    # The encoder takes seconds and is stock in any case: random features in the memory layout that it gives.
    shapes = [(1, 32, 256, 256), (1, 64, 128, 128), (1, 256, 64, 64)]
    features = [torch.randn(shape).to(memory_format=torch.channels_last) for shape in shapes]
    seen = {"backbone_fpn": features, "vision_pos_enc": features}
    monkeypatch.setattr(tiny.sam, "forward_image", lambda images: {key: list(value) for key, value in seen.items()})
    image, high_res = stock_features(tiny.sam, torch.zeros(1, 3, 1024, 1024))
    embedding = tiny.encode(torch.zeros(1, 3, 1024, 1024), normalized=True)
    for kind in KINDS:
        wanted = {name: value for name, value in prompts(2, 2, 1024).items() if name in kind}
        for multimask in (False, True):
            ours = tiny.decode(embedding, *arguments(wanted), multimask=multimask)
            assert_same_bits(ours, stock_decode(tiny.sam, image, high_res, wanted, multimask))


@torch.no_grad()
def test_whole_stock_predictor_gives_the_same_masks(nano: UnSAM) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    predictor = SAM2ImagePredictor(nano.sam)
    predictor._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]  # the predictor knows only 1024 px
    predictor.set_image(photo)
    _, scores, low_res = predictor.predict(np.array([[30.0, 60.0], [100, 20]]), np.array([1, 0]), return_logits=True)
    ours = nano.decode(
        nano.encode(torch.from_numpy(photo).permute(2, 0, 1)[None]),
        torch.tensor([[[30.0, 60], [100, 20]]]) * torch.tensor([256 / 140, 256 / 90]),
        torch.tensor([[1, 0]]),
        multimask=True,
    )
    # The predictor clamps its logits to [-32, 32].
    np.testing.assert_allclose(ours.masks[0].clamp(-32, 32).numpy(), low_res, atol=1e-4)
    np.testing.assert_allclose(ours.iou[0].numpy(), scores, atol=1e-5)


def golden_cases() -> list[tuple[str, str]]:
    return [(clicks, granularity) for clicks in ("one", "three") for granularity in ("0.1", "0.35", "1.0")]


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[UnSAM, dict[str, torch.Tensor], Embedding]:
    folder = shared / "golden" / "model"
    values = {key: torch.from_numpy(value) for key, value in np.load(folder / "official_nano_io.npz").items()}
    model = UnSAM.from_pretrained(str(folder / "official_nano.safetensors"), config=folder / "official_nano.yaml")
    return model, values, model.encode(values["image"], normalized=True)


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("clicks", "granularity"), golden_cases())
@torch.no_grad()
def test_official_weights_give_the_official_outputs(
    golden: tuple[UnSAM, dict[str, torch.Tensor], Embedding], clicks: str, granularity: str
) -> None:
    model, values, embedding = golden
    out = model.decode(embedding, values[f"points_{clicks}"], values[f"labels_{clicks}"], float(granularity))
    expected = {name: values[f"{clicks}/{granularity}/{name}"] for name in ("low_res", "iou", "obj_ptr", "obj_score")}
    assert_near(out.masks, expected["low_res"])
    assert_near(out[0], out.masks)
    assert_near(out.iou, expected["iou"])
    assert_near(out[1], out.iou)
    assert_near(out.object_score, expected["obj_score"])
    appears = (out.object_score > 0).float()
    pointer = appears * model.sam.obj_ptr_proj(out.tokens[:, 0]) + (1 - appears) * model.sam.no_obj_ptr
    assert_near(pointer, expected["obj_ptr"])


@torch.no_grad()
def test_official_weights_refine_a_mask_prompt(golden: tuple[UnSAM, dict[str, torch.Tensor], Embedding]) -> None:
    model, values, embedding = golden
    out = model.decode(embedding, values["points_three"], values["labels_three"], 0.6, masks=values["one/0.35/low_res"])
    assert_near(out.masks, values["refine/0.6/low_res"])
    assert_near(out.iou, values["refine/0.6/iou"])


@torch.no_grad()
def test_one_granularity_for_all_or_one_each(nano: UnSAM, one: Embedding) -> None:
    wanted = prompts(3, 2, 256)
    each = nano.decode(one, wanted["points_xy"], wanted["labels"], torch.tensor([0.1, 0.6, 0.6]), with_pixels=True)
    for number, rows in ((0.1, [0]), (0.6, [1, 2]), (torch.tensor(0.6), [1, 2])):
        same = nano.decode(one, wanted["points_xy"], wanted["labels"], number, with_pixels=True)
        for mine, all_alike in zip(each, same, strict=True):
            torch.testing.assert_close(mine[rows], all_alike[rows], atol=1e-5, rtol=1e-5)
    assert each.masks.shape == (3, 1, 64, 64)
    assert each.iou.shape == each.object_score.shape == (3, 1)
    width = nano.sam.sam_mask_decoder.transformer_dim
    assert each.tokens.shape == (3, 1, width)
    assert each.pixels is not None
    assert each.pixels.shape == (3, width // 8, 64, 64)


@pytest.mark.parametrize("granularity", [None, 0.3])
@torch.no_grad()
def test_prompts_of_several_images_equal_one_by_one(
    nano: UnSAM, images: torch.Tensor, embedding: Embedding, granularity: float | None
) -> None:
    wanted = prompts(5, 2, 256)
    index = torch.tensor([2, 0, 0, 1, 2])
    together = nano.decode(
        embedding, wanted["points_xy"], wanted["labels"], granularity, masks=wanted["masks"], image_index=index
    )
    for n, image in enumerate(index.tolist()):
        alone = nano.decode(
            nano.encode(images[image : image + 1]),
            wanted["points_xy"][n : n + 1],
            wanted["labels"][n : n + 1],
            granularity,
            masks=wanted["masks"][n : n + 1],
        )
        torch.testing.assert_close(together.masks[n], alone.masks[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.iou[n], alone.iou[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_default_index_is_prompt_i_on_image_i(nano: UnSAM, embedding: Embedding) -> None:
    wanted = prompts(3, 1, 256)
    by_default = nano.decode(embedding, wanted["points_xy"], wanted["labels"], 0.5)
    by_index = nano.decode(embedding, wanted["points_xy"], wanted["labels"], 0.5, image_index=torch.arange(3))
    assert torch.equal(by_default.masks, by_index.masks)
    with pytest.raises(UserError, match="one prompt for each of 3 images; found 2 prompts"):
        nano.decode(embedding, wanted["points_xy"][:2], wanted["labels"][:2], 0.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("granularity", "multimask"), [(0.5, False), (torch.zeros(0), False), (None, False), (None, True)]
)
@torch.no_grad()
def test_no_prompts_give_no_masks(
    nano: UnSAM, embedding: Embedding, kind: tuple[str, ...], granularity: Any, multimask: bool
) -> None:
    # A training batch may hold no mask at all.
    wanted = {name: value for name, value in prompts(0, 1, 256).items() if name in kind} | {"granularity": granularity}
    nothing = torch.zeros(0, dtype=torch.long)
    for image, index in ((embedding, nothing), (embedding.select(torch.tensor([1])), None)):
        out = nano.decode(image, *arguments(wanted), image_index=index, multimask=multimask)
        count = 3 if multimask else 1
        assert out.masks.shape == (0, count, 64, 64)
        assert out.iou.shape == (0, count)
        assert out.tokens.shape == (0, 1, 96)
        assert out.object_score.shape == (0, 1)
    with pytest.raises(UserError, match="one prompt for each of 3 images; found 0 prompts"):
        nano.decode(embedding, *arguments(wanted), multimask=multimask)


@torch.no_grad()
def test_encode_takes_uint8_float_and_any_size(nano: UnSAM, images: torch.Tensor, embedding: Embedding) -> None:
    for one_type in (torch.float32, torch.float64):
        as_float = nano.encode(images.to(one_type) / 255)
        torch.testing.assert_close(
            as_float.image, embedding.image, atol=0 if one_type == torch.float32 else 1e-4, rtol=0
        )
    statistics = [torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    normalized = nano.encode((images / 255 - statistics[0]) / statistics[1], normalized=True)
    torch.testing.assert_close(normalized.image, embedding.image, atol=1e-4, rtol=1e-4)
    width = nano.sam.sam_mask_decoder.transformer_dim
    assert embedding.image.shape == (3, width, 16, 16)
    assert [tuple(level.shape) for level in embedding.high_res] == [(3, width // 8, 64, 64), (3, width // 4, 32, 32)]
    # An image that is constant but for its size looks the same to the model, whatever that size.
    plain = [nano.encode(torch.full((1, 3, *size), 99, dtype=torch.uint8)).image for size in ((256, 256), (70, 333))]
    torch.testing.assert_close(plain[0], plain[1], atol=1e-4, rtol=1e-4)


def test_encode_gives_no_gradients_and_decode_only_to_what_trains(nano: UnSAM, images: torch.Tensor) -> None:
    embedding = nano.encode(images[:1])
    assert not embedding.image.requires_grad
    out = nano.decode(embedding, torch.tensor([[[99.0, 50.0]]]), torch.ones(1, 1), 0.4)
    nano.zero_grad()
    (out.masks.sum() + out.iou.sum()).backward()
    with_gradient = {name for name, parameter in nano.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(nano.trained_names())
    assert all(name.startswith("decoder.") for name in with_gradient)
    nano.zero_grad()


@pytest.mark.parametrize("granularity", [0.0, 1.2, float("nan"), torch.tensor([0.5, 3.0])])
def test_granularity_out_of_range_is_refused(nano: UnSAM, one: Embedding, granularity: Any) -> None:
    with pytest.raises(UserError, match="granularity"):
        nano.decode(one, torch.zeros(2, 1, 2), torch.ones(2, 1), granularity)


def test_granularity_and_several_masks_exclude_each_other(nano: UnSAM, one: Embedding) -> None:
    with pytest.raises(UserError, match="multimask"):
        nano.decode(one, torch.zeros(1, 1, 2), torch.ones(1, 1), 0.5, multimask=True)


def test_points_need_labels(nano: UnSAM, one: Embedding) -> None:
    with pytest.raises(UserError, match="points without labels"):
        nano.decode(one, torch.zeros(1, 1, 2), None, 0.5)
    with pytest.raises(UserError, match="labels without points"):
        nano.decode(one, None, torch.ones(1, 1), 0.5, boxes=torch.tensor([[0.0, 0, 9, 9]]))


@pytest.mark.parametrize("preset", ["default", "official", "compact"])
@torch.no_grad()
def test_merging_lora_keeps_the_masks(preset: str, images: torch.Tensor) -> None:
    model = random_lora(UnSAM.from_pretrained("nano", adapter=AdapterConfig.preset(preset)), scale=1.0)
    wanted = prompts(4, 2, 256)
    one = model.encode(images[:1])

    def masks(granularity: float | None) -> torch.Tensor:
        return model.decode(one, wanted["points_xy"], wanted["labels"], granularity).masks

    before, stock = masks(0.3), masks(None)
    without_lora = UnSAM.from_pretrained("nano", adapter=AdapterConfig.preset(preset))
    plain = without_lora.decode(one, wanted["points_xy"], wanted["labels"], 0.3).masks
    assert (plain - before).abs().max() > 0.01  # LoRA does something here
    model.merge_lora()
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert (masks(0.3) - before).abs().max() < 1e-4
    assert torch.equal(masks(None), stock)


def test_seed_decides_the_adapter_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (UnSAM.from_pretrained("nano", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))
    assert all(torch.equal(x, y) for x, y in zip(a.sam.parameters(), c.sam.parameters(), strict=True))


def test_training_mode_reaches_the_adapter_only(nano: UnSAM) -> None:
    nano.train()
    assert nano.decoder.training
    assert not any(module.training for module in nano.sam.modules())
    nano.eval()


def test_size_report_counts() -> None:
    model = UnSAM.from_pretrained("nano")
    trained = sum(dict(model.named_parameters())[name].numel() for name in model.trained_names())
    frozen = sum(parameter.numel() for parameter in model.sam.parameters())
    assert model.size_report() == (
        f"{trained:,} of {trained + frozen:,} parameters train, {frozen:,} of nano are frozen "
        f"({100 * trained / frozen:.3f} %)"
    )


def test_a_decoder_without_fine_features_is_refused(nano: UnSAM) -> None:
    sam = copy.deepcopy(nano.sam)
    sam.sam_mask_decoder.use_high_res_features = False
    with pytest.raises(UserError, match="features at strides 4 and 8"):
        UnSAM(Base(sam=sam, name="coarse", sha256=""))


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (torch.full((1, 3, 8, 8), 200.0), "values from 200 to 200"),
        (torch.full((1, 3, 8, 8), -2.0), "values from -2 to -2"),  # normalized, and not said so
        (torch.full((1, 3, 8, 8), float("nan")), "values from nan to nan"),
        (torch.ones(1, 3, 8, 8, dtype=torch.int16), r"int16 \(1, 3, 8, 8\)"),
        (torch.ones(1, 3, 8, 8, dtype=torch.int64), r"int64 \(1, 3, 8, 8\)"),
        (torch.ones(1, 8, 8, 3, dtype=torch.uint8), r"uint8 \(1, 8, 8, 3\)"),
        (torch.ones(3, 8, 8, dtype=torch.uint8), r"uint8 \(3, 8, 8\)"),
        (torch.ones(1, 3, 0, 8), r"float32 \(1, 3, 0, 8\)"),
    ],
)
def test_what_is_no_image_is_refused(nano: UnSAM, images: torch.Tensor, found: str) -> None:
    with pytest.raises(UserError, match=f"found {found}"):
        nano.encode(images)
    with pytest.raises(UserError, match=r"normalized images of float, \(B, 3, 256, 256\)"):
        nano.encode(images, normalized=True)


def test_images_that_a_filter_overshot_and_half_ones_are_taken(nano: UnSAM) -> None:
    images = torch.nn.functional.interpolate(torch.eye(9).expand(1, 3, -1, -1), (40, 40), mode="bicubic")
    assert not 0 <= float(images.min()) <= float(images.max()) <= 1
    torch.testing.assert_close(nano.normalize(images.half()), nano.normalize(images), atol=0.02, rtol=0)
    assert nano.normalize(images[:0]).shape == (0, 3, 256, 256)


@pytest.mark.parametrize("granularity", [None, 0.5])
@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ([0, 7], "image_index of at least 0 and below 1, the number of images; found 7"),
        ([0, -1], "image_index of at least 0 and below 1, the number of images; found -1"),
        ([0], r"image_index int64 \(2,\), one for each prompt; found int64 \(1,\)"),
        ([0, 0, 0], r"found int64 \(3,\)"),
        ([[0], [0]], r"found int64 \(2, 1\)"),
        ([0.0, 0.0], r"found float32 \(2,\)"),
        ([True, False], r"found bool \(2,\)"),
    ],
)
def test_an_image_that_is_not_there_is_refused(
    nano: UnSAM, one: Embedding, index: list[Any], problem: str, granularity: float | None
) -> None:
    with pytest.raises(UserError, match=problem):
        nano.decode(one, torch.zeros(2, 1, 2), torch.ones(2, 1), granularity, image_index=torch.tensor(index))


@pytest.mark.parametrize("granularity", [None, 0.5])
@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, "found none of them"),
        ({"boxes": torch.zeros(4)}, r"found boxes float32 \(4,\); a single box is boxes\[None\]"),
        ({"boxes": torch.zeros(2, 2, 2)}, r"found boxes float32 \(2, 2, 2\)"),
        ({"points_xy": torch.zeros(2, 2), "labels": torch.ones(2)}, r"found points float32 \(2, 2\), labels"),
        ({"points_xy": torch.zeros(2, 1, 2), "labels": torch.ones(2)}, r"labels float32 \(2,\)"),
        (
            {"points_xy": torch.zeros(2, 1, 2), "labels": torch.ones(2, 1), "boxes": torch.zeros(3, 4)},
            r"labels float32 \(2, 1\), boxes float32 \(3, 4\)",
        ),
        ({"boxes": torch.zeros(2, 4), "masks": torch.zeros(1, 1, 64, 64)}, r"masks float32 \(1, 1, 64, 64\)"),
        ({"masks": torch.zeros(2, 1, 32, 32)}, r"logits \(P, 1, 64, 64\).*found masks float32 \(2, 1, 32, 32\)"),
        ({"masks": torch.zeros(2, 64, 64)}, r"found masks float32 \(2, 64, 64\)"),
        ({"masks": torch.ones(2, 1, 64, 64, dtype=torch.bool)}, r"found masks bool \(2, 1, 64, 64\)"),
        ({"masks": torch.ones(2, 1, 64, 64, dtype=torch.float64)}, r"found masks float64 \(2, 1, 64, 64\)"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    nano: UnSAM, one: Embedding, wanted: dict[str, Any], found: str, granularity: float | None
) -> None:
    with pytest.raises(UserError, match=found):
        nano.decode(one, *arguments(wanted | {"granularity": granularity}))


@pytest.mark.parametrize("several", [[0.2, 0.9], np.array([0.2, 0.9]), np.float32(0.2), torch.tensor([0.2, 0.9])])
def test_granularities_may_come_as_any_numbers(nano: UnSAM, one: Embedding, several: Any) -> None:
    clicks = torch.tensor([[[99.0, 50.0]], [[30.0, 200.0]]])
    masks = nano.decode(one, clicks, torch.ones(2, 1), several).masks
    first = nano.decode(one, clicks[:1], torch.ones(1, 1), 0.2).masks
    assert torch.allclose(masks[:1], first, atol=1e-4)
    with pytest.raises(UserError, match=r"one for each of 2 prompts; found a shape of \(3,\)"):
        nano.decode(one, clicks, torch.ones(2, 1), [0.1, 0.2, 0.3])


@torch.no_grad()
def test_compiled_model_gives_the_same_masks() -> None:
    plain, compiled = (random_lora(UnSAM.from_pretrained("nano", seed=2)) for _ in range(2))
    compiled.compile(backend="aot_eager")  # the whole of torch.compile but for the code generator
    image = torch.randint(0, 256, (1, 3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    points, labels = torch.tensor([[[99.0, 50.0]], [[30.0, 200.0]]]), torch.ones(2, 1)
    torch._dynamo.reset()
    for granularity in (None, 0.3):
        expected = plain.decode(plain.encode(image), points, labels, granularity)
        out = compiled.decode(compiled.encode(image), points, labels, granularity)
        torch.testing.assert_close(out.masks, expected.masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(out.iou, expected.iou, atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3
    assert plain.state_dict().keys() == compiled.state_dict().keys()

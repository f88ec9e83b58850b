"""Pre-training: prompts, loss, sizes, start, resume, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors import safe_open

from unsam_lightning import pretrain_module
from unsam_lightning.backbone import build_sam
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.decoder import Embedding
from unsam_lightning.errors import UserError
from unsam_lightning.losses.multimask import multimask_terms, pairwise_costs
from unsam_lightning.manifest import sha256_file
from unsam_lightning.model import UnSAM
from unsam_lightning.pretrain import main
from unsam_lightning.pretrain_data import Phase, PhaseSampler, PromptBatch, ScenePrompts, choose_masks, noisy_box
from unsam_lightning.pretrain_export import export_weights, load_exported, one_click_iou
from unsam_lightning.pretrain_module import NanoPretraining
from unsam_lightning.pretrain_passes import decode_all, encode_with_gradient, set_frame
from unsam_lightning.pretrain_start import RegionHead, learn_discs, start_local
from unsam_lightning.prompts import deepest_pixel
from unsam_lightning.run_checkpoints import Checkpoints
from unsam_lightning.scenes import make_scene


def test_prompts_are_a_function_of_the_image_number() -> None:
    first, again, other = (ScenePrompts(4)[key] for key in ((7, 64), (7, 64), (8, 64)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)


def test_clicks_lie_in_all_their_targets() -> None:
    prompts = ScenePrompts(16, deep_share=0.5)
    for number in range(6):
        item = prompts[(number, 128)]
        assert item.images.shape == (3, 128, 128)
        assert item.images.dtype == torch.uint8
        cell = ((item.clicks_xy + 0.5) / 4).floor().long().clamp(0, 31)
        for p in range(16):
            covered = item.targets[p, :, cell[p, 1], cell[p, 0]]
            assert bool((covered[item.is_target[p]] > 0).all())
            assert bool((item.targets[p][~item.is_target[p]] == 0).all())
        assert bool(item.is_target[:, 0].all())


def test_half_of_the_masks_are_drawn_evenly_over_sizes() -> None:
    masks = make_scene(3, 128).masks
    drawn = choose_masks(np.random.default_rng(0), masks, 128, 8000)
    share = masks.mean((1, 2))
    is_large = share * 32**2 >= 1.5
    assert is_large[drawn].all()
    sizes = np.floor(np.log(share) / np.log(4))
    kinds, counts = np.unique(sizes[is_large], return_counts=True)
    assert len(kinds) >= 3
    wanted = 0.5 / len(kinds) + 0.5 * counts / counts.sum()
    assert [(sizes[drawn] == kind).mean() for kind in kinds] == pytest.approx(wanted, abs=0.02)


def test_boxes_stay_within_a_fifth_of_their_side() -> None:
    mask = np.zeros((64, 64), dtype=np.bool_)
    mask[10:30, 20:60] = True
    rng = np.random.default_rng(0)
    boxes = np.stack([noisy_box(rng, mask) for _ in range(200)])
    assert np.abs(boxes - (20, 10, 59, 29)).max(0) == pytest.approx([8, 4, 8, 4], rel=0.05)


def test_sampler_starts_anywhere_and_splits_over_ranks() -> None:
    phases = [Phase(frame=64, steps=2), Phase(frame=128, steps=2)]
    whole = list(PhaseSampler(phases, 4))
    assert len(whole) == 4
    assert whole[2] == [(n, 128) for n in (8, 9, 10, 11)]
    assert list(PhaseSampler(phases, 4, batches_done=lambda: 3)) == whole[3:]
    ranks = [list(PhaseSampler(phases, 4, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == whole
    later = [[(n + 1000, frame) for n, frame in batch] for batch in whole]
    assert list(PhaseSampler(phases, 4, first_image=1000)) == later
    with pytest.raises(UserError, match="evenly"):
        PhaseSampler(phases, 3, world_size=2)
    with pytest.raises(UserError, match="from 0 on"):
        PhaseSampler(phases, 4, first_image=-1)
    with pytest.raises(UserError, match="multiple of 32"):
        Phase(frame=100, steps=1)


def test_costs_by_hand() -> None:
    target = torch.zeros(1, 2, 2, 2)
    target[0, 0, 0, 0] = 1  # one of four pixels: inside pixels weigh 2
    target[0, 1] = 1
    logits = torch.zeros(1, 1, 2, 2)
    logits[0, 0, 0, 0] = 2.0
    costs, ious = pairwise_costs(logits, target)
    p = 1 / (1 + np.exp(-2.0))
    entropy = (2 * -np.log(p) + 3 * np.log(2)) / (2 * 1 + 3)
    dice = 1 - (2 * p + 1) / (p + 1.5 + 1 + 1)
    assert costs[0, 0, 0].item() == pytest.approx(entropy + dice, rel=1e-5)
    all_inside = (-np.log(p) + 3 * np.log(2)) / 4 + 1 - (2 * (p + 1.5) + 1) / (p + 1.5 + 4 + 1)
    assert costs[0, 0, 1].item() == pytest.approx(all_inside, rel=1e-5)
    assert ious[0, 0].tolist() == [1.0, 0.25]


def test_only_the_best_of_the_three_learns_each_answer() -> None:
    targets = torch.zeros(1, 2, 4, 4)
    targets[0, 0, :2], targets[0, 1, :, :1] = 1, 1
    logits = torch.stack((targets[0, 0], targets[0, 0], targets[0, 1], 1 - targets[0, 0]))[None] * 2 - 1
    logits.requires_grad_()
    iou, score = torch.full((1, 4), 0.5), torch.zeros(1, 1)
    terms, true_iou = multimask_terms(logits, iou, score, targets, torch.tensor([[1.0, 0.5]]))
    gradient = torch.autograd.grad(terms.three, logits)[0][0]
    assert [bool(g.any()) for g in gradient] == [False, True, True, False]
    assert true_iou[0, 1].item() == 1
    assert terms.score.item() == pytest.approx(np.log(2), rel=1e-5)
    assert terms.iou.item() == pytest.approx(float(((true_iou - 0.5) ** 2).mean()), rel=1e-5)
    without = multimask_terms(logits, iou, score, targets, torch.tensor([[1.0, 0.0]]))[0]
    assert [bool(g.any()) for g in torch.autograd.grad(without.three, logits)[0][0]] == [False, True, False, False]


def test_frame_can_change_without_changing_the_native_result() -> None:
    torch.manual_seed(0)
    sam = build_sam("nano")
    images = torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8)
    points, labels, index = torch.tensor([[[70.0, 30.0]]]), torch.ones(1, 1), torch.zeros(1, dtype=torch.long)
    windows = [block.window_size for block in sam.image_encoder.trunk.blocks]
    before = decode_all(sam, encode_with_gradient(sam, images), index, points, labels)[0]
    set_frame(sam, 128)
    small = decode_all(sam, encode_with_gradient(sam, images[..., ::2, ::2]), index, points / 2, labels)[0]
    assert small.shape == (1, 4, 32, 32)
    set_frame(sam, 256)
    assert [block.window_size for block in sam.image_encoder.trunk.blocks] == windows
    assert torch.equal(before, decode_all(sam, encode_with_gradient(sam, images), index, points, labels)[0])


def test_pretraining_and_inference_are_the_same_model() -> None:
    module = NanoPretraining()
    model = UnSAM.from_pretrained("nano")
    model.sam.load_state_dict(module.sam.state_dict())
    images = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    points, labels = torch.rand(2, 1, 2) * 256, torch.ones(2, 1)
    logits, iou, _ = decode_all(model.sam, encode_with_gradient(model.sam, images), torch.arange(2), points, labels)
    three = model.decode(model.encode(images), points, labels, multimask=True)
    assert torch.allclose(logits[:, 1:], three.masks, atol=1e-5)
    assert torch.allclose(iou[:, 1:], three.iou, atol=1e-6)


def test_local_start_makes_tokens_attend_where_they_are() -> None:
    torch.manual_seed(0)
    sam = build_sam("nano")
    start_local(sam)
    set_frame(sam, 128)
    positions = sam.sam_prompt_encoder.get_dense_pe().flatten(2)[0].T  # (8 x 8 cells, D)
    transformer = sam.sam_mask_decoder.transformer
    for attention in (transformer.layers[1].cross_attn_image_to_token, transformer.final_attn_token_to_image):
        query, key = attention.q_proj(positions), attention.k_proj(positions)
        assert torch.equal((query @ key.T).argmax(1), torch.arange(64))


def test_discs_train_the_decoder_and_leave_the_trunk_alone() -> None:
    torch.manual_seed(0)
    sam = build_sam("nano")
    start_local(sam)
    set_frame(sam, 64)
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    assert 0 <= learn_discs(sam, steps=2, num_prompts=4) <= 1
    changed = {name.split(".")[0] for name, value in sam.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"sam_mask_decoder", "sam_prompt_encoder"}


def test_region_head_asks_for_the_pixels_that_agree_with_the_click() -> None:
    torch.manual_seed(0)
    head = RegionHead(8, num_maps=1, channels=2)
    for convolution in (head.coarse, head.middle, head.fine):
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    torch.nn.init.constant_(head.fine.weight[0, 0], 1.0)
    fine = torch.ones(1, 1, 8, 8)
    fine[..., 4:] = -1  # left and right half have opposite features
    embedding = Embedding(torch.zeros(1, 8, 2, 2), (fine, torch.zeros(1, 2, 4, 4)))
    left = torch.zeros(8, 8)
    left[:, :4] = 1
    targets = torch.stack((left, 1 - left))[:, None]  # one for a click on either side
    loss, iou = head(embedding, torch.tensor([[[5.0, 9.0], [20.0, 31.0]]]), targets, torch.ones(2, 1))
    assert iou.item() == 1.0
    swapped, none = head(embedding, torch.tensor([[[20.0, 31.0], [5.0, 9.0]]]), targets, torch.ones(2, 1))
    assert none.item() == 0.0
    assert loss.item() < 0.1 < swapped.item()


def _module(**options: object) -> NanoPretraining:
    phases = (Phase(frame=64, steps=3), Phase(frame=96, steps=3))
    chosen = {"phases": phases, "batch_size": 2, "num_prompts": 4, "disc_steps": 2, "num_workers": 0, **options}
    return NanoPretraining(**chosen)  # type: ignore[arg-type]


def _trainer(folder: Path, **options: object) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    chosen = {
        "accelerator": "cpu",
        "logger": False,
        "default_root_dir": folder,
        "max_epochs": -1,
        "max_steps": 6,
        **quiet,
        **options,
    }
    return Trainer(**chosen)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
def test_resumed_run_equals_an_uninterrupted_one_and_is_exported(tmp_path: Path) -> None:
    whole = _module()
    _trainer(tmp_path).fit(whole)
    cut = _trainer(tmp_path, max_steps=4)
    cut.fit(_module())
    cut.save_checkpoint(tmp_path / "cut.ckpt")
    resumed, trainer = _module(), _trainer(tmp_path)
    trainer.fit(resumed, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert trainer.global_step == 6
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    out = tmp_path / "weights" / "nano.safetensors"
    digest, step, start = export_weights(tmp_path / "last.ckpt", out)
    assert (len(digest), step, start) == (64, 6, "random weights")
    assert out.stat().st_size < 8e6
    with safe_open(out, "pt") as file:
        assert file.metadata()["steps"] == "6"
    model = load_exported(out)
    for name, value in resumed.average.module.state_dict().items():
        assert torch.equal(model.sam.state_dict()[name], value.half().float()), name
    (tmp_path / "broken.ckpt").write_bytes(out.read_bytes()[:100])
    with pytest.raises(UserError, match="readable checkpoint"):
        export_weights(tmp_path / "broken.ckpt", out)
    torch.save({"model": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"a checkpoint of `pretrain`"):
        export_weights(tmp_path / "other.ckpt", out)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("inside", [False, True])
def test_a_run_killed_after_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path: Path, inside: bool) -> None:
    whole, cut, resumed = _module(), _module(), _module()
    _trainer(tmp_path).fit(whole)
    step, last = cut.training_step, tmp_path / "checkpoints" / "last.ckpt"

    def training_step(batch: PromptBatch, batch_idx: int) -> torch.Tensor:
        if cut.global_step == 5:
            raise RuntimeError("killed")
        loss = step(batch, batch_idx)
        if inside and cut.global_step == 4:
            cut.trainer.save_checkpoint(last)
        return loss

    cut.training_step = training_step  # type: ignore[method-assign]
    checkpoints = {"enable_checkpointing": True, "callbacks": [Checkpoints(tmp_path, 4)]}
    with pytest.raises(RuntimeError, match="killed"):
        _trainer(tmp_path, **checkpoints).fit(cut)
    assert torch.load(last, weights_only=True)["global_step"] == 4
    _trainer(tmp_path, **checkpoints).fit(resumed, ckpt_path=last, weights_only=True)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.filterwarnings("ignore")
def test_a_run_can_start_from_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundled = UnSAM.from_pretrained("nano").sam.state_dict()
    module = _module(weights="nano", lr=0.0, first_image=7)
    for name, value in module.sam.state_dict().items():
        assert torch.equal(value, bundled[name]), name
    trainer = _trainer(tmp_path, max_steps=1)
    trainer.fit(module)
    assert "discs" not in capsys.readouterr().out  # they would undo the weights
    for name, value in module.average.module.state_dict().items():
        torch.testing.assert_close(value, bundled[name], msg=name)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert export_weights(tmp_path / "last.ckpt", tmp_path / "on.safetensors")[1:] == (1, "the weights nano")
    with pytest.raises(UserError, match="checkpoint file"):
        _module(weights="nowhere.safetensors")


@pytest.mark.filterwarnings("ignore")
def test_command_goes_on_from_its_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        json.dumps(
            {
                "model": {
                    "phases": [{"frame": 64, "steps": 3}],
                    "batch_size": 1,
                    "num_prompts": 2,
                    "disc_steps": 1,
                    "num_workers": 0,
                },
                "trainer": {
                    "accelerator": "cpu",
                    "max_steps": 2,
                    "enable_progress_bar": False,
                    "default_root_dir": str(tmp_path / "run"),
                },
                "checkpoint_every": 100,
            }
        )
    )
    main(["--config", str(config)])
    (tmp_path / "run").rename(tmp_path / "moved")  # to another disk, another machine
    moved = ["--trainer.default_root_dir", str(tmp_path / "moved")]
    main(["--config", str(config), "--trainer.max_steps", "3", "--checkpoint_every", "1", *moved])
    last = tmp_path / "moved" / "checkpoints" / "last.ckpt"
    assert f"going on from {last}" in capsys.readouterr().out
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    with pytest.raises(UserError, match="config"):
        main(["--config", str(config), "--model.no_such_thing", "1"])


def test_deepest_pixel_counts_the_frame_as_outside() -> None:
    mask = np.zeros((9, 12), dtype=np.bool_)
    mask[0:3, 0:9] = True
    assert deepest_pixel(mask)[1] == 1
    mask[:] = True
    assert deepest_pixel(mask)[1] == 4


def test_one_click_iou_by_a_model_that_answers_with_known_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = np.zeros((2, 64, 64), dtype=np.int8)
    masks[0, :32], masks[1, 16:48, 16:48] = 1, 1
    sample = EvalSample(key="a", image=np.zeros((64, 64, 3), dtype=np.uint8), masks=masks, ids=["0", "1"])
    half, quarter = (torch.from_numpy(mask).float() * 20 - 10 for mask in masks)
    answers = torch.stack((half, quarter, half, torch.full((64, 64), 10.0)))

    def decode(*args: object) -> tuple[torch.Tensor, torch.Tensor, None]:
        return answers.expand(2, -1, -1, -1), torch.tensor([[0.9, 0.1, 0.2, 0.7]]).expand(2, -1), None

    monkeypatch.setattr("unsam_lightning.pretrain_export.decode_all", decode)
    result = one_click_iou(UnSAM.from_pretrained("nano"), [sample])
    overlap = 16 * 32 / (32 * 64 + 32 * 32 - 16 * 32)
    assert result.num_masks == 2
    assert result.best_of_three == pytest.approx(1.0)
    assert result.single == pytest.approx((1 + overlap) / 2)
    assert result.own_choice == pytest.approx((0.5 + 0.25) / 2)
    with pytest.raises(UserError, match="5000 px"):
        one_click_iou(UnSAM.from_pretrained("nano"), [sample], min_area_px=5000)


def test_the_card_is_that_of_the_bundled_weights() -> None:
    weights = Path(pretrain_module.__file__).parent / "weights" / "nano.safetensors"
    card = weights.with_suffix(".md").read_text()
    assert f"{weights.stat().st_size / 1e6:.1f} MB, sha256 `{sha256_file(weights)}`" in card
    with safe_open(weights, "pt") as file:
        assert f"{int(file.metadata()['steps']):,} steps" in card

"""Pre-training: prompts, loss, sizes, start, resume, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from unsam_lightning.backbone import NANO_WEIGHTS, build_sam, load_base
from unsam_lightning.decoder import Embedding
from unsam_lightning.errors import UserError
from unsam_lightning.losses.multimask import multimask_terms, pairwise_costs
from unsam_lightning.manifest import sha256_file
from unsam_lightning.model import UnSAM
from unsam_lightning.pretrain import main
from unsam_lightning.pretrain_data import Phase, PhaseSampler, PromptBatch, ScenePrompts, choose_masks, noisy_box
from unsam_lightning.pretrain_export import export_weights, read_pretraining
from unsam_lightning.pretrain_module import NanoPretraining
from unsam_lightning.pretrain_passes import decode_all, encode_with_gradient, set_frame
from unsam_lightning.pretrain_start import RegionHead, learn_discs, start_local, steps_of
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
    average, about = read_pretraining(tmp_path / "last.ckpt")
    base = export_weights(average, about, out)
    assert (about["steps"], about["start"]["weights"], about["architecture"]) == (6, "random weights", "nano")
    assert out.stat().st_size < 8e6
    assert steps_of(str(out)) == 6
    read_again = load_base(str(out), "nano").sam.state_dict()
    for name, value in resumed.average.module.state_dict().items():
        assert torch.equal(base.sam.state_dict()[name], value.half().float()), name
        assert torch.equal(read_again[name], base.sam.state_dict()[name]), name
    (tmp_path / "broken.ckpt").write_bytes(out.read_bytes()[:100])
    with pytest.raises(UserError, match="readable checkpoint"):
        read_pretraining(tmp_path / "broken.ckpt")
    torch.save({"model": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"a checkpoint of `pretrain`"):
        read_pretraining(tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        export_weights(average, about, tmp_path / "nano.pt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    content["state_dict"]["average.module.no_mem_embed"][0] = 1e6  # beyond float16
    torch.save(content, tmp_path / "huge.ckpt")
    before = out.read_bytes()
    with pytest.raises(UserError, match="others in no_mem_embed"):
        export_weights(*read_pretraining(tmp_path / "huge.ckpt"), out)
    assert out.read_bytes() == before


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
    out = tmp_path / "on.safetensors"
    average, about = read_pretraining(tmp_path / "last.ckpt")
    export_weights(average, about, out)
    start = about["start"]
    assert start == {"weights": "nano", "sha256": sha256_file(NANO_WEIGHTS), "steps": steps_of("nano")}
    assert steps_of(str(out)) == start["steps"] + 1
    assert _module(weights=str(out)).start.steps == start["steps"] + 1
    with pytest.raises(UserError, match="checkpoint file"):
        _module(weights="nowhere.safetensors")
    with pytest.raises(UserError, match="image_encoder"):
        _module(weights="nano", architecture="tiny")


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    module = _module(disc_steps=0)
    with torch.no_grad():
        module.sam.no_mem_embed.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=r"not finite at step 0, scenes \[0, 1\]"):
        _trainer(tmp_path).fit(module)


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
    capsys.readouterr()
    main(["export", str(last), "--hardware", "a core"])
    card = (tmp_path / "moved" / "nano.md").read_text()
    assert capsys.readouterr().out == card + "\n"
    assert f"sha256 `{sha256_file(tmp_path / 'moved' / 'nano.safetensors')}`" in card
    assert "3 steps, on a core" in card
    assert "The last run: 3 at 64 px, 1 images x 2 prompts each, from scene 0" in card


@pytest.mark.filterwarnings("ignore")
def test_command_goes_on_only_from_a_checkpoint_of_its_run(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    _trainer(tmp_path, max_steps=1).fit(module := _module())
    module.trainer.save_checkpoint(last)
    given = ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    with pytest.raises(UserError, match=r"to go on from .* start .*random weights.*; found start .*nano.*default_root"):
        main([*given, "--model.weights", "nano"])
    with pytest.raises(UserError, match="with first_image 0; found first_image 7"):
        main([*given, "--model.first_image", "7"])
    with pytest.raises(UserError, match="image_encoder"):
        main([*given, "--model.architecture", "tiny"])
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="readable checkpoint"):
        main(given)


def test_the_card_is_that_of_the_bundled_weights() -> None:
    card = NANO_WEIGHTS.with_suffix(".md").read_text()
    assert f"{NANO_WEIGHTS.stat().st_size / 1e6:.1f} MB, sha256 `{sha256_file(NANO_WEIGHTS)}`" in card
    assert f"{steps_of('nano'):,} steps" in card

"""`export`: three layouts, what they hold, and that the masks survive the way there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unsam_lightning.__main__ import main
from unsam_lightning.adapter import AdapterConfig
from unsam_lightning.backbone import _architecture_path as build_path
from unsam_lightning.backbone import build_sam
from unsam_lightning.calibration import Calibration
from unsam_lightning.checkpoint import adapter_state
from unsam_lightning.errors import UserError
from unsam_lightning.export import agreement, export, sam2_state
from unsam_lightning.granularity import SWEEP
from unsam_lightning.model import UnSAM
from unsam_lightning.state_dicts import load_strictly, read_state


def changed(adapter: str | AdapterConfig) -> UnSAM:
    """Return a nano model whose adapter has been changed, as by training."""
    config = AdapterConfig.preset(adapter) if isinstance(adapter, str) else adapter
    model = UnSAM.from_pretrained("nano", adapter=config, seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in model.trained_names():
            parameter = model.get_parameter(name)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.is_tuned = True
    return model


@torch.no_grad()
def masks_of(model: UnSAM, granularity: float | None) -> torch.Tensor:
    image = torch.randint(0, 256, (1, 3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clicks = torch.tensor([[[99.0, 50.0]], [[30.0, 200.0]]])
    return model.decode(model.encode(image), clicks, torch.ones(2, 1), granularity).masks


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("preset", ["default", "official", "compact"])
def test_official_layout_gives_the_same_masks(preset: str, suffix: str, tmp_path: Path) -> None:
    model = changed(preset)
    notes = export(model, "unsamv2", tmp_path / f"mine{suffix}")
    # The IoU head of the others has no place there; with tokens of 96 numbers the official MLP is 112 wide.
    assert len(notes) == {"default": 3, "official": 2, "compact": 2}[preset]
    assert any("fixes the granularity's MLP at a width of 112, this one has 192" in each for each in notes) == (
        preset != "compact"
    )
    back = UnSAM.from_pretrained(str(tmp_path / f"mine{suffix}"), config="nano")
    for granularity in (0.1, 0.45, 1.0):
        assert torch.allclose(masks_of(back, granularity), masks_of(model, granularity), atol=1e-4)
    assert torch.equal(masks_of(back, None), masks_of(model, None))
    official = read_state(tmp_path / f"mine{suffix}")
    hidden = (128 if preset != "compact" else 32) + 96
    assert official["sam_prompt_encoder.fourier_embedder.mlp.mlp.0.weight"].shape[0] >= hidden // 2
    assert sum(key.endswith("lora_A") for key in official) == 28
    assert sum(".original_layer." in key for key in official) == 56


def test_official_model_comes_back_number_by_number(shared: Path, tmp_path: Path) -> None:
    folder = shared / "golden" / "model"
    source, config = folder / "official_nano.safetensors", folder / "official_nano.yaml"
    model = UnSAM.from_pretrained(str(source), config=config)
    export(model, "adapter", tmp_path / "ours.ckpt")
    ours = UnSAM.from_pretrained(str(tmp_path / "ours.ckpt"), config=config, base=str(source))
    export(ours, "unsamv2", tmp_path / "back.safetensors")
    before, after = load_file(source), load_file(tmp_path / "back.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_adapter_layout_drops_the_state_of_the_training(tmp_path: Path) -> None:
    model = changed("default")
    fat = adapter_state(model) | {"optimizer_states": [torch.zeros(10**6)], "global_step": 7}
    torch.save(fat, tmp_path / "last.ckpt")
    assert export(UnSAM.from_pretrained(str(tmp_path / "last.ckpt")), "adapter", tmp_path / "thin.ckpt") == []
    assert (tmp_path / "thin.ckpt").stat().st_size < 0.5 * (tmp_path / "last.ckpt").stat().st_size
    assert torch.equal(masks_of(UnSAM.from_pretrained(str(tmp_path / "thin.ckpt")), 0.3), masks_of(model, 0.3))
    assert torch.load(tmp_path / "thin.ckpt", weights_only=True)["global_step"] == 7


def test_an_exported_adapter_is_measured_and_not_trained_on(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(adapter_state(changed("default")) | {"global_step": 7}, tmp_path / "last.ckpt")
    thin = tmp_path / "thin.ckpt"
    assert main(["export", str(tmp_path / "last.ckpt"), "--layout", "adapter", "--out", str(thin)]) == 0
    assert main(["test", "--config", str(tiny_run), "--ckpt_path", str(thin), "--data.test_images", "1"]) == 0
    assert list(tmp_path.glob("runs/*-test/benchmark_test_000007.json"))
    capsys.readouterr()
    assert main(["fit", "--config", str(tiny_run), "--ckpt_path", str(thin)]) == 2
    assert f"--model.backbone {thin} instead of --ckpt_path" in capsys.readouterr().err
    torch.save(adapter_state(changed("default")), tmp_path / "old.ckpt")  # as `export` wrote it before
    assert main(["test", "--config", str(tiny_run), "--ckpt_path", str(tmp_path / "old.ckpt")]) == 2
    assert "found no pytorch-lightning_version, no global_step; write it anew" in capsys.readouterr().err


def test_untrained_adapter_exports_as_the_base_itself() -> None:
    model = UnSAM.from_pretrained("nano")  # warm start: token, head and padding token are copies of SAM's
    with torch.no_grad():
        model.decoder.granularity_encoder.mlp[-1].weight.zero_()
    state = sam2_state(model, 0.5)
    base = model.sam.state_dict()
    assert state.keys() == base.keys()
    assert all(torch.equal(state[key], base[key]) for key in base)
    assert agreement(model, state, 0.5, num_scenes=1).mean > 0.5


def test_stock_layout_is_the_base_with_our_parts_in_its_places(tmp_path: Path) -> None:
    model = changed("default")
    notes = export(model, "sam2", tmp_path / "mine.pt", 0.3)
    same = agreement(model, sam2_state(model, 0.3), 0.3)
    assert f"mean IoU of {same.mean:.3f} (lowest {same.lowest:.2f})" in notes[0]
    assert same.mean_postprocessed < same.mean  # the three masks know no granularity
    assert f"the mean IoU is {same.mean_postprocessed:.3f}" in notes[1]
    sam, state = build_sam("nano"), read_state(tmp_path / "mine.pt")
    load_strictly(sam, state, "mine.pt")
    token = model.decoder.granularity_encoder(torch.tensor([0.3]))
    assert torch.equal(state["sam_prompt_encoder.not_a_point_embed.weight"], token)
    assert torch.equal(state["sam_mask_decoder.mask_tokens.weight"][:1], model.decoder.token)
    name = "layers.1.self_attn.v_proj"
    merged = model.decoder.transformer.get_submodule(name).weight
    assert torch.equal(state[f"sam_mask_decoder.transformer.{name}.weight"], merged)


@pytest.mark.parametrize(
    ("layout", "out", "granularity", "message"),
    [
        ("adapter", "a.ckpt", 0.3, "only there; found 0.3 with --layout adapter"),
        ("sam2", "a.pt", 7.0, r"granularity in \[0.1, 1.0\]"),
        ("adapter", "a.pt", None, "--layout adapter with --out a.pt"),
        ("onnx", "a.onnx", None, "--layout onnx"),
    ],
)
def test_wrong_requests_are_refused(
    layout: str, out: str, granularity: float | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        export(changed("default"), layout, tmp_path / out, granularity)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("layout", "out"), [("adapter", "a.ckpt"), ("unsamv2", "a.pt"), ("sam2", "a.safetensors")])
def test_a_new_adapter_is_not_exported(layout: str, out: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tuned model to export; found a new adapter on nano"):
        export(UnSAM.from_pretrained("nano"), layout, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_the_official_model_is_asked_for_what_the_calibration_gives(tmp_path: Path) -> None:
    model = changed("official")
    given = (0.1, 0.101, 0.103, 0.11, 0.15, 0.2, 0.32, 0.455, 0.7, 1.0)
    model.calibration = Calibration(asked=SWEEP, given=given, num_clicks=9)
    notes = export(model, "unsamv2", tmp_path / "mine.pt")
    (note,) = (note for note in notes if "calibration" in note)
    table = dict(pair.split(" -> ") for pair in note.partition("model: ")[2].split(", "))
    assert [float(asked) for asked in table] == list(SWEEP)
    back = UnSAM.from_pretrained(str(tmp_path / "mine.pt"), config="nano")
    assert torch.allclose(masks_of(back, float(table["0.8"])), masks_of(model, 0.8), atol=1e-4)
    assert not torch.allclose(masks_of(back, 0.8), masks_of(model, 0.8), atol=1e-2)


def test_deep_adapters_do_not_fit_the_official_graph(tmp_path: Path) -> None:
    for hidden in ((8, 8, 8), ()):
        model = changed(AdapterConfig(hidden_dims=hidden))
        with pytest.raises(UserError, match="one or two hidden layers"):
            export(model, "unsamv2", tmp_path / "a.pt")


def test_a_temperature_comes_back_from_the_official_yaml(tmp_path: Path) -> None:
    model = changed(AdapterConfig(fourier_temperature=10.0))
    notes = export(model, "unsamv2", tmp_path / "mine.pt")
    assert "temperature 10" in notes[0]
    architecture = build_path("nano").read_text()
    (tmp_path / "mine.yaml").write_text(f"{architecture}\ntemperature: 10\n")
    back = UnSAM.from_pretrained(str(tmp_path / "mine.pt"), config=tmp_path / "mine.yaml")
    assert torch.allclose(masks_of(back, 0.45), masks_of(model, 0.45), atol=1e-4)
    (tmp_path / "odd.yaml").write_text(f"{architecture}\ntemperature: hot\n")
    with pytest.raises(UserError, match="a temperature above 0; found 'hot'"):
        UnSAM.from_pretrained(str(tmp_path / "mine.pt"), config=tmp_path / "odd.yaml")


@pytest.mark.parametrize("layout", ["adapter", "unsamv2", "sam2"])
def test_a_merged_model_is_not_exported(layout: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found one after merge_lora\(\)"):
        export(changed("default").merge_lora(), layout, tmp_path / ("a.ckpt" if layout == "adapter" else "a.pt"))
    assert list(tmp_path.iterdir()) == []


def test_neither_checkpoint_nor_base_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save({"model": build_sam("nano").state_dict()}, "base.pt")
    model = UnSAM.from_pretrained("base.pt", config="nano")
    model.is_tuned = True
    torch.save(adapter_state(model) | {"optimizer_states": [1]}, "last.ckpt")
    Path("link.ckpt").symlink_to("last.ckpt")
    before = {name: Path(name).read_bytes() for name in ("base.pt", "last.ckpt")}
    for out, layout, more in (
        (tmp_path / "last.ckpt", "adapter", []),
        ("link.ckpt", "adapter", []),
        ("base.pt", "unsamv2", []),  # found under its recorded name
        ("base.pt", "sam2", ["--base", str(tmp_path / "base.pt")]),
    ):
        args = ["export", "last.ckpt", "--layout", layout, "--out", str(out), "--config", "nano", *more]
        assert main(args) == 2
        assert f"none of the files it is made of; found {out} for both; choose" in capsys.readouterr().err
    assert before == {name: Path(name).read_bytes() for name in before}


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left"):
        export(changed("default"), "adapter", tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(adapter_state(changed("default")), tmp_path / "last.ckpt")
    out = ["--out", str(tmp_path / "m.pt")]
    assert main(["export", str(tmp_path / "last.ckpt"), "--layout", "sam2", "--granularity", "fine", *out]) == 0
    assert "note: stock SAM-2's single mask is now the mask at g = 0.2; on 64 clicks" in capsys.readouterr().out
    assert (tmp_path / "m.pt").is_file()
    assert main(["export", str(tmp_path / "last.ckpt"), "--layout", "sam2", *out]) == 0
    printed = capsys.readouterr().out
    assert "now the mask at g = 1;" in printed
    assert "note: build it with apply_postprocessing=False" in printed
    for ending in ("pt", "safetensors"):
        place = str(tmp_path / "last.ckpt" / f"m.{ending}")
        assert main(["export", str(tmp_path / "last.ckpt"), "--layout", "sam2", "--out", place]) == 2
        assert f"error: expected to write {place}; found File exists" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "gone.ckpt"), "--layout", "unsamv2", *out]) == 2
    assert "error: expected a checkpoint file" in capsys.readouterr().err

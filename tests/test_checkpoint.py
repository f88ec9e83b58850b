import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from unsam_lightning import backbone
from unsam_lightning.__main__ import main
from unsam_lightning.checkpoint import ADAPTER_FORMAT, adapter_state, describe_adapter, load_adapter, read_adapter
from unsam_lightning.decoder import AdapterConfig, GranularityDecoder
from unsam_lightning.errors import UserError
from unsam_lightning.export import unsamv2_state
from unsam_lightning.manifest import sha256_file
from unsam_lightning.model import UnSAM
from unsam_lightning.run_checkpoints import WholeCheckpoints
from unsam_lightning.state_dicts import split_official

NANO_YAML = Path(backbone.__file__).parent / "architectures" / "nano.yaml"


def adapter_content(model: UnSAM) -> dict[str, Any]:
    """What `module.on_save_checkpoint` leaves in a Lightning checkpoint."""
    trained = set(model.trained_names())
    state = {f"model.{name}": value.clone() for name, value in model.state_dict().items() if name in trained}
    return {"unsam": describe_adapter(model), "state_dict": state, "global_step": 7}


@pytest.fixture
def model() -> UnSAM:
    """A nano model whose adapter has been changed, as by training."""
    model = UnSAM.from_pretrained("nano", adapter=AdapterConfig.preset("default"), seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in model.trained_names():
            parameter = model.get_parameter(name)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def saved(model: UnSAM, tmp_path: Path) -> Path:
    torch.save(adapter_content(model), tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@torch.no_grad()
def mask_of(model: UnSAM, granularity: float | None = 0.4) -> torch.Tensor:
    size = model.image_size
    images = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return model.decode(model.encode(images), torch.tensor([[[99.0, 50.0]]]), torch.ones(1, 1), granularity).masks


@pytest.mark.parametrize("preset", ["default", "official", "compact"])
def test_adapter_round_trip(preset: str, tmp_path: Path) -> None:
    model = UnSAM.from_pretrained("nano", adapter=AdapterConfig.preset(preset), seed=5)
    torch.save(adapter_content(model), tmp_path / "a.ckpt")
    loaded = UnSAM.from_pretrained(str(tmp_path / "a.ckpt"))
    assert loaded.decoder.config == AdapterConfig.preset(preset)
    assert not loaded.training
    assert torch.equal(mask_of(loaded), mask_of(model.eval()))
    assert describe_adapter(loaded) == describe_adapter(model)


def test_description_is_plain_and_names_the_base(model: UnSAM, saved: Path) -> None:
    about = read_adapter(saved)["unsam"]
    assert about == describe_adapter(model)
    assert about["format"] == ADAPTER_FORMAT
    assert about["base"] == {"name": "nano", "sha256": model.base_sha256}


def test_checkpoint_holds_the_adapter_and_not_the_base(model: UnSAM) -> None:
    state = adapter_content(model)["state_dict"]
    assert sum(value.numel() for value in state.values()) < 0.1 * sum(p.numel() for p in model.sam.parameters())
    assert {key.removeprefix("model.") for key in state} == set(model.trained_names())


def test_other_base_is_named(saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save({"model": backbone.build_sam("nano").state_dict()}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"last\.ckpt was trained on: nano \(sha256 .*found other\.pt \(sha256"):
        UnSAM.from_pretrained(str(saved), config=NANO_YAML, base=str(tmp_path / "other.pt"))


def test_base_that_was_a_file_is_found_by_the_base_option(tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "weights").mkdir()
    base = tmp_path / "weights" / "mine.pt"
    torch.save({"model": backbone.build_sam("nano").state_dict()}, base)
    model = UnSAM.from_pretrained(str(base), config=NANO_YAML)
    torch.save(adapter_content(model), tmp_path / "a.ckpt")
    loaded = UnSAM.from_pretrained(str(tmp_path / "a.ckpt"), config=NANO_YAML, base=str(base))
    assert torch.equal(mask_of(loaded), mask_of(model))
    with pytest.raises(UserError, match=r"base model of a\.ckpt, the file mine\.pt; found no such file here; .*base="):
        UnSAM.from_pretrained(str(tmp_path / "a.ckpt"), config=NANO_YAML)
    with pytest.raises(UserError, match=r"found a base for nano; leave it out"):
        UnSAM.from_pretrained("nano", base=str(base))


def test_an_adapter_on_a_file_labels_and_trains_on(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights").mkdir()
    base = tmp_path / "weights" / "mine.pt"
    torch.save({"model": UnSAM.from_pretrained("nano").sam.state_dict()}, base)
    torch.save(adapter_content(UnSAM.from_pretrained(str(base), config=NANO_YAML)), tmp_path / "a.ckpt")
    args = ["fit", "--config", str(tiny_run), "--trainer.max_steps", "1", "--test_after_fit", "false"]
    args += ["--data.num_workers", "0", "--data.calibration_images", "0"]
    args += ["--model.backbone", str(tmp_path / "a.ckpt"), "--model.backbone_config", str(NANO_YAML)]
    assert main(args) == 2
    assert "found no such file here; say where it is: --model.backbone_base PATH" in capsys.readouterr().err
    assert main([*args, "--model.backbone_base", str(base)]) == 0
    about = read_adapter(next(tmp_path.glob("runs/*/checkpoints/last.ckpt")))["unsam"]
    assert about["base"] == {"name": "mine.pt", "sha256": sha256_file(base)}


def test_problems_of_the_numbers_are_named(model: UnSAM) -> None:
    content = adapter_content(model)
    del content["state_dict"]["model.decoder.token"]
    content["state_dict"]["model.decoder.surprise"] = torch.zeros(1)
    content["state_dict"]["model.decoder.granularity_encoder.type_embedding"] = torch.zeros(2, 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_adapter(model, content, "a.ckpt")
    for part in (
        "in a.ckpt",
        "missing decoder.token",
        "unexpected decoder.surprise",
        "type_embedding has shape (2, 5) instead of (1, ",
    ):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_adapter_of_another_shape_is_refused(model: UnSAM) -> None:
    compact = UnSAM.from_pretrained("nano", adapter=AdapterConfig.preset("compact"))
    with pytest.raises(UserError, match=r"adapter that a\.ckpt was trained with; found fourier_dim 128 and 32; hidden"):
        load_adapter(compact, adapter_content(model), "a.ckpt")


@pytest.mark.parametrize("setting", [{"lora_alpha": 32.0}, {"fourier_temperature": 10.0}])
def test_settings_that_change_masks_and_no_shape_are_refused(model: UnSAM, setting: dict[str, float]) -> None:
    other = UnSAM.from_pretrained("nano", adapter=AdapterConfig(**setting))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"found {next(iter(setting))} 1.* and {next(iter(setting.values()))}"):
        load_adapter(other, adapter_content(model), "a.ckpt")
    trained_otherwise = UnSAM.from_pretrained("nano", adapter=AdapterConfig(lora_dropout=0.2, warm_start=False))
    load_adapter(trained_otherwise.eval(), adapter_content(model), "a.ckpt")
    assert torch.equal(mask_of(trained_otherwise), mask_of(model.eval()))


def test_a_merged_model_is_not_saved(model: UnSAM) -> None:
    with pytest.raises(UserError, match=r"whose LoRA is its own; found one after merge_lora\(\)"):
        adapter_state(model.merge_lora())


def test_the_config_of_the_run_stays_with_its_adapter(model: UnSAM, tmp_path: Path) -> None:
    model.training_config = "model: {lr: 1}"
    torch.save(adapter_state(model), tmp_path / "a.ckpt")
    assert UnSAM.from_pretrained(str(tmp_path / "a.ckpt")).training_config == "model: {lr: 1}"


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"step": 1}, last)

    def fill(content: Any, file: Any) -> None:
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(UserError, match=f"to write {last}; found No space left"):
        WholeCheckpoints().save_checkpoint({"step": 2}, last)
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    assert WholeCheckpoints().load_checkpoint(last, weights_only=True) == {"step": 1}


def test_a_checkpoint_never_passes_through_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a move is a copy there, and a kill leaves half a file")

    monkeypatch.setattr(shutil, "move", forbidden)
    WholeCheckpoints().save_checkpoint({"step": 1}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True) == {"step": 1}


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_file_cut_short_is_a_user_error(saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(UserError, match=f"readable checkpoint at {saved}.*cut short"):
        UnSAM.from_pretrained(str(saved))


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"unsam": {"format": "unsam_lightning/adapter/2"}}, [1]])
def test_other_formats_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=r"adapter checkpoints \(unsam_lightning/adapter/1\)"):
        read_adapter(tmp_path / "odd.ckpt")


@pytest.mark.parametrize(
    ("place", "value", "found"),
    [
        ("unsam.base", "nano", "no base with its name and sha256"),
        ("unsam.base", {"name": "nano"}, "no base with its name and sha256"),
        ("unsam.adapter", [1], "no adapter"),
        ("unsam.adapter", {"fourier_dim": "64"}, "fourier_dim '64'"),
        ("unsam.adapter", {"fourier_dim": 10**12}, "fourier_dim 1000000000000"),
        ("unsam.adapter", {"hidden_dims": [8, 2.5]}, r"hidden_dims \(8, 2.5\)"),
        ("unsam.adapter", {"hidden_dims": [8] * 17}, "up to 16 hidden_dims"),
        ("unsam.adapter", {"lora_rank": True}, "lora_rank True"),
        ("unsam.calibration", {"asked": [0.1, 1.0]}, "KeyError 'given'"),
        ("unsam.calibration", {"asked": [0.1], "given": [0.1], "num_clicks": 1}, "1 and 1 numbers"),
        ("state_dict", [1], "no state_dict"),
        ("global_step", "seven", "no whole number as global_step"),
        ("state_dict", {"model.decoder.token": 3}, "no state_dict"),
    ],
)
def test_what_a_stranger_may_have_written_is_a_user_error(
    model: UnSAM, place: str, value: Any, found: str, tmp_path: Path
) -> None:
    content = adapter_content(model)
    *parents, last = place.split(".")
    (content[parents[0]] if parents else content)[last] = value
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=found):
        UnSAM.from_pretrained(str(tmp_path / "odd.ckpt"))


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ({"hidden_dims": [65_536] * 3}, r"mlp\.0\.bias has shape \(192,\) instead of \(65536,\)"),
        ({"lora_rank": 65_536}, r"lora_a has shape \(8, 96\) instead of \(65536, 96\)"),
    ],
    ids=["widths", "rank"],
)
def test_a_small_file_cannot_ask_for_all_memory(
    model: UnSAM, shape: dict[str, Any], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = adapter_content(model)
    content["unsam"]["adapter"] |= shape
    torch.save(content, tmp_path / "small.ckpt")
    _forbid_memory(monkeypatch)
    with pytest.raises(UserError, match=found):
        UnSAM.from_pretrained(str(tmp_path / "small.ckpt"))


@pytest.mark.parametrize(
    "claim", [lambda one: one.new_zeros(1).expand_as(one), lambda one: one.to("meta")], ids=["one_number", "none"]
)
def test_nor_by_tensors_that_claim_more_than_they_hold(
    model: UnSAM, claim: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = adapter_content(model)
    state = content["state_dict"]
    state["model.decoder.token"] = claim(state["model.decoder.token"])
    torch.save(content, tmp_path / "small.ckpt")
    official = unsamv2_state(model)[0]
    token = "sam_mask_decoder.gra_token.weight"
    torch.save({"model": official | {token: claim(official[token])}}, tmp_path / "small.pt")
    _forbid_memory(monkeypatch)
    for name in ("small.ckpt", "small.pt"):
        with pytest.raises(UserError, match=r"found decoder\.token has fewer numbers than its shape"):
            UnSAM.from_pretrained(str(tmp_path / name), config=NANO_YAML)


def _forbid_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an adapter that takes memory fail before it does."""

    class Watched(GranularityDecoder):
        def __init__(self, *args: Any) -> None:
            assert torch.empty(0).is_meta
            super().__init__(*args)

    monkeypatch.setattr("unsam_lightning.model.GranularityDecoder", Watched)


@pytest.mark.parametrize("missing", ["base", "adapter", "state_dict"])
def test_incomplete_content_is_named(model: UnSAM, missing: str, tmp_path: Path) -> None:
    content = adapter_content(model)
    (content if missing == "state_dict" else content["unsam"]).pop(missing)
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=f"complete adapter checkpoint.*found no {missing}"):
        UnSAM.from_pretrained(str(tmp_path / "odd.ckpt"))


def test_everything_loads_without_pickles(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": UnSAM.from_pretrained("nano").sam.state_dict()}, tmp_path / "base.pt")
    asked = []
    load = torch.load

    def watched(*args: Any, **options: Any) -> Any:
        asked.append(options.get("weights_only"))
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", watched)
    UnSAM.from_pretrained(str(saved))
    UnSAM.from_pretrained(str(tmp_path / "base.pt"), config=NANO_YAML)
    assert asked == [True, True]


@pytest.fixture(scope="module")
def official(shared: Path) -> tuple[dict[str, torch.Tensor], Path]:
    folder = shared / "golden" / "model"
    return load_file(folder / "official_nano.safetensors"), folder / "official_nano.yaml"


def test_official_layouts_give_the_same_model(
    official: tuple[dict[str, torch.Tensor], Path], tmp_path: Path, shared: Path
) -> None:
    state, config = official
    expected = UnSAM.from_pretrained(str(shared / "golden" / "model" / "official_nano.safetensors"), config=config)
    assert expected.decoder.iou_head is None  # the official model reports SAM's score
    plain = {key.replace(".original_layer.", "."): value for key, value in state.items()}
    assert plain.keys() != state.keys()
    for name, content in (("wrapped.pt", state), ("plain.pt", plain)):
        torch.save({"model": content}, tmp_path / name)
        loaded = UnSAM.from_pretrained(str(tmp_path / name), config=config)
        assert torch.equal(mask_of(loaded), mask_of(expected))
        assert torch.equal(mask_of(loaded, None), mask_of(expected, None))
        assert not loaded.training


def test_every_official_number_is_accounted_for(official: tuple[dict[str, torch.Tensor], Path], tmp_path: Path) -> None:
    state, config = official

    def load(content: dict[str, torch.Tensor]) -> UnSAM:
        torch.save({"model": content}, tmp_path / "o.pt")
        return UnSAM.from_pretrained(str(tmp_path / "o.pt"), config=config)

    model = load(state)
    frozen = sum(value.numel() for value in model.sam.state_dict().values())
    trained = sum(model.get_parameter(name).numel() for name in model.trained_names())
    assert frozen + trained == sum(value.numel() for value in state.values())
    token, lora = "sam_mask_decoder.gra_token.weight", next(key for key in state if key.endswith("lora_B"))
    stock = "sam_mask_decoder.iou_token.weight"
    mlp = "sam_prompt_encoder.fourier_embedder.mlp.mlp.0.weight"
    for lost, named in ((lora, "missing decoder.transformer"), (stock, f"missing {stock}"), (mlp, "official UnSAMv2")):
        with pytest.raises(UserError, match=named):
            load({key: value for key, value in state.items() if key != lost})
    with pytest.raises(UserError, match=r"unexpected sam_mask_decoder\.gra_new"):
        load(state | {"sam_mask_decoder.gra_new": torch.zeros(1)})
    with pytest.raises(UserError, match=r"decoder\.token has shape \(2, 256\)"):
        load(state | {token: torch.zeros(2, 256)})
    with pytest.raises(UserError, match="an official UnSAMv2 checkpoint in"):
        load(state | {mlp: torch.zeros(256)})
    with pytest.raises(UserError, match=r"lora_a has shape \(\)"):
        load(state | {lora.replace("lora_B", "lora_A"): torch.zeros(())})


def test_an_official_layer_is_not_taken_twice() -> None:
    layer = "sam_mask_decoder.transformer.layers.0.self_attn.q_proj"
    state = {key: torch.zeros(1) for key in (f"{layer}.weight", f"{layer}.original_layer.weight", "gra_token")}
    with pytest.raises(UserError, match=rf"found {layer}\.weight with and without \.original_layer"):
        split_official(state)


def test_official_adapter_trains_on_in_our_format(
    official: tuple[dict[str, torch.Tensor], Path], tmp_path: Path
) -> None:
    state, config = official
    torch.save({"model": state}, tmp_path / "released.pt")
    model = UnSAM.from_pretrained(str(tmp_path / "released.pt"), config=config)
    torch.save(adapter_content(model), tmp_path / "ours.ckpt")
    loaded = UnSAM.from_pretrained(str(tmp_path / "ours.ckpt"), config=config, base=str(tmp_path / "released.pt"))
    assert torch.equal(mask_of(loaded), mask_of(model))


def test_adapter_of_a_later_version_is_a_user_error() -> None:
    with pytest.raises(UserError, match="settings colour, flavour"):
        AdapterConfig.from_dict(AdapterConfig().to_dict() | {"flavour": 1, "colour": 2})

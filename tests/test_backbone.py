import os
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import yaml
from safetensors.torch import save_file

from unsam_lightning import backbone
from unsam_lightning.backbone import NAMES, architecture_of, build_sam, load_base
from unsam_lightning.errors import UserError
from unsam_lightning.manifest import sha256_file
from unsam_lightning.state_dicts import load_strictly, read_state

NANO_YAML = Path(backbone.__file__).parent / "architectures" / "nano.yaml"


@pytest.fixture(scope="module")
def nano_state() -> dict[str, torch.Tensor]:
    return load_base("nano").sam.state_dict()


@pytest.fixture
def nano_pt(nano_state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "my_nano.pt"
    torch.save({"model": nano_state}, path)
    return path


def edited_yaml(folder: Path, **changes: Any) -> Path:
    content = yaml.safe_load(NANO_YAML.read_text())
    for dotted, value in changes.items():
        node = content
        *parents, last = dotted.split("__")
        for parent in parents:
            node = node[parent]
        node[last] = value
    path = folder / "edited.yaml"
    path.write_text(yaml.dump(content))
    return path


def test_nano_is_the_same_every_time_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = load_base("nano")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two = load_base("nano")
    assert one.sha256 == two.sha256 == sha256_file(Path(backbone.__file__).parent / "weights" / "nano.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(one.sam.parameters(), two.sam.parameters(), strict=True))
    assert not one.sam.training
    assert one.name == "nano"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_local_file_with_its_yaml(nano_state: dict[str, torch.Tensor], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"model": nano_state}, path)
    else:
        save_file({key: value.clone() for key, value in nano_state.items()}, path)
    base = load_base(str(path), NANO_YAML)
    assert (base.name, base.sha256) == (path.name, sha256_file(path))
    assert not base.sam.training
    assert all(torch.equal(value, nano_state[key]) for key, value in base.sam.state_dict().items())


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_architecture_is_guessed_from_the_keys(size: str) -> None:
    trunk = yaml.safe_load(backbone._architecture_path(size).read_text())["model"]["image_encoder"]["trunk"]
    stages = trunk.get("stages", [2, 3, 16, 3])
    state = {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(trunk.get("embed_dim", 96), 3, 7, 7)}
    state |= {f"image_encoder.trunk.blocks.{n}.norm1.weight": torch.zeros(1) for n in range(sum(stages))}
    guessed = architecture_of(state, "some file")
    assert guessed.startswith("configs/sam2/")
    for only_in_2_1 in ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight"):  # the other may be what is missing
        newer = architecture_of(state | {only_in_2_1: torch.zeros(1, 64)}, "some file")
        assert backbone._architecture_path(newer) == backbone._architecture_path(size)
    assert backbone._architecture_path(guessed) == backbone._architecture_path(f"sam2_{size}")
    assert backbone._architecture_path(guessed).is_file()


def test_a_model_for_the_cpu_touches_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # there is none: whoever uses it fails
    assert {parameter.device.type for parameter in build_sam("tiny").parameters()} == {"cpu"}
    assert torch.cuda.is_available()


def test_guessed_architecture_loads_strictly() -> None:
    torch.manual_seed(0)
    state = build_sam("tiny").state_dict()
    rebuilt = build_sam(architecture_of(state, "tiny.pt"))
    load_strictly(rebuilt, state, "tiny.pt")
    assert all(torch.equal(value, state[key]) for key, value in rebuilt.state_dict().items())


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({}, "no key image_encoder.trunk.patch_embed.proj.weight"),
        ({"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(96, 3, 7, 7)}, "width 96 with 0 blocks"),
        ({"image_encoder.trunk.patch_embed.proj.weight": torch.tensor(1.0)}, "no key image_encoder.trunk.patch"),
    ],
)
def test_unknown_architecture_asks_for_the_yaml(state: dict[str, torch.Tensor], found: str) -> None:
    with pytest.raises(UserError, match=f"known size in odd.pt; found .*{found}.*as config"):
        architecture_of(state, "odd.pt")


@pytest.mark.parametrize("name", ["huge", "no/such/file.pt", "/data/sam2/gone.pt", ""])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"nano, tiny, small, base_plus, large.*check the spelling or the path"):
        load_base(name)


def test_problems_of_a_checkpoint_are_named(nano_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = dict(nano_state)
    del state["no_mem_embed"]
    state["surprise"] = torch.zeros(1)
    state["sam_mask_decoder.iou_token.weight"] = torch.zeros(2, 5)
    torch.save({"model": state}, tmp_path / "broken.pt")
    with pytest.raises(UserError) as caught:
        load_base(str(tmp_path / "broken.pt"), NANO_YAML)
    for part in (
        "in broken.pt",
        "missing no_mem_embed",
        "unexpected surprise",
        "sam_mask_decoder.iou_token.weight has shape (2, 5) instead of (1, ",
    ):
        assert part in str(caught.value)


def test_many_problems_are_counted() -> None:
    module = torch.nn.Linear(2, 2)
    state = {f"extra{n}": torch.zeros(1) for n in range(10)}
    with pytest.raises(UserError, match="missing weight; missing bias; unexpected extra0 and 9 more"):
        load_strictly(module, state, "file")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"state_dict": {}}, r"keys \['state_dict'\]"),
        ({"model": 5}, r"keys \['model'\]"),
        ({"model": {"a": "text"}}, "keys"),
        ([1, 2], "list"),
    ],
)
def test_other_layouts_are_refused(content: Any, found: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=f"'model': state dict.*found {found}"):
        read_state(tmp_path / "odd.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 10, 0.5])
def test_file_cut_short_is_a_user_error(nano_pt: Path, suffix: str, kept: float) -> None:
    path = nano_pt.with_suffix(suffix)
    if suffix == ".safetensors":
        save_file({"a": torch.zeros(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(UserError, match=f"readable checkpoint at {path}.*cut short"):
        read_state(path)


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("evil_ran"),))


def test_pickles_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"values alone at .*evil\.pt; found other Python objects in it, first getattr"):
        read_state(tmp_path / "evil.pt")
    assert not Path("evil_ran").exists()


@pytest.mark.parametrize(("more", "found"), [(Namespace(lr=1), "argparse.Namespace"), (os.getcwd, "posix.getcwd")])
def test_other_objects_beside_the_weights_are_no_damage(
    nano_state: dict[str, torch.Tensor], more: Any, found: str, tmp_path: Path
) -> None:
    torch.save({"model": nano_state, "args": more}, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=rf"first {found}; .*save its weights alone, as {{'model': state_dict}}"):
        read_state(tmp_path / "theirs.pt")


def test_nano_yaml_builds_from_a_path_and_keeps_official_extras_out(tmp_path: Path) -> None:
    path = edited_yaml(tmp_path, lora_rank=8, fourier_dim=128, temperature=100)
    assert build_sam(path).state_dict().keys() == build_sam("nano").state_dict().keys()
    nested = tmp_path / "nested.yaml"
    nested.write_text(yaml.dump({"model": yaml.safe_load(NANO_YAML.read_text())}))
    assert build_sam(nested).image_size == 256


FOREIGN = [
    {"_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor"},
    {"image_encoder___target_": "pathlib.Path.touch"},
    {"memory_attention": {"_target_": "builtins.exec", "_args_": ["open('evil_ran', 'w')"]}},
    # In a list, at any depth: hydra would call it there too.
    {
        "image_encoder__trunk__stages": [
            1,
            2,
            3,
            {"a": [{"_target_": "builtins.open", "file": "evil_ran", "mode": "w"}]},
        ]
    },
    # Through a module of sam2 that has imported something else, or a function of it.
    {"memory_attention": {"_target_": "sam2.modeling.sam2_base.torch.save", "obj": 1, "f": "evil_ran"}},
    {"memory_attention": {"_target_": "sam2.modeling.sam2_base.MLP", "input_dim": 1}},
    {"memory_attention": {"_target_": "sam2.modeling.sam2_utils.get_activation_fn", "activation": "relu"}},
    {"memory_attention": {"_target_": "sam2.modeling.no_such_module.Thing"}},
    {"memory_attention": {"_target_": 5}},
]


@pytest.mark.parametrize("changes", FOREIGN)
def test_yaml_may_only_name_sams_own_classes(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = edited_yaml(tmp_path, **changes)
    with pytest.raises(UserError, match=r"(?:whose _target_ is|only classes of sam2\.modeling).*found.*edited\.yaml"):
        build_sam(path)
    assert not Path("evil_ran").exists()


@pytest.mark.parametrize("text", ["{not: yaml", "[1, 2]", "5", "", "model: 7", "a: ${b"])
def test_broken_yaml_is_a_user_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(UserError, match="architecture"):
        build_sam(tmp_path / "broken.yaml")


def test_missing_yaml_and_wrong_arguments_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"architecture yaml at .*gone\.yaml; found FileNotFoundError"):
        build_sam(tmp_path / "gone.yaml")
    with pytest.raises(UserError, match=r"arguments that SAM-2's classes take.*surprise"):
        build_sam(edited_yaml(tmp_path, image_encoder__trunk__surprise=1))


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local cache of the hub and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["tiny", "sam2_large", NAMES["small"]])
def test_offline_and_not_in_the_cache_says_so(offline_hub: Path, name: str) -> None:
    hub_id = NAMES.get(name, name)
    with pytest.raises(UserError, match=f"weights of {hub_id} from the model hub.*pass its path.*backbone_base"):
        load_base(name)


def test_hub_id_of_something_else_is_refused_before_any_download(offline_hub: Path) -> None:
    with pytest.raises(UserError, match=r"hub ids \(facebook/sam2-hiera-tiny.*found facebook/sam-vit-huge"):
        load_base("facebook/sam-vit-huge")


@pytest.mark.parametrize("name", ["tiny", NAMES["tiny"]])
def test_weights_in_the_local_hub_cache_load_offline(offline_hub: Path, nano_pt: Path, name: str) -> None:
    repo = offline_hub / "models--facebook--sam2.1-hiera-tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots" / "abc").mkdir(parents=True)
    shutil.copy(nano_pt, repo / "snapshots" / "abc" / "sam2.1_hiera_tiny.pt")
    base = load_base(name, NANO_YAML)  # nano's numbers in tiny's place, to be quick
    assert (base.name, base.sha256) == (name, sha256_file(nano_pt))

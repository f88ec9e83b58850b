"""The maps that labels are made of: SAM-2's levels, and a transformer of timm with random weights."""

import sys

import numpy as np
import pytest
import torch

from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM
from unsam_lightning.pseudo_labels.features import EncoderMaps, TimmMaps, encoder_features
from unsam_lightning.pseudo_labels.recipe import LabelRecipe, label_image

TINY = "vit_tiny_patch16_224"


def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((40, 60, 3), (90, 32, 3))]


@pytest.fixture(scope="module")
def nano():
    return UnSAM.from_pretrained("nano")


def test_the_encoder_gives_the_levels_asked_for(nano):
    maps = EncoderMaps(nano, ("trunk8", "neck16"))
    found = maps(images())
    assert [each.shape[:3] for each in found] == [(2, 32, 32), (2, 16, 16)]
    frame = nano.normalize(torch.from_numpy(images()[1]).permute(2, 0, 1)[None])
    alone = encoder_features(nano, frame, ("neck16",))["neck16"]
    assert torch.allclose(found[1][1:], alone, atol=1e-5)
    assert maps.describe() == {"name": "nano", "sha256": nano.base_sha256}


def test_a_transformer_gives_one_map_in_the_image_s_order():
    pytest.importorskip("timm")
    torch.manual_seed(0)
    maps = TimmMaps(TINY, "random", side=100)  # 6 x 6 patches of 16 pixels
    (found,) = maps(images())
    assert (found.shape, found.dtype, found.requires_grad) == ((2, 6, 6, 192), torch.float32, False)
    assert maps.side == 96
    # By hand: RGB from 0 to 1, the model's own statistics, its tokens without the class token, row by row.
    square = np.zeros((96, 96, 3), np.uint8)
    square[16:32, 48:64] = (255, 0, 0)
    scaled = torch.from_numpy(square).permute(2, 0, 1)[None] / 255
    about = maps.vit.pretrained_cfg
    mean, std = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        tokens = maps.vit.forward_features((scaled - mean) / std)[0, 1:]
    (of_square,) = maps([square])
    assert torch.allclose(of_square[0].reshape(36, -1), tokens, atol=1e-5)
    different = (of_square[0] - of_square[0].median(dim=0).values.median(dim=0).values).norm(dim=-1)
    assert divmod(int(different.argmax()), 6) == (1, 3)  # the patch with the red square


def test_weights_come_from_a_file_and_are_in_the_description(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    path = tmp_path / "weights.pth"
    vit = timm.create_model(TINY, num_classes=0)
    torch.save(vit.state_dict(), path)
    loaded = TimmMaps(TINY, str(path), side=64)
    assert all(
        torch.equal(value, vit.state_dict()[key]) for key, value in loaded.vit.state_dict().items() if "pos" not in key
    )
    other = TimmMaps(TINY, "random", side=64)
    assert loaded.describe()["name"] == f"timm:{TINY}"
    assert loaded.describe()["sha256"] == TimmMaps(TINY, str(path), side=64).describe()["sha256"]
    assert loaded.describe()["sha256"] != other.describe()["sha256"]
    with pytest.raises(UserError, match=r"weights from .*nowhere\.pth"):
        TimmMaps(TINY, str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match="called no_such_model"):
        TimmMaps("no_such_model", "random")


@pytest.mark.parametrize("method", ["regions", "divide_conquer"])
def test_both_methods_take_its_features(nano, method):
    pytest.importorskip("timm")
    recipe = LabelRecipe(method=method, features=f"timm:{TINY}", features_weights="random", features_side=128)
    image = np.zeros((96, 128, 3), np.uint8)
    image[20:70, 30:90] = (200, 40, 30)
    maps = recipe.maps(nano)
    forest = label_image([each[0] for each in maps([image])], image, recipe)
    assert (forest.height, forest.width) == (96, 128)
    if method == "regions":
        box = image[..., 0] > 0
        assert max((mask & box).sum() / (mask | box).sum() for mask in forest.masks()) > 0.95


def test_wrong_features_are_told(nano, monkeypatch):
    with pytest.raises(UserError, match=r"'dino'; correct --data\.recipe\.features"):
        LabelRecipe(features="dino").maps(nano)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="not installed; pip install"):
        LabelRecipe(features=f"timm:{TINY}").maps(nano)

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from unsam_lightning.benchmarks.evaluate import EvaluationConfig, ImageResult, evaluate_sample
from unsam_lightning.benchmarks.kept import KeptResults, fingerprint
from unsam_lightning.benchmarks.sample import EvalSample, Remark
from unsam_lightning.calibration import Calibration
from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM

CONFIG = EvaluationConfig(fixed=(0.5,), max_clicks=2, points_per_side=2)


@pytest.fixture
def sample() -> EvalSample:
    masks = np.zeros((1, 24, 30), dtype=np.int8)
    masks[0, 5:20, 5:20] = 1
    image = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    return EvalSample(key="key", image=image, masks=masks, ids=["a"], remarks=[Remark("z", "odd", "3 px")])


def never() -> ImageResult:
    raise AssertionError("measured again")


def test_kept_result_is_the_measured_one(sample: EvalSample, tmp_path: Path) -> None:
    model = UnSAM.from_pretrained("nano")
    kept = KeptResults(tmp_path / "unfinished" / "x")
    measured = kept.measured(sample, "set", 3, lambda: evaluate_sample(model, sample, CONFIG, dataset="set", index=3))
    assert measured.remarks == [("z", "odd", "3 px", False)]
    again = KeptResults(tmp_path / "unfinished" / "x")
    assert again.measured(sample, "set", 3, never) == measured
    assert len(list((tmp_path / "unfinished" / "x").iterdir())) == 1
    again.forget(again.names)
    assert not list(tmp_path.iterdir())
    again.forget(again.names)  # nothing left to forget


def test_another_image_mask_or_place_is_measured(sample: EvalSample, tmp_path: Path) -> None:
    kept = KeptResults(tmp_path)
    result = ImageResult(dataset="set", index=0, key="key", num_masks=0, sessions=[])
    kept.measured(sample, "set", 0, lambda: result)
    other_image, other_masks = sample.image.copy(), sample.masks.copy()
    other_image[0, 0, 0] ^= 1
    other_masks[0, 0, 0] = 1
    others = [
        (dataclasses.replace(sample, image=other_image), "set", 0),
        (dataclasses.replace(sample, masks=other_masks), "set", 0),
        (dataclasses.replace(sample, ids=["b"]), "set", 0),
        (dataclasses.replace(sample, drawn_from=other_masks), "set", 0),
        (sample, "other", 0),
        (sample, "set", 1),
    ]
    for different, dataset, index in others:
        with pytest.raises(AssertionError, match="measured again"):
            kept.measured(different, dataset, index, never)
    assert kept.measured(sample, "set", 0, never) == result


def nothing_in(dataset: str) -> ImageResult:
    return ImageResult(dataset=dataset, index=0, key="", num_masks=0, sessions=[])


def test_results_of_other_evaluations_are_not_removed(sample: EvalSample, tmp_path: Path) -> None:
    """The name of the folder does not know the data sets: a long test of one must outlive a short one of another."""
    large, small, other_model = (KeptResults(tmp_path / "u" / name) for name in "xxy")
    for kept, dataset in ((large, "coco"), (small, "bsds"), (other_model, "bsds")):
        kept.measured(sample, dataset, 0, lambda name=dataset: nothing_in(name))  # type: ignore[misc]
    small.forget(small.names)
    assert KeptResults(large.folder).measured(sample, "coco", 0, never) == nothing_in("coco")
    large.forget(large.names)
    assert [path.name for path in (tmp_path / "u").iterdir()] == ["y"]


def test_the_same_evaluation_twice_at_once_removes_its_files_once(sample: EvalSample, tmp_path: Path) -> None:
    first, second = (KeptResults(tmp_path / "u" / "x") for _ in range(2))
    first.measured(sample, "s", 0, lambda: nothing_in("s"))
    second.measured(sample, "s", 0, never)
    first.forget(first.names)
    second.measured(sample, "s", 1, lambda: nothing_in("s"))
    second.forget(second.names)
    assert not list(tmp_path.iterdir())


def test_rank_0_removes_the_files_of_all(sample: EvalSample, tmp_path: Path) -> None:
    ranks = [KeptResults(tmp_path / "u" / "x") for _ in range(2)]
    for index, kept in enumerate(ranks):
        kept.measured(sample, "s", index, lambda: nothing_in("s"))
    ranks[0].forget([name for kept in ranks for name in kept.names])
    assert not list(tmp_path.iterdir())


def test_fingerprint_follows_the_dials_map() -> None:
    model = UnSAM.from_pretrained("nano")
    plain = fingerprint(model, CONFIG, "32")
    found = {plain}
    for middle in (0.3, 0.4):
        model.calibration = Calibration(asked=(0.1, 0.5, 1.0), given=(0.1, middle, 1.0), num_clicks=4)
        found.add(fingerprint(model, CONFIG, "32"))
    assert len(found) == 3
    model.calibration = None
    assert fingerprint(model, CONFIG, "32") == plain


def test_fingerprint_follows_weights_and_config() -> None:
    model = UnSAM.from_pretrained("nano")
    first = fingerprint(model, CONFIG, "32")
    assert fingerprint(UnSAM.from_pretrained("nano"), CONFIG, "32") == first
    assert fingerprint(model, dataclasses.replace(CONFIG, max_clicks=3), "32") != first
    assert fingerprint(model, CONFIG, "bf16") != first
    with torch.no_grad():
        model.decoder.token.view(-1)[0] += 1e-6
    assert fingerprint(model, CONFIG, "32") != first


def test_naming_a_result_copies_no_masks(sample: EvalSample, tmp_path: Path) -> None:
    """An image of SA-1B has a gigabyte of them."""
    sample = dataclasses.replace(sample, masks=np.zeros((40, 1000, 1000), dtype=np.int8), ids=list(map(str, range(40))))
    kept = KeptResults(tmp_path)
    kept.measured(sample, "s", 0, lambda: nothing_in("s"))
    tracemalloc.start()
    try:
        kept.measured(sample, "s", 0, never)
        assert tracemalloc.get_traced_memory()[1] < sample.masks.nbytes / 10
    finally:
        tracemalloc.stop()


def test_full_disk_is_named(sample: EvalSample, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="to write"):
        KeptResults(tmp_path / "file" / "x").measured(
            sample, "s", 0, lambda: ImageResult(dataset="s", index=0, key="", num_masks=0, sessions=[])
        )

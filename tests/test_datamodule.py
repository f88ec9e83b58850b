"""Which images train."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drawn_images import make_photos

from unsam_lightning import pack
from unsam_lightning.__main__ import main
from unsam_lightning.datamodule import UnSAMData
from unsam_lightning.errors import UserError
from unsam_lightning.image_listing import list_images
from unsam_lightning.module import UnSAMModule


@pytest.mark.parametrize(
    ("train_images", "sizes"),
    [(None, [10, 10, 7]), (15, [10, 5, 0]), (10, [10, 0, 0]), (1000, [10, 10, 7])],
)
def test_first_images_train_and_the_last_are_held_out(train_images: int | None, sizes: list[int]) -> None:
    data = UnSAMData(train_images=train_images, calibration_images=8)
    pairs: Any = range(30)  # only its length is looked at
    data.pairs = pairs
    assert data.held_out == range(27, 30)  # a tenth at most
    images: Any = SimpleNamespace(shards=[SimpleNamespace(samples=10)] * 3)
    assert data._shard_sizes(images) == sizes
    assert data.num_trained == sum(sizes)


@pytest.mark.parametrize(("asked", "workers", "ahead"), [(0, 0, None), (1, 1, 1), (16, 2, 1)])
def test_few_benchmark_images_are_read_ahead(asked: int, workers: int, ahead: int | None) -> None:
    """Each may hold a gigabyte of masks."""
    data = UnSAMData(num_workers=asked)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    loader = data.test_dataloader()
    assert (loader.num_workers, loader.prefetch_factor) == (workers, ahead)


def test_no_images_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match="train_images 0"):
        UnSAMData(train_images=0)


def test_a_folder_is_listed_once_for_labels_and_training(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, listed = make_photos(tmp_path / "photos"), []

    def note(*args: Any) -> Any:
        listed.append(args)
        return list_images(*args)

    monkeypatch.setattr(pack, "list_images", note)
    args = ["fit", "--config", str(tiny_run), "--test_after_fit", "false", "--trainer.max_steps", "1"]
    assert main([*args, "--data.images", str(photos)]) == 0
    assert len(listed) == 1


def test_a_fraction_of_the_batches_is_that_fraction_of_each_epoch(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def note(module: UnSAMModule, pair: Any, batch_idx: int) -> Any:
        seen.extend(pair.keys)
        return 0 * sum(parameter.sum() for parameter in module.parameters() if parameter.requires_grad)

    def two_epochs(limit: str) -> list[str]:
        seen.clear()
        args = ["fit", "--config", str(tiny_run), "--test_after_fit", "false", "--data.num_workers", "0"]
        args += ["--data.batch_size", "1", "--trainer.max_steps", "-1", "--trainer.max_epochs", "2"]
        assert main([*args, "--trainer.limit_train_batches", limit]) == 0
        return list(seen)

    monkeypatch.setattr(UnSAMModule, "training_step", note)
    whole = two_epochs("1.0")
    assert len(whole) == 22  # twelve images, one of them held out
    assert two_epochs("0.5") == whole[:5] + whole[11:16]
    assert two_epochs("0.1") == [whole[0], whole[11]]
    assert two_epochs("3") == whole[:3] + whole[11:14]

"""Which images train."""

from types import SimpleNamespace
from typing import Any

import pytest

from unsam_lightning.datamodule import UnSAMData
from unsam_lightning.errors import UserError


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


def test_no_images_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match="train_images 0"):
        UnSAMData(train_images=0)

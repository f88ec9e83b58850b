from collections.abc import Iterator

import numpy as np
import pytest

from unsam_lightning.benchmarks.sample import EvalSample, Remark
from unsam_lightning.benchmarks.subset import UNREADABLE, EvalSubset
from unsam_lightning.errors import UserError


class Numbers:
    """Ten images; image n has n masks, and mask k is k + 1 pixels large."""

    name = "numbers"
    keys = tuple(f"image{index}" for index in range(10))

    def __init__(self) -> None:
        self.opened: list[int] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> EvalSample:
        self.opened.append(index)
        masks = (np.arange(16).reshape(1, 4, 4) <= np.arange(index)[:, None, None]).astype(np.int8)
        return EvalSample(
            key=f"image{index}",
            image=np.full((4, 4, 3), index, dtype=np.uint8),
            masks=masks.reshape(index, 4, 4),
            ids=[f"mask{n}" for n in range(index)],
        )

    def __iter__(self) -> Iterator[EvalSample]:
        return (self[index] for index in range(len(self)))


class OneBroken(Numbers):
    """Image 5 cannot be read."""

    def __getitem__(self, index: int) -> EvalSample:
        if index == 5:
            raise UserError("expected a readable file image5.png; found 3 bytes")
        return super().__getitem__(index)


def drawn(subset: EvalSubset) -> list[list[str]]:
    return [sample.ids for sample in subset]


def test_without_limits_it_is_the_data_set() -> None:
    subset = EvalSubset(Numbers())
    assert len(subset) == 10
    assert subset.name == "numbers"
    assert EvalSubset(Numbers(), name="mine").name == "mine"
    assert drawn(subset) == [sample.ids for sample in Numbers()]


@pytest.mark.parametrize(("max_images", "kept"), [(1, [0]), (2, [0, 5]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (0, [])])
def test_images_are_spread_evenly_and_only_those_are_opened(max_images: int, kept: list[int]) -> None:
    numbers = Numbers()
    subset = EvalSubset(numbers, max_images)
    assert len(subset) == len(kept)
    assert [sample.key for sample in subset] == [f"image{n}" for n in kept]
    assert numbers.opened == kept


@pytest.mark.parametrize("max_images", [10, 11, 1000])
def test_limit_beyond_the_data_set_is_no_limit(max_images: int) -> None:
    assert drawn(EvalSubset(Numbers(), max_images)) == drawn(EvalSubset(Numbers()))


def test_masks_and_names_stay_together_in_order() -> None:
    for sample in EvalSubset(Numbers(), max_masks=3):
        numbers = [int(name.removeprefix("mask")) for name in sample.ids]
        assert len(numbers) == min(3, int(sample.key.removeprefix("image")))
        assert numbers == sorted(set(numbers))
        assert [int(mask.sum()) for mask in sample.masks] == [n + 1 for n in numbers]
        assert [int(mask.sum()) for mask in sample.all_masks] == list(range(1, len(sample.all_masks) + 1))
        assert len(sample.all_masks) == int(sample.key.removeprefix("image"))


def test_draw_depends_on_the_seed_and_the_names_alone() -> None:
    whole = EvalSubset(Numbers(), max_masks=3)
    assert drawn(whole) == drawn(EvalSubset(Numbers(), max_masks=3))
    assert drawn(EvalSubset(Numbers(), 2, 3))[1] == drawn(whole)[5]  # another position, the same image
    assert drawn(whole) != drawn(EvalSubset(Numbers(), max_masks=3, seed=1))
    # The same masks on every machine and in every version: the draw itself is pinned.
    assert whole[9].ids == ["mask2", "mask6", "mask8"]


def test_fewer_masks_are_some_of_the_more() -> None:
    smaller, larger = drawn(EvalSubset(Numbers(), max_masks=2)), drawn(EvalSubset(Numbers(), max_masks=5))
    assert all(set(few) <= set(many) for few, many in zip(smaller, larger, strict=True))


def test_index_out_of_range_is_refused() -> None:
    for index in (-1, 3, 9):
        with pytest.raises(IndexError):
            EvalSubset(Numbers(), 3)[index]


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_read() -> None:
    subset = EvalSubset(OneBroken(), max_images=2)
    with pytest.raises(UserError, match=r"image5\.png"):
        subset[1]
    refused = subset.or_refusal(1)
    assert (refused.key, refused.ids, len(refused.masks)) == ("image5", [], 0)
    assert refused.remarks == [Remark("", UNREADABLE, "expected a readable file image5.png; found 3 bytes")]
    assert subset.or_refusal(0).key == "image0"
    with pytest.raises(IndexError):
        subset.or_refusal(2)

"""Named draws: the same on every machine, about the share asked for, and disjoint."""

from collections.abc import Iterator

import numpy as np
import pytest

from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.sampling import SampledDataset
from unsam_lightning.benchmarks.subset import EvalSubset
from unsam_lightning.errors import UserError


class Rows:
    """Forty images of fifty masks; mask k covers rows k and k + 1, so that neighbours overlap in one row."""

    name = "rows"
    keys = [f"image{n}" for n in range(40)]  # noqa: RUF012

    def __init__(self) -> None:
        self.opened: list[int] = []

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> EvalSample:
        self.opened.append(index)
        masks = np.zeros((50, 51, 2), dtype=np.int8)
        for k in range(50):
            masks[k, k : k + 2] = 1
        image = np.zeros((51, 2, 3), dtype=np.uint8)
        return EvalSample(key=self.keys[index], image=image, masks=masks, ids=[f"mask{k}" for k in range(50)])

    def __iter__(self) -> Iterator[EvalSample]:
        return (self[index] for index in range(40))


def test_without_limits_it_is_the_data_set_under_another_name() -> None:
    drawn = SampledDataset(Rows(), "all_seed0", 0)
    assert (drawn.name, len(drawn), list(drawn.keys)) == ("rows_all_seed0", 40, Rows.keys)
    assert [sample.ids for sample in drawn] == [sample.ids for sample in Rows()]


def test_images_are_drawn_by_name_without_being_opened() -> None:
    rows = Rows()
    drawn = SampledDataset(rows, "five", 0, num_images=5)
    assert rows.opened == []
    assert drawn.keys == [sample.key for sample in drawn]
    assert rows.opened == sorted(rows.opened)
    # Pinned: the draw must not change with a version of Python or numpy.
    assert drawn.keys == ["image8", "image13", "image29", "image37", "image38"]
    more = SampledDataset(rows, "ten", 0, num_images=10)
    assert set(drawn.keys) < set(more.keys)
    assert SampledDataset(rows, "other", 1, num_images=5).keys != drawn.keys


def test_share_of_masks_is_about_that_share_and_grows_with_it() -> None:
    tenth = SampledDataset(Rows(), "tenth", 0, share_of_masks=0.1)
    counts = [len(sample.ids) for sample in tenth]
    assert abs(sum(counts) - 200) < 45  # 2,000 masks: three standard deviations are 40
    half = SampledDataset(Rows(), "half", 0, share_of_masks=0.5)
    for few, many in zip(tenth, half, strict=True):
        assert set(few.ids) <= set(many.ids)
        assert [int(np.flatnonzero(mask[:, 0])[0]) for mask in few.masks] == [int(name[4:]) for name in few.ids]


def test_disjoint_masks() -> None:
    drawn = SampledDataset(Rows(), "five", 3, masks_per_image=20, disjoint=True)
    for sample in drawn:
        assert sample.masks.sum(0).max() == 1
        assert 17 <= len(sample.ids) <= 20  # no gap of four free rows can stay before twenty are taken
    assert all(len(sample.ids) == 5 for sample in SampledDataset(Rows(), "five", 3, masks_per_image=5, disjoint=True))
    # All masks stay in sight, for what is asked of the image, also through a second draw.
    few = EvalSubset(SampledDataset(Rows(), "five", 3, masks_per_image=5), max_masks=2)[0]
    assert len(few.masks) == 2
    np.testing.assert_array_equal(few.all_masks, Rows()[0].masks)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"num_images": 41}, "num_images 41 of 40"),
        ({"num_images": 0, "share_of_masks": 0}, "num_images 0 of 40; share_of_masks 0"),
        ({"share_of_masks": 1.5}, "share_of_masks 1.5"),
        ({"masks_per_image": 0}, "masks_per_image 0"),
    ],
)
def test_impossible_draws_are_refused(options: dict[str, float], found: str) -> None:
    with pytest.raises(UserError, match=found):
        SampledDataset(Rows(), "draw", 0, **options)  # type: ignore[arg-type]

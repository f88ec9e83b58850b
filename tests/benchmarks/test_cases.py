import numpy as np

from unsam_lightning.benchmarks.cases import choose_cases, draw_case
from unsam_lightning.benchmarks.evaluate import ImageResult
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.sessions import SessionResult
from unsam_lightning.pairs import encode_masks

MASK = np.zeros((20, 30), dtype=bool)
MASK[5:15, 5:15] = True


def result_with(ious: list[float]) -> ImageResult:
    rle = encode_masks(MASK[None])[0]
    sessions = []
    for n, iou in enumerate(ious):
        common = {"mask_id": f"m{n}", "first_click": (10, 10), "first_mask": rle}
        sessions.append(SessionResult(method="base_single", granularity=None, ious=[0.5], **common))
        sessions.append(SessionResult(method="tuned", granularity=0.3, ious=[iou], is_automatic=True, **common))
        sessions.append(SessionResult(mask_id=f"m{n}", method="tuned", granularity=0.4, ious=[0.99]))
    return ImageResult(dataset="set", index=4, key="k", num_masks=len(ious), sessions=sessions)


def test_best_median_and_worst_by_hand() -> None:
    cases = choose_cases([result_with([0.1, 0.9, 0.5, 0.4, 0.7])], "set", each=1)
    assert [(case.rank, case.mask_id, case.image) for case in cases] == [
        ("best", "m1", 4),
        ("median", "m2", 4),
        ("worst", "m0", 4),
    ]
    assert choose_cases([result_with([0.1])], "other") == []


def test_no_object_is_shown_twice() -> None:
    for count in range(1, 12):
        cases = choose_cases([result_with([0.5] * count)], "set")
        assert len({case.mask_id for case in cases}) == len(cases) == min(count, 9)


def test_picture_has_three_tiles() -> None:
    case = choose_cases([result_with([0.7])], "set")[0]
    image = np.full((20, 30, 3), 90, dtype=np.uint8)
    sample = EvalSample(key="k", image=image, masks=MASK[None].astype(np.int8), ids=["m0"])
    picture = draw_case(case, sample)
    assert picture.shape[1] == 3 * (300 + 4)
    tiles = np.split(picture[60:160], 3, axis=1)
    assert not np.array_equal(tiles[0], tiles[1])  # what was asked for has a colour of its own
    assert np.array_equal(tiles[1], tiles[2])

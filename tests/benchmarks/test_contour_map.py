import cv2
import numpy as np
import pytest
import torch

from unsam_lightning.benchmarks.contour_map import contour_map, ending_share, ridges
from unsam_lightning.benchmarks.full_size import full_size_mask
from unsam_lightning.benchmarks.whole_image import Proposals, stability
from unsam_lightning.metrics.contours import boundary_pixels, thin_lines


def proposals_of(masks: np.ndarray, sure: float = 5.0) -> Proposals:
    """Masks whose logits are +-sure."""
    logits = torch.from_numpy(np.where(masks, sure, -sure)).half()
    return Proposals(logits, torch.linspace(0, 1, len(masks)), torch.zeros(len(masks)))


def columns(*spans: tuple[int, int]) -> np.ndarray:
    """For each span a mask of whole columns, 32 x 32."""
    masks = np.zeros((len(spans), 32, 32), dtype=bool)
    for mask, (first, last) in zip(masks, spans, strict=True):
        mask[:, first:last] = True
    return masks


def cloudy(count: int, side: int = 24) -> Proposals:
    """Soft masks without any order."""
    noise = np.random.default_rng(0).normal(size=(count, side, side)).astype(np.float32)
    logits = torch.from_numpy(np.stack([cv2.GaussianBlur(one, (0, 0), 3) * 30 for one in noise])).half()
    return Proposals(logits, torch.rand(count), torch.ones(count))


def test_a_contour_at_which_all_masks_end_by_hand() -> None:
    """Two masks part the image: both end at column 15, one covers each pixel; 0.02 of the two are added below."""
    found = contour_map(proposals_of(columns((0, 16), (16, 32))), 32, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 15], 2 / (2 * (1 + 0.04)), rtol=1e-3)
    assert np.count_nonzero(np.delete(found, 15, axis=1)) == 0


def test_strengths_of_granularities_add_up() -> None:
    """Halves and quarters: four masks end in the middle, two between the quarters; two cover each pixel."""
    spans = ((0, 16), (16, 32), (0, 8), (8, 16), (16, 24), (24, 32))
    found = contour_map(proposals_of(columns(*spans)), 32, 32)
    np.testing.assert_allclose(found[16, [7, 15, 23]], np.array([2, 4, 2]) / (2 * (2 + 0.12)), rtol=2e-3)
    assert np.flatnonzero(found[16]).tolist() == [7, 15, 23]


def test_nested_squares() -> None:
    """On a mask of everything: the side that both share has the strength of both, of whichever size they are."""
    masks = np.ones((3, 64, 64), dtype=bool)
    masks[1:] = False
    masks[1, 8:56, 8:56] = masks[2, 20:44, 8:32] = True
    found = contour_map(proposals_of(masks), 64, 64)
    outside, inside = 0.5 - 0.5 / np.sqrt(2 * np.pi), 0.5 + 0.5 / np.sqrt(2 * np.pi)  # of one mask, beside its end
    # A line's pixels lie inside the mask at its right side, outside at its left.
    np.testing.assert_allclose(found[32, 7], 2 / (2 * (1 + 2 * outside + 0.06)), rtol=0.01)
    np.testing.assert_allclose(found[32, 55], 1 / (2 * (1 + inside + 0.06)), rtol=0.01)
    np.testing.assert_allclose(found[32, 31], 1 / (2 * (2 + inside + 0.06)), rtol=0.01)


def test_what_ends_is_what_the_benchmark_calls_boundary() -> None:
    """The same from its parts, at another size than the logits'."""
    proposals, (height, width) = cloudy(20), (60, 90)
    weights = stability(proposals.logits).numpy()
    assert 0 < weights.min() < weights.max() <= 1
    ending = sum(
        np.float32(weight) * boundary_pixels(full_size_mask(one, (height, width)))
        for one, weight in zip(proposals.logits, weights, strict=True)
    )
    covered = (weights[:, None, None] * (proposals.logits > 0).numpy()).sum(0).astype(np.float32)
    covered = cv2.resize(cv2.GaussianBlur(covered, (0, 0), 24 / 64), (width, height)) + 0.02 * weights.sum()
    share = cv2.GaussianBlur(np.asarray(ending, np.float32), (0, 0), 1.0) * np.sqrt(2 * np.pi) / (2 * covered)
    np.testing.assert_allclose(ending_share(proposals, height, width), np.minimum(share, 1), rtol=1e-4, atol=1e-6)


def test_more_clicks_that_agree_change_nothing() -> None:
    once, often = columns((0, 16), (4, 12)), columns(*[(0, 16), (4, 12)] * 5)
    np.testing.assert_allclose(
        contour_map(proposals_of(once), 32, 32), contour_map(proposals_of(often), 32, 32), rtol=1e-5
    )


def test_unsure_masks_do_not_count() -> None:
    """Logits of +-0.5 lie between the two thresholds of stability."""
    sure, unsure = proposals_of(columns((0, 16))), proposals_of(columns((0, 10)), sure=0.5)
    both = Proposals(*(torch.cat(parts) for parts in zip(sure, unsure, strict=True)))
    np.testing.assert_array_equal(contour_map(both, 32, 32), contour_map(sure, 32, 32))
    assert not contour_map(unsure, 32, 32).any()


def test_a_turned_image_has_the_turned_map() -> None:
    proposals = cloudy(8)
    turned = proposals._replace(logits=proposals.logits.transpose(1, 2).contiguous())
    np.testing.assert_allclose(ending_share(turned, 90, 60), ending_share(proposals, 60, 90).T, rtol=1e-4, atol=1e-6)


def test_no_masks_have_no_contours() -> None:
    found = contour_map(proposals_of(columns()), 20, 30)
    assert found.shape == (20, 30)
    assert not found.any()


@pytest.mark.parametrize("angle", [0, 20, 45, 70, 90, 110, 160])
def test_ridges_are_thin_lines_of_the_same_strength(angle: float) -> None:
    y, x = np.mgrid[:48, :48] - 23.5
    away = x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle))
    strength = (0.7 * np.exp(-(away**2) / 8)).astype(np.float32)
    found = ridges(strength)[4:-4, 4:-4]  # the frame mirrors a slanting line
    away = away[4:-4, 4:-4]
    assert np.isin(found, [0, *np.unique(strength)]).all()
    assert (np.abs(away[found > 0]) <= 0.75).all()
    assert np.count_nonzero(thin_lines(found)) >= 38  # from end to end
    assert np.count_nonzero(found) <= 2.1 * np.count_nonzero(thin_lines(found))

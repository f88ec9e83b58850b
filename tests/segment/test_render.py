import tracemalloc
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP
from unsam_lightning.segment.render import (
    answer_tiles,
    granularity_color,
    mark_clicks,
    overlay,
    paint_hierarchy,
    tile_rows,
    write_png,
)

BLUE = (30, 144, 255)


@pytest.fixture
def image() -> np.ndarray:
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    image.setflags(write=False)  # whoever writes into the input fails
    return image


def square(top: int, left: int, size: int) -> np.ndarray:
    mask = np.zeros((40, 60), dtype=bool)
    mask[top : top + size, left : left + size] = True
    return mask


def test_overlay_tints_inside_outlines_and_leaves_the_rest(image: np.ndarray) -> None:
    mask = square(10, 20, 12)
    shown = overlay(image, mask)
    assert shown.shape == image.shape
    assert shown.dtype == np.uint8
    assert (shown[~mask] == 100).all()
    assert (shown[12:20, 22:30] == [65, 122, 177]).all()  # half of 100, half of the colour
    assert (shown[10, 20:32] == 255).all()


def test_overlay_of_nothing_is_the_image(image: np.ndarray) -> None:
    assert (overlay(image, np.zeros((40, 60), dtype=bool)) == image).all()


def test_a_large_photograph_is_drawn_small_and_never_in_floats() -> None:
    image, mask = np.full((1500, 2000, 3), 100, np.uint8), np.zeros((1500, 2000), bool)
    mask[300:1200, 500:1500] = True
    tracemalloc.start()
    shown = overlay(image, mask)
    assert tracemalloc.get_traced_memory()[1] < 4 * image.nbytes
    assert (shown[310:1190, 510:1490] == [65, 122, 177]).all()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    (tile,) = answer_tiles(image, mask[None], [[1000, 750]], [1], height=150)
    assert tracemalloc.get_traced_memory()[1] - before < image.nbytes / 2
    tracemalloc.stop()
    assert tile.shape == (150, 200, 3)
    assert tuple(tile[75, 100]) == (0, 200, 0)
    assert tuple(tile[40, 60]) == (65, 122, 177)
    assert tuple(tile[10, 10]) == (100, 100, 100)


def test_tiles_of_a_strip_stay_narrow() -> None:
    image = np.full((20, 70_000, 3), 100, np.uint8)
    (tile,) = answer_tiles(image, np.zeros((1, 20, 70_000), bool), [[69_999, 19]], [0])
    assert tile.shape == (5, 16_384, 3)
    assert tuple(tile[4, 16_383]) == (220, 0, 0)


def test_colours_of_the_sweep_differ_and_get_lighter() -> None:
    colors = [granularity_color(g) for g in SWEEP]
    lightness = [0.3 * r + 0.59 * g + 0.11 * b for r, g, b in colors]
    assert lightness == sorted(lightness)
    assert len(set(colors)) == len(SWEEP)
    assert colors[-1][2] < colors[-1][0]  # yellow, hence not blue and red swapped


def test_fine_masks_stay_visible_on_coarse_ones(image: np.ndarray) -> None:
    masks = np.stack([square(15, 15, 8), square(5, 5, 30)])
    for order in ([0, 1], [1, 0]):
        granularity = np.array([0.1, 1.0])[order]
        shown = paint_hierarchy(image, masks[order], granularity.tolist())
        for (y, x), g in (((19, 19), 0.1), ((30, 30), 1.0)):
            expected = 0.45 * 100 + 0.55 * np.array(granularity_color(g))
            assert abs(shown[y, x] - expected).max() <= 1
        assert (shown[0, 0] == 100).all()
        assert (shown[5, 5:35] == 255).all()
    assert (paint_hierarchy(image, np.zeros((0, 40, 60), dtype=bool), []) == image).all()


def test_clicks_are_green_inside_and_red_outside(image: np.ndarray) -> None:
    shown = mark_clicks(image, [[10, 20], [45.4, 30]], [1, 0])
    assert tuple(shown[20, 10]) == (0, 200, 0)
    assert tuple(shown[30, 45]) == (220, 0, 0)
    assert (shown[5, 30] == 100).all()
    with pytest.raises(ValueError, match="zip"):
        mark_clicks(image, [[1, 1]], [1, 0])


def test_tiles_share_a_height_and_their_columns(image: np.ndarray) -> None:
    other = np.full((80, 30, 3), 200, dtype=np.uint8)
    picture = tile_rows([[image, other], [image, other]], ["left", "right"], height=80)
    # Widths 120 and 30 with a margin of 2 px all around; a header of 18 px.
    assert picture.shape == (18 + 2 * 84, 124 + 34, 3)
    assert (picture[18 + 2 : 18 + 82, 2:122] == 100).all()
    assert (picture[18 + 84 + 2 : 18 + 84 + 82, 126:156] == 200).all()
    for left, right in ((2, 60), (126, 156)):
        assert (picture[:18, left:right] < 255).any()  # the captions
    with pytest.raises(ValueError, match="zip"):
        tile_rows([[image, other]], ["one"])


def test_pictures_are_written_whole_or_not_at_all(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "new folder" / "a.png"
    write_png(path, image, "what it shows")
    with PIL.Image.open(path) as written:
        assert written.info["Title"] == "what it shows"
        np.testing.assert_array_equal(np.asarray(written), image)
    write_png(path, square(5, 6, 7))
    with PIL.Image.open(path) as written:
        assert written.mode == "1"
        assert "Title" not in written.info
        np.testing.assert_array_equal(np.asarray(written), square(5, 6, 7))
    with pytest.raises(TypeError):
        write_png(path, np.zeros((2, 2), complex))  # type: ignore[arg-type]
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    with pytest.raises(UserError, match=r"to write .*b.png; found"):
        write_png(path / "b.png", image)

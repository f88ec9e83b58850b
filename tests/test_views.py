from unittest import mock

import numpy as np
import pytest
import torch

from unsam_lightning.batch import Batch, Sample, collate, pack_masks, unpack_masks
from unsam_lightning.prompts import propagate_clicks
from unsam_lightning.views import STRIDE, Augmentation, TwoViews, View, warp_maps, warp_points

SIDE, FRAME, CELLS = 160, 128, 32

#: All of the geometry, nothing of the colours.
GEOMETRY = Augmentation(jitter=0, hue=0, grey=0, blur=0, degrees=20, shear=8, crop_scale=(0.4, 1.0))


def batch_of(image: np.ndarray, masks: np.ndarray, copies: int, seed: int = 0) -> Batch:
    return collate(
        [
            Sample(
                key=f"image{n}",
                image=image,
                planes=pack_masks(masks),
                granularity=np.linspace(0.1, 1, len(masks)).astype(np.float32),
                click_from=np.arange(len(masks)),
                seed=seed + n,
            )
            for n in range(copies)
        ],
        num_masks=len(masks) + 1,
    )


@pytest.fixture(scope="module")
def shapes() -> tuple[np.ndarray, np.ndarray]:
    """An image whose channels are its three masks: a disc, a bar and everything but a margin."""
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = (y - 60) ** 2 + (x - 95) ** 2 < 40**2
    bar = (abs(x - y) < 12) & (x > 30)
    most = (y > 15) & (x < SIDE - 25)
    masks = np.stack([disc, bar, most])
    return (masks.transpose(1, 2, 0) * 255).astype(np.uint8), masks


@pytest.fixture(scope="module")
def ramp() -> np.ndarray:
    """An image whose red is the pixel's x and whose green is its y."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.stack([x, y, np.full_like(x, 255)], axis=-1).astype(np.uint8)


def at_cells(images: torch.Tensor) -> torch.Tensor:
    """The image at the centres of the decoder's pixels."""
    return torch.nn.functional.avg_pool2d(images[..., 1:-1, 1:-1], 2, stride=STRIDE)


@pytest.mark.parametrize("augmentation", [GEOMETRY, None])
def test_masks_follow_the_image(shapes: tuple[np.ndarray, np.ndarray], augmentation: Augmentation | None) -> None:
    pair = TwoViews(FRAME, augmentation)(batch_of(*shapes, copies=12))
    for view in (pair.first, pair.second):
        assert view.images.shape == (12, 3, FRAME, FRAME)
        assert view.masks.shape == (12, 4, CELLS, CELLS)
        inside = at_cells(view.images) > 0.5
        agree = (inside == view.masks[:, :3]).float().mean((1, 2, 3))
        assert agree.min() > 0.99, agree
        assert not view.masks[:, 3].any()
        assert not view.valid[:, 3].any()


def test_seen_is_where_the_image_is_not_empty(ramp: np.ndarray) -> None:
    pair = TwoViews(FRAME, GEOMETRY)(batch_of(ramp, np.ones((1, SIDE, SIDE), dtype=bool), copies=16))
    margins = []
    for view in (pair.first, pair.second):
        shown = at_cells(view.images)[:, 2] > 0.5  # blue is 1 everywhere in the source
        assert (shown == view.seen).float().mean((1, 2)).min() > 0.99
        assert (view.masks[:, 0] == view.seen).all()
        margins.append((~view.seen).float().mean((1, 2)))
    assert torch.cat(margins).max() > 0.01  # some view has an empty margin at all


def test_matrix_is_exact(ramp: np.ndarray) -> None:
    pair = TwoViews(FRAME, GEOMETRY)(batch_of(ramp, np.zeros((0, SIDE, SIDE), dtype=bool), copies=8))
    y, x = torch.meshgrid(torch.arange(FRAME), torch.arange(FRAME), indexing="ij")
    pixels = torch.stack((x, y), -1).float().flatten(0, 1)
    for view in (pair.first, pair.second):
        source = warp_points(pixels.expand(8, -1, -1), torch.linalg.inv(view.matrix))  # (B, S S, 2)
        inside = ((source > 2) & (source < SIDE - 3)).all(-1)
        shown = view.images[:, :2].flatten(2).transpose(1, 2) * 255
        assert inside.float().mean() > 0.8
        assert (shown - source)[inside].abs().max() < 0.05  # pixels of the source


def test_warp_carries_masks_and_clicks_to_the_same_content(
    shapes: tuple[np.ndarray, np.ndarray], ramp: np.ndarray
) -> None:
    pair = TwoViews(FRAME, GEOMETRY)(batch_of(*shapes, copies=12))
    warp = pair.warp()
    for n in range(3):
        moved = warp_maps(pair.first.masks[:, n : n + 1].float(), warp)[:, 0] > 0.5
        both = (warp_maps(pair.first.seen[:, None].float(), warp)[:, 0] > 0.99) & pair.second.seen
        assert both.float().mean() > 0.3
        # Warped twice at stride 4, a boundary may be off by half a cell.
        assert ((moved == pair.second.masks[:, n]) | ~both).float().mean() > 0.975
        deep = torch.nn.functional.max_pool2d(
            pair.second.masks[:, n].float(), 3, 1, 1
        ) == -torch.nn.functional.max_pool2d(-pair.second.masks[:, n].float(), 3, 1, 1)
        assert ((moved == pair.second.masks[:, n]) | ~both | ~deep).float().mean() > 0.999

    pair = TwoViews(FRAME, GEOMETRY)(batch_of(ramp, np.zeros((0, SIDE, SIDE), dtype=bool), copies=12))
    clicks = torch.rand(12, 40, 1, 2, generator=torch.Generator().manual_seed(0)) * (FRAME - 9) + 4
    checked = 0
    for b in range(12):
        moved, visible = propagate_clicks(
            clicks[b], pair.warp()[b].expand(40, -1, -1), pair.second.seen[b].expand(40, -1, -1)
        )
        here, there = (content(view, b, points) for view, points in ((pair.first, clicks[b]), (pair.second, moved)))
        clear = visible & (here[:, 2] > 0.999) & (there[:, 2] > 0.999)
        checked += int(clear.sum())
        assert ((here - there)[clear].abs() * 255).max() < 0.1  # pixels of the source
    assert checked > 100


def content(view: View, b: int, points: torch.Tensor) -> torch.Tensor:
    """The image at points (P, 1, 2), bilinear: (P, 3)."""
    grid = points / (FRAME - 1) * 2 - 1
    return torch.nn.functional.grid_sample(view.images[b : b + 1], grid[None], align_corners=True)[0, :, :, 0].T


def test_geometry_is_float32_inside_autocast(shapes: tuple[np.ndarray, np.ndarray]) -> None:
    pair = TwoViews(FRAME, GEOMETRY)(batch_of(*shapes, copies=2))
    points, maps = torch.tensor([[[101.0, 33.0]]]).repeat(2, 1, 1), torch.rand(2, 1, CELLS, CELLS)
    outside = pair.warp(), warp_points(points, pair.first.matrix), warp_maps(maps, pair.first.matrix)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pair.warp(), warp_points(points, pair.first.matrix), warp_maps(maps, pair.first.matrix)
        views = TwoViews(FRAME, GEOMETRY)(batch_of(*shapes, copies=2))
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))
    assert torch.equal(views.first.images, pair.first.images)


def test_geometry_is_float32_whatever_products_are_allowed(shapes: tuple[np.ndarray, np.ndarray]) -> None:
    maps = torch.rand(2, 1, CELLS, CELLS)

    def geometry() -> tuple[torch.Tensor, ...]:
        pair = TwoViews(FRAME, GEOMETRY)(batch_of(*shapes, copies=2))
        points = torch.rand(2, 4096, 2, generator=torch.Generator().manual_seed(0)) * FRAME
        return (
            pair.warp(),
            warp_points(points, pair.first.matrix),
            warp_maps(maps, pair.first.matrix),
            pair.first.images,
        )

    exact = geometry()
    torch.set_float32_matmul_precision("medium")  # as Lightning advises on a GPU; processors with AMX follow it too
    try:
        assert all(torch.equal(a, b) for a, b in zip(exact, geometry(), strict=True))
        assert torch.get_float32_matmul_precision() == "medium"
        asked = []
        with mock.patch.object(torch, "set_float32_matmul_precision", asked.append):
            geometry()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert asked[:1] == ["highest"]
    assert asked[-1:] == ["medium"]
    assert asked.count("highest") == asked.count("medium") >= 4


def test_no_augmentation_is_the_plain_image(shapes: tuple[np.ndarray, np.ndarray]) -> None:
    pair = TwoViews(SIDE, None)(batch_of(*shapes, copies=2))
    for view in (pair.first, pair.second):
        torch.testing.assert_close(view.images[1] * 255, torch.from_numpy(shapes[0]).permute(2, 0, 1).float())
        torch.testing.assert_close(view.matrix, torch.eye(3).expand(2, -1, -1))
        assert view.seen.all()
    torch.testing.assert_close(pair.warp(), torch.eye(3).expand(2, -1, -1))


def test_planes_hold_the_masks_at_every_pixel_of_the_frame(shapes: tuple[np.ndarray, np.ndarray]) -> None:
    batch = batch_of(*shapes, copies=2)
    plain = TwoViews(SIDE, None, with_planes=True)(batch)
    assert plain.first.planes is not None
    assert plain.second.planes is None
    assert torch.equal(plain.first.planes, batch.planes)
    pair = TwoViews(FRAME, GEOMETRY, with_planes=True)(batch)
    assert pair.first.planes is not None
    fine = unpack_masks(pair.first.planes, 3).float()  # (2, 3, FRAME, FRAME)
    # The image's channels are the masks, so the warped image says where they must be, but for pixels at their edges.
    differs = (fine - pair.first.images).abs() > 0.6
    assert differs.float().mean() < 0.002


def test_views_are_a_pure_function_of_the_batch(shapes: tuple[np.ndarray, np.ndarray]) -> None:
    make = TwoViews(FRAME, Augmentation(), with_planes=True)
    state = torch.get_rng_state()
    one, two, other = (make(batch_of(*shapes, copies=3, seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    again = TwoViews(FRAME, Augmentation(), with_planes=True)(batch_of(*shapes, copies=3, seed=5))
    assert one.first.planes is not None
    for view in ("first", "second"):
        for name in View.__slots__:
            value = getattr(getattr(one, view), name)
            if value is None:
                continue
            assert torch.equal(value, getattr(getattr(two, view), name)), name
            assert torch.equal(value, getattr(getattr(again, view), name)), name
        assert not torch.equal(getattr(one, view).images, getattr(other, view).images)
    assert not torch.equal(one.first.matrix, one.second.matrix)
    assert len({tuple(matrix.flatten().tolist()) for matrix in one.first.matrix}) == 3  # each image its own
    assert one.first.images.min() >= 0
    assert one.first.images.max() <= 1
    assert one.keys == ["image0", "image1", "image2"]


def test_mask_that_leaves_the_view_is_not_valid() -> None:
    masks = np.zeros((2, SIDE, SIDE), dtype=bool)
    masks[0, :8, :8] = True  # a corner: 2 x 2 cells of the plain view
    masks[1, 40:120, 40:120] = True
    image = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    pair = TwoViews(FRAME, Augmentation(crop_scale=(0.3, 0.3), degrees=0, shear=0))(batch_of(image, masks, copies=16))
    for view in (pair.first, pair.second):
        assert torch.equal(view.valid[:, :2], view.masks[:, :2].flatten(2).sum(-1) >= 4)
        assert int((~view.valid[:, 0]).sum()) > 0
    assert pair.first.valid[:, 1].all()
    plain = TwoViews(SIDE, None)(batch_of(image, masks, copies=1))
    assert plain.first.valid.tolist() == [[True, True, False]]


def test_warp_maps_moves_whole_cells_exactly() -> None:
    maps = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([[[1.0, 0, 2 * STRIDE], [0, 1, -STRIDE], [0, 0, 1]]])
    moved = warp_maps(maps, shift)
    torch.testing.assert_close(moved[:, :, :-1, 2:], maps[:, :, 1:, :-2], atol=1e-5, rtol=0)
    assert moved[:, :, :, :2].abs().max() < 1e-5
    assert moved[:, :, -1].abs().max() < 1e-5


def test_one_view_is_the_first_of_two() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    batch = batch_of(image, np.ones((1, SIDE, SIDE), dtype=bool), copies=2)
    two, one = TwoViews(FRAME, GEOMETRY)(batch), TwoViews(FRAME, GEOMETRY, with_second=False)(batch)
    assert one.second is None
    assert torch.equal(one.first.images, two.first.images)
    assert torch.equal(one.first.matrix, two.first.matrix)
    assert torch.equal(one.valid, one.first.valid)

import math

import pytest
import torch

from unsam_lightning.errors import UserError
from unsam_lightning.losses.contrast import (
    Contrast,
    OtherView,
    boundary_bands,
    nearness,
    patch_contrast_loss,
    sibling_zones,
)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match=r"temperature > 0; found .*, 0"):
        Contrast(temperature=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squares(count: int = 2) -> torch.Tensor:
    masks = torch.zeros(count, 24, 24, dtype=torch.bool)
    for n in range(count):
        masks[n, 6 : 16 + n, 6 : 18 - n] = True
    return masks


def two_sided(masks: torch.Tensor, inside: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
    """Pixel embeddings (P, C, h, w) that are one vector inside and another outside."""
    return torch.where(masks[:, None], inside[:, None, None], outside[:, None, None])


def test_bands_by_hand() -> None:
    mask = torch.zeros(1, 1, 12, dtype=torch.bool)
    mask[..., 4:10] = True
    inner, outer = boundary_bands(mask, 2)
    assert inner[0, 0].nonzero()[:, 0].tolist() == [4, 5, 8, 9]
    assert outer[0, 0].nonzero()[:, 0].tolist() == [2, 3, 10, 11]


def test_the_frame_is_no_boundary() -> None:
    inner, outer = boundary_bands(torch.ones(1, 9, 9, dtype=torch.bool), 3)
    assert not inner.any()
    assert not outer.any()


@pytest.mark.parametrize("num_negatives", [1, 32])
def test_equal_embeddings_cost_the_logarithm_of_the_choices(num_negatives: int) -> None:
    masks = squares()
    same = torch.randn(1, 8, 1, 1, generator=seeded()).expand(2, 8, 24, 24)
    loss = patch_contrast_loss(same, masks, torch.ones_like(masks), seeded(), Contrast(num_negatives=num_negatives))
    assert loss.item() == pytest.approx(math.log(1 + num_negatives), rel=1e-5)


def test_separated_embeddings_by_hand() -> None:
    masks, axis = squares(), torch.eye(4)
    seen = torch.ones_like(masks)
    # Cosine 1 within, 0 across: log(1 + M exp((0 - 1) / t)); the length of a vector does not matter.
    config = Contrast(temperature=0.5)
    loss = patch_contrast_loss(two_sided(masks, 3 * axis[0], axis[1]), masks, seen, seeded(), config)
    assert loss.item() == pytest.approx(math.log(1 + 32 * math.exp(-2)), rel=1e-5)
    opposite = patch_contrast_loss(two_sided(masks, axis[0], -axis[0]), masks, seen, seeded(), config)
    assert opposite.item() == pytest.approx(math.log(1 + 32 * math.exp(-4)), rel=1e-5)


def test_only_pixels_across_the_boundary_and_in_view_are_negatives() -> None:
    masks, axis = squares(1), torch.eye(4)
    pixels = two_sided(masks, axis[0], axis[1])
    unseen = torch.zeros_like(masks)
    unseen[:, :, 18:20] = True
    far = torch.zeros_like(masks)
    far[:, 20:] = True  # more than three pixels below
    # What is unseen or far away looks like the object; that must not cost anything.
    pixels = torch.where((unseen | far)[:, None], axis[0][:, None, None], pixels)
    loss = patch_contrast_loss(pixels, masks, ~unseen, seeded())
    assert loss.item() == pytest.approx(math.log(1 + 32 * math.exp(-5)), rel=1e-4)
    assert patch_contrast_loss(pixels, masks, torch.ones_like(masks), seeded()) > 1.0


def test_gradient_draws_the_inside_together_and_the_sides_apart() -> None:
    masks = squares()
    pixels = torch.randn(2, 8, 24, 24, generator=seeded()).requires_grad_()
    loss = patch_contrast_loss(pixels, masks, torch.ones_like(masks), seeded(1))
    (gradient,) = torch.autograd.grad(loss, pixels)
    after = patch_contrast_loss(pixels - 5 * gradient, masks, torch.ones_like(masks), seeded(1))
    assert after < loss - 0.05
    deep_outside = ~masks & ~boundary_bands(masks, 3)[1]
    assert (gradient.transpose(0, 1)[:, deep_outside] == 0).all()


def test_masks_without_two_sides_are_left_out() -> None:
    masks = squares(3)
    masks[1], masks[2] = True, False
    pixels = torch.randn(3, 8, 24, 24, generator=seeded())
    seen = torch.ones_like(masks)
    assert patch_contrast_loss(pixels, masks, seen, seeded(1)) == patch_contrast_loss(
        pixels[:1], masks[:1], seen[:1], seeded(1)
    )


@pytest.mark.parametrize("count", [0, 2])
def test_nothing_to_contrast_is_a_zero_with_a_gradient(count: int) -> None:
    pixels = torch.randn(count, 8, 24, 24, requires_grad=True)
    masks = torch.ones(count, 24, 24, dtype=torch.bool)
    loss = patch_contrast_loss(pixels, masks, masks, seeded())
    assert loss.item() == 0
    loss.backward()
    assert (pixels.grad == 0).all()


def test_same_generator_same_loss() -> None:
    masks, pixels = squares(), torch.randn(2, 8, 24, 24, generator=seeded())
    values = [patch_contrast_loss(pixels, masks, torch.ones_like(masks), seeded(seed)).item() for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_nearness_by_hand() -> None:
    mask = torch.zeros(1, 1, 12, dtype=torch.bool)
    mask[..., 3:11] = True
    assert nearness(mask, 3)[0, 0, 3:11] == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 1])
    assert (nearness(mask, 1) == 1).all()


def test_anchors_at_the_boundary_weigh_most() -> None:
    masks, axis = squares(1), torch.eye(4)
    # Anchors at the boundary look like the outside, those two and three pixels inside do not.
    rim = masks & (nearness(masks, 3) == 1)
    pixels = two_sided(masks & ~rim, axis[0], axis[1])
    config = Contrast(num_anchors=4000, num_negatives=1)
    loss = patch_contrast_loss(pixels, masks, torch.ones_like(masks), seeded(), config)
    bands = [(masks & (nearness(masks, 3) * 3).round().eq(k)).sum().item() for k in (3, 2)]
    last = (boundary_bands(masks, 3)[0].sum().item()) - sum(bands)
    inside = rim.sum().item() / masks.sum().item()  # chance that a positive lies on the rim
    e = math.exp(5)
    on_rim = math.log(1 + 1) * inside + math.log(1 + e) * (1 - inside)
    deeper = math.log(1 + 1) * inside + math.log(1 + 1 / e) * (1 - inside)
    weights = [bands[0], bands[1] * 2 / 3, last / 3]
    expected = (weights[0] * on_rim + (weights[1] + weights[2]) * deeper) / sum(weights)
    assert loss.item() == pytest.approx(expected, rel=0.05)


def test_siblings_share_no_pixel() -> None:
    masks = torch.zeros(1, 4, 1, 8, dtype=torch.bool)
    masks[0, 0, 0, :6], masks[0, 1, 0, :2], masks[0, 2, 0, 3:5], masks[0, 3, 0, 6:] = True, True, True, True
    zones = sibling_zones(masks, torch.tensor([[True, True, True, False]]))[0, :, 0].int().tolist()
    assert zones[0] == [0] * 8  # the whole holds both parts
    assert zones[1] == [0, 0, 0, 1, 1, 0, 0, 0]
    assert zones[2] == [1, 1, 0, 0, 0, 0, 0, 0]


def test_half_of_the_negatives_lie_in_the_siblings() -> None:
    masks, axis = squares(1), torch.eye(4)
    siblings = torch.zeros_like(masks)
    siblings[:, 20:22] = True
    pixels = torch.where(siblings[:, None], axis[0][:, None, None], two_sided(masks, axis[0], axis[1]))
    seen = torch.ones_like(masks)
    # Half of the negatives look like the object, cosine 1, the others do not: log(1 + 16 + 16 exp(-1 / t)).
    loss = patch_contrast_loss(pixels, masks, seen, seeded(), Contrast(), siblings)
    assert loss.item() == pytest.approx(math.log(1 + 16 + 16 * math.exp(-5)), rel=1e-4)
    for share, zone in ((0.0, siblings), (0.5, torch.zeros_like(masks))):  # none wanted; none there
        alone = patch_contrast_loss(pixels, masks, seen, seeded(), Contrast(sibling_share=share), zone)
        assert alone.item() == pytest.approx(math.log(1 + 32 * math.exp(-5)), rel=1e-4)


def test_half_of_the_positives_come_from_the_second_view() -> None:
    masks, axis = squares(), torch.eye(4)
    masks[0] = True  # not usable: it has no boundary
    here, seen = two_sided(masks, axis[0], axis[1]), torch.ones_like(masks)
    there = two_sided(masks, axis[2], axis[1])[1:].requires_grad_()  # in the second view the object looks like nothing
    other = OtherView(there, masks[1:], torch.tensor([1]))
    loss = patch_contrast_loss(here, masks, seen, seeded(), other=other)
    near, far = math.log(1 + 32 * math.exp(-5)), math.log(1 + 32)
    weights = loss.item() - near, far - near
    assert weights[0] / weights[1] == pytest.approx(0.5, abs=0.15)  # by the anchors' weights
    loss.backward()
    assert (there.grad[0][0][masks[1]] <= 0).all()  # drawn towards the first view's object
    assert there.grad[0][0].min() < 0
    same = OtherView(here[:1], masks[:1], torch.tensor([0]))  # of a mask that is not usable: nothing changes
    assert patch_contrast_loss(here, masks, seen, seeded(), other=same).item() == pytest.approx(near, rel=1e-4)


def test_bfloat16_is_close_to_float32() -> None:
    masks = squares()
    pixels = torch.randn(2, 8, 24, 24, generator=seeded())
    losses, gradients = [], []
    for given in (pixels.requires_grad_(), pixels.detach().bfloat16().requires_grad_()):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=given.dtype == torch.bfloat16):
            loss = patch_contrast_loss(given, masks, torch.ones_like(masks), seeded(1))
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, given)[0].float())
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert (gradients[1] - gradients[0]).norm() < 0.03 * gradients[0].norm()

import math

import pytest
import torch

from unsam_lightning.losses.contrast import boundary_bands, patch_contrast_loss


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
    loss = patch_contrast_loss(same, masks, torch.ones_like(masks), seeded(), num_negatives=num_negatives)
    assert loss.item() == pytest.approx(math.log(1 + num_negatives), rel=1e-5)


def test_separated_embeddings_by_hand() -> None:
    masks, axis = squares(), torch.eye(4)
    seen = torch.ones_like(masks)
    # Cosine 1 within, 0 across: log(1 + M exp((0 - 1) / t)); the length of a vector does not matter.
    loss = patch_contrast_loss(two_sided(masks, 3 * axis[0], axis[1]), masks, seen, seeded(), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + 32 * math.exp(-2)), rel=1e-5)
    opposite = patch_contrast_loss(two_sided(masks, axis[0], -axis[0]), masks, seen, seeded(), temperature=0.5)
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

"""Masks in the size of their image equal torch's in every pixel."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from unsam_lightning.benchmarks import full_size
from unsam_lightning.benchmarks.full_size import full_size_mask


def by_torch(logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    return (interpolate(logits[None, None].float(), size, mode="bilinear")[0, 0] > 0).numpy()


def blobs(height: int, width: int, seed: int) -> torch.Tensor:
    """Smooth logits, rough ones, ones with many exact zeros, and ones that half precision has rounded."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 1, max(1, height // 8), max(1, width // 8), generator=rng)
    logits = 5 * interpolate(coarse, (height, width), mode="bicubic")[0, 0]
    logits += torch.randn(height, width, generator=rng) * (seed % 3)
    return [logits, logits.round(), logits.half(), logits * 1e-6][seed % 4]


@pytest.mark.parametrize(
    ("small", "large"),
    [
        pytest.param((64, 64), (321, 481), id="BSDS"),
        pytest.param((64, 64), (64, 64), id="equal"),
        pytest.param((64, 48), (40, 200), id="smaller and larger"),
        pytest.param((5, 7), (1, 1), id="one pixel"),
        pytest.param((1, 1), (3, 4), id="one cell"),
        pytest.param((1, 9), (50, 4), id="one row"),
    ],
)
def test_equals_torch_in_every_pixel(small: tuple[int, int], large: tuple[int, int]) -> None:
    for seed in range(24):
        logits = blobs(*small, seed)
        np.testing.assert_array_equal(full_size_mask(logits, large), by_torch(logits, large))


def test_most_masks_need_no_help_and_what_is_too_near_to_zero_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        full_size, "interpolate", lambda *args, **options: asked.append(1) or interpolate(*args, **options)
    )
    full_size_mask(blobs(32, 32, 0), (77, 99))
    asked.clear()
    for seed in (0, 8, 16, 24):
        full_size_mask(blobs(32, 32, seed), (77, 99))
    assert len(asked) <= 1
    asked.clear()
    halfway = torch.tensor([[-1.0, 1.0]])
    for _ in range(2):  # the second time the weights are known
        asked.clear()
        assert full_size_mask(halfway, (1, 3)).tolist() == [[False, False, True]]  # the middle is 0 to the last bit
    assert len(asked) == 1


def test_one_cell_by_hand() -> None:
    """Pixel centres at 1/4 and 3/4 of the way: 3 * 3/4 - 1 * 1/4 and so on."""
    mask = full_size_mask(torch.tensor([[3.0, -1.0], [-1.0, -5.0]]), (4, 4))
    assert mask.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]

"""Which masks are drawn together, and whose click they share."""

from __future__ import annotations

import numpy as np
import pytest

from unsam_lightning.mask_sampling import MAX_CHAIN, Sampling, draw_masks

#: A tree: 0 holds 1 and 2, 1 holds 3, 3 holds 4, 4 holds 5; 6 stands alone and is as coarse as 0.
PARENT = [-1, 0, 0, 1, 3, 4, -1]
GRANULARITY = np.asarray([1.0, 0.7, 0.6, 0.4, 0.3, 0.1, 1.0], np.float32)


@pytest.mark.parametrize("sampling", ["uniform", "balanced", "paired"])
@pytest.mark.parametrize("count", [0, 1, 5, 7, 12])
def test_no_more_than_asked_and_every_click_source_is_inside(sampling: Sampling, count: int) -> None:
    for seed in range(20):
        drawn = draw_masks(GRANULARITY, PARENT, count, sampling, np.random.default_rng(seed))
        assert len(drawn.masks) == len(drawn.click_from) <= count
        if count <= 7 or sampling == "paired":
            assert len(drawn.masks) == min(count, 12) or sampling == "paired"
        for n, source in enumerate(drawn.click_from):
            mask, inner = int(drawn.masks[n]), int(drawn.masks[source])
            chain = [inner]
            while PARENT[chain[-1]] >= 0:
                chain.append(PARENT[chain[-1]])
            assert mask in chain
            assert drawn.click_from[source] == source


def test_a_chain_comes_whole_and_brings_at_most_three_along() -> None:
    lengths = set()
    for seed in range(60):
        drawn = draw_masks(GRANULARITY, PARENT, 4, "paired", np.random.default_rng(seed))
        if drawn.masks[0] == 5:  # has four above it
            assert drawn.click_from.tolist() == [0, 0, 0, 0]
            assert (np.diff(GRANULARITY[drawn.masks]) > 0).all()
            lengths.add(tuple(drawn.masks.tolist()))
    assert MAX_CHAIN == 4
    assert len(lengths) > 1  # which three differs


def test_balanced_draws_bins_evenly() -> None:
    granularity = np.asarray([0.1] * 90 + [0.95] * 10, np.float32)
    first = [
        draw_masks(granularity, [-1] * 100, 1, "balanced", np.random.default_rng(seed)).masks[0] for seed in range(600)
    ]
    assert (np.asarray(first) >= 90).mean() == pytest.approx(0.5, abs=0.07)


def test_same_seed_same_masks() -> None:
    a, b = (draw_masks(GRANULARITY, PARENT, 6, "paired", np.random.default_rng(3)) for _ in range(2))
    assert a.masks.tolist() == b.masks.tolist()
    assert a.click_from.tolist() == b.click_from.tolist()


def test_a_circle_of_parents_ends() -> None:
    drawn = draw_masks(np.asarray([0.2, 0.5], np.float32), [1, 0], 4, "paired", np.random.default_rng(0))
    assert len(drawn.masks) == 3  # one pair, and the coarser one alone

"""Confidence intervals of means over objects, and of their differences between two runs on the same objects.

Next in the tour: `report/published.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

#: Of fewer the draws do not show how much others would differ; of one all draws are the same.
MIN_IMAGES = 10


class Interval(NamedTuple):
    """A mean and where 95 % of its resampled values lie; nan where there are too few images to tell."""

    mean: float
    low: float
    high: float


def bootstrap_mean(values: npt.ArrayLike, images: Sequence[str], num_draws: int = 2000, seed: int = 0) -> Interval:
    """Return the mean of values over objects, with the percentile interval of resampled images, `MIN_IMAGES` at least.

    Whole images are drawn, with all their objects, because objects of one image resemble each other. For a paired
    comparison of two runs give the differences of the same objects: each draw then takes the same images of both.

    Args:
        values: One for each object, (N,), N at least 1.
        images: The image of each object, N names; the video where images are frames of videos.
        num_draws: How often the images are drawn anew.
        seed: Of the draws.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, percentile intervals of cluster samples.
    """
    numbers = np.asarray(values, dtype=np.float64)
    _, place = np.unique(np.asarray(images), return_inverse=True)
    sums, counts = np.bincount(place, numbers), np.bincount(place)
    if len(counts) < MIN_IMAGES:
        return Interval(float(numbers.mean()), float("nan"), float("nan"))
    draws = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=num_draws)
    means = (draws @ sums) / (draws @ counts)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(numbers.mean()), float(low), float(high))

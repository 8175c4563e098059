"""95 % intervals of means over examples that are not all independent: whole groups are drawn again (bootstrap).

Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
"""The ends of an interval then scatter by about 2 % of its length."""


def mean_with_interval(values: NDArray[np.float64], groups: Sequence[Hashable] | None = None) -> list[float]:
    """[mean, low, high] of the values that are numbers; deterministic.

    Args:
        values: one an example; NaN where an example has none.
        groups: examples that depend on each other have the same one; default: all are independent.
    """
    groups = range(len(values)) if groups is None else groups
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    places = np.array([numbers[group] for group in groups])
    known = ~np.isnan(values)
    sums = np.bincount(places[known], values[known], minlength=len(numbers))
    counts = np.bincount(places[known], minlength=len(numbers)).astype(float)
    drawn = np.random.default_rng(0).multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), DRAWS)
    with np.errstate(invalid="ignore"):  # a draw without a number at all
        means = (drawn @ sums) / (drawn @ counts)
    low, high = np.nanquantile(means, (0.025, 0.975))
    return [round(float(value), 4) for value in (sums.sum() / counts.sum(), low, high)]

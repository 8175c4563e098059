import numpy as np
import pytest

from tests.benchmarks.intervals import mean_with_interval


def test_the_interval_is_that_of_the_normal_distribution_where_that_holds():
    values = np.arange(400) % 2.0
    mean, low, high = mean_with_interval(values)
    half = 1.96 * 0.5 / 400**0.5
    assert mean == 0.5
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.06)


def test_examples_that_say_the_same_twice_count_once():
    values = np.random.default_rng(1).normal(size=50)
    assert mean_with_interval(values.repeat(2), groups=np.arange(50).repeat(2).tolist()) == mean_with_interval(values)


def test_an_example_without_a_number_counts_nowhere():
    assert mean_with_interval(np.array([2.0, np.nan, 2.0])) == [2.0, 2.0, 2.0]

"""best_of_n: what PPO is held against."""

import itertools
import math

import pytest

from tests.benchmarks.ppo_best_of_n import best_of_n


def test_the_score_is_the_mean_of_the_best_over_all_choices_of_n():
    scores = [0.3, -1.0, 2.0, 0.3]
    for n, (_, score) in enumerate(best_of_n([scores]), start=1):
        choices = [max(chosen) for chosen in itertools.combinations(scores, n)]
        assert score == pytest.approx(sum(choices) / len(choices))


def test_without_ties_the_kl_is_the_customary_formula():
    for ties_are_free in (False, True):
        curve = best_of_n([[0.1, 0.5, 0.2, 0.9]] * 3, ties_are_free)
        assert [kl for kl, _ in curve] == pytest.approx([math.log(n) - (n - 1) / n for n in range(1, 5)])


def test_of_answers_that_all_score_alike_choosing_costs_nothing():
    (_, of_two) = best_of_n([[1.0] * 400], ties_are_free=True)[:2]
    assert of_two == (pytest.approx(0.0, abs=1e-3), 1.0)


def test_of_right_and_wrong_the_kl_is_that_of_two_coins():
    right, n = 0.25, 3
    kl, _ = best_of_n([[1.0] * 100 + [0.0] * 300], ties_are_free=True)[n - 1]
    chosen = 1 - (1 - right) ** n
    exact = chosen * math.log(chosen / right) + (1 - chosen) * math.log((1 - chosen) / (1 - right))
    assert kl == pytest.approx(exact, abs=0.01)
    assert kl < 0.95 * (math.log(n) - (n - 1) / n)


def test_what_a_proxy_chooses_is_worth_what_the_formula_says():
    proxy, formula = [0.1, 0.5, 0.2, 0.9], [1.0, 0.0, 3.0, 2.0]
    curve = best_of_n([proxy], worth_PN=[formula])
    assert [worth for _, worth in curve] == pytest.approx([1.5, (3 * 2 + 2 * 0 + 3) / 6, (3 * 2 + 0) / 4, 2.0])

"""What is made of judgements: scores without a number, from judges with and without an opinion."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from configs.errors import RunFailed
from jobs.ppo import ranks
from jobs.ppo.experience import Experience, watched
from jobs.ppo.ranks import scores_of_answers
from tests.ppo.rollouts import make_rollouts


def heldout(gold: dict[int, float]) -> Experience:
    """Two prompts with two answers of 3, 5, 2 and 6 tokens each."""
    rollouts = make_rollouts([(4, 3), (4, 5), (4, 2), (4, 6)])
    answers = {0: rollouts[:2], 1: rollouts[2:]}
    return Experience(answers, {0: 1.0, 1: 2.0, 2: 4.0, 3: 5.0}, {}, {}, {}, 2, gold)


def test_of_several_rewards_each_is_told() -> None:
    """A weighted sum does not show which of them is exploited."""
    nan = math.nan
    one = replace(heldout({}), sources=({0: 1.0, 1: 2.0, 2: 4.0, 3: 5.0},))
    assert one.source_means() == {} and "source_0" not in watched(one).metrics
    both = replace(one, sources=(*one.sources, {0: nan, 1: 8.0, 2: nan, 3: 2.0}))
    assert both.source_means() == {"source_0": 3.0, "source_1": 5.0}
    assert watched(both).metrics["source_1"] == 5.0 and "source_1" not in watched(both).by_prompt
    silent = replace(one, sources=(*one.sources, dict.fromkeys(range(4), nan)))
    assert silent.source_means() == {"source_0": 3.0}


def test_a_gold_reward_without_opinion_of_some_answers_is_the_mean_of_the_others() -> None:
    nan = math.nan
    found = watched(heldout({0: nan, 1: 3.0, 2: nan, 3: nan}))
    assert found.metrics == {"score": 3.0, "tokens": 4.0, "end_rate": 0.75, "gold": 3.0}
    assert found.by_prompt == {
        "score": {0: 1.5, 1: 4.5}, "tokens": {0: 4.0, 1: 4.0}, "end_rate": {0: 1.0, 1: 0.5}, "gold": {0: 3.0},
    }  # fmt: skip
    with pytest.raises(RunFailed, match=r"heldout\.gold has no opinion of any"):
        watched(heldout(dict.fromkeys(range(4), nan)))


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_reward_model_has_always_an_opinion(score: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its NaN beside another source would be left out of the sum, and nobody would know."""
    monkeypatch.setattr(ranks, "_forward", lambda learner, batch, temperature: torch.tensor([1.0, score]))
    learner: Any = SimpleNamespace(spec=SimpleNamespace(model=SimpleNamespace(root="store/reward")))
    with pytest.raises(RunFailed, match="store/reward scores an answer"):
        scores_of_answers(learner, [make_rollouts([(4, 3), (4, 5)])], 2, 1)

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema.ppo import Rewards
from jobs.ppo.rewards import RunningScale, answer_sums, beyond_clip, shaped, token_rewards

SCORES = st.lists(st.floats(-1000, 1000, allow_nan=False), min_size=1, max_size=20)


def test_token_rewards_by_hand() -> None:
    """Answers of 3 and 1 tokens, coefficient 0.1: the score arrives at the last action of each."""
    rewards_W = token_rewards(
        torch.tensor([2.0, -1.0]), torch.tensor([0.5, -0.2, 1.0, 3.0]), torch.tensor([0, 0, 0, 1]), 0.1
    )
    torch.testing.assert_close(rewards_W, torch.tensor([-0.05, 0.02, 1.9, -1.3]))
    torch.testing.assert_close(answer_sums(rewards_W, torch.tensor([0, 0, 0, 1]), 2), torch.tensor([1.87, -1.3]))


def test_an_answer_without_action_is_no_place_for_a_score() -> None:
    with pytest.raises(AssertionError):
        token_rewards(torch.zeros(3), torch.zeros(2), torch.tensor([0, 2]), 0.1)
    assert token_rewards(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.1).shape == (0,)


def test_shaping_normalises_then_clips_then_takes_the_penalty() -> None:
    scale = RunningScale().including(torch.tensor([1.0, 2.0, 6.0]))
    assert scale == RunningScale(3, 3.0, 14.0)
    finished_S = torch.tensor([True, False, False])
    scores_S = torch.tensor([1.0, 2.0, 9.0])
    deviation = (14 / 3) ** 0.5
    got = shaped(scores_S, finished_S, scale, Rewards(normalise="running", clip=1.5, missing_end_penalty=2.0))
    torch.testing.assert_close(got, torch.tensor([-2 / deviation, -1 / deviation - 2, 1.5 - 2]))
    plain = shaped(scores_S, finished_S, RunningScale(), Rewards(clip=None, missing_end_penalty=0.5))
    torch.testing.assert_close(plain, torch.tensor([1.0, 1.5, 8.5]))


def test_scores_that_a_clip_makes_equal_are_counted() -> None:
    """20, 50 and 90 of a hundred all count as 10; of normalised ones none is so large."""
    scores_S = torch.tensor([20.0, 50.0, -90.0, 3.0])
    scale = RunningScale().including(scores_S)
    assert beyond_clip(scores_S, scale, Rewards()).tolist() == [True, True, True, False]
    assert not beyond_clip(scores_S, scale, Rewards(normalise="running")).any()
    assert not beyond_clip(scores_S, scale, Rewards(clip=None)).any()


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(SCORES, min_size=1, max_size=6))
def test_the_running_scale_is_that_of_all_scores(batches: list[list[float]]) -> None:
    scale = RunningScale()
    for batch in batches:
        scale = scale.including(torch.tensor(batch, dtype=torch.float64))
    scores = np.concatenate(batches)
    assert scale.count == len(scores)
    assert scale.mean == pytest.approx(scores.mean(), abs=1e-9)
    assert scale.squared_deviations == pytest.approx(((scores - scores.mean()) ** 2).sum(), rel=1e-9, abs=1e-9)


def test_the_running_scale_keeps_small_differences_of_large_scores() -> None:
    """Sums of squares would have lost them: 10^8 squared needs all 16 digits."""
    scale = RunningScale()
    for start in range(100):
        scale = scale.including(1e8 + torch.tensor([start % 2, 1 - start % 2], dtype=torch.float64))
    assert scale.deviation == pytest.approx(0.5, rel=1e-6)


def test_scores_that_do_not_differ_stay_finite() -> None:
    scale = RunningScale().including(torch.tensor([3.0, 3.0])).including(torch.zeros(0))
    assert scale.deviation == 1.0
    assert shaped(
        torch.tensor([3.0]), torch.tensor([True]), scale, Rewards(normalise="running")
    ).tolist() == [0.0]  # fmt: skip


def test_the_scale_survives_json() -> None:
    scale = RunningScale().including(torch.tensor([0.1, 0.7, -3.3]))
    assert RunningScale(**json.loads(json.dumps(asdict(scale)))) == scale

"""What is said and what ends a run, from made-up numbers of steps and evaluations."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from configs.schema.ppo_stage import PpoStage
from jobs.ppo.health import HealthCheck, PolicyUnhealthy
from jobs.ppo.heldout import against_start, for_people
from jobs.ppo.update import per_answer

HEALTHY = {
    "step": 1.0,
    "answers/tokens": 20.0,
    "answers/end_rate": 0.9,
    "reward/score": 0.5,
    "reward/clip_fraction": 0.0,
    "reward/score_deviation": 1.0,
    "kl/per_answer": 2.0,
}


def checked(history: Sequence[dict[str, float]] = (), **health: Any) -> tuple[HealthCheck, list[str]]:
    said: list[str] = []
    stage = PpoStage.model_validate(
        {
            "stage": "ppo",
            "model": "base",
            "shards": "prompts",
            "rewards": [{"model": "r"}],
            "steps": 9,
            "health": health,
        }
    )
    return HealthCheck(stage, said.append, history), said


def test_limits_end_the_run_before_its_weights_are_saved() -> None:
    health, said = checked(kl_ceiling=5, mismatch_ceiling=0.1)
    health.check(HEALTHY)
    with pytest.raises(PolicyUnhealthy, match=r"step 3: 5\.5 nats per answer .*kl_ceiling is 5"):
        health.check({**HEALTHY, "step": 3.0, "kl/per_answer": 5.5})
    with pytest.raises(PolicyUnhealthy, match=r"0\.2 nats a token apart"):
        health.check({**HEALTHY, "mismatch/kl": 0.2})
    assert said == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_that_is_none_reaches_a_checkpoint(value: float) -> None:
    """NaN is above no ceiling."""
    health, _ = checked(kl_ceiling=5, mismatch_ceiling=0.1)
    with pytest.raises(PolicyUnhealthy, match=r"step 1: kl/per_answer, mismatch/kl are not finite"):
        health.check({**HEALTHY, "kl/per_answer": value, "mismatch/kl": value})
    with pytest.raises(PolicyUnhealthy, match=r"step 10: heldout/kl_per_answer is not finite"):
        health.check_heldout([START, {**evaluation(10, 2.0, 0.5), "heldout/kl_per_answer": value}])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answers/end_rate": 0.1}, "only 10% of the answers end"),
        (
            {"answers/tokens": 41.0},
            "twice as long as at the start (20 -> 41 tokens): look at samples; the reward may pay for length",
        ),
        ({"answers/tokens": 3.0}, "less than half as long as at the start (20 -> 3 tokens)"),
        ({"clip_fraction": 0.6}, "actions are clipped"),
        ({"reward/clip_fraction": 0.6}, "scores are larger than algorithm.rewards.clip lets count (10)"),
        ({"reward/score_deviation": 0.0}, "nothing to learn from"),
    ],
)
def test_a_curve_that_means_something_is_said_once(change: dict[str, float], words: str) -> None:
    health, said = checked()
    health.check(HEALTHY)
    for step in (2.0, 3.0):
        health.check({**HEALTHY, **change, "step": step})
    assert len(said) == 1 and said[0].startswith("step 2: ") and words in said[0]


def test_short_answers_may_double_and_halve() -> None:
    health, said = checked()
    for step, tokens in enumerate((3.0, 18.0, 3.0, 1.0), start=1):
        health.check({**HEALTHY, "answers/tokens": tokens, "step": float(step)})
    assert said == []


def test_equal_scores_are_said_of_many_answers_too() -> None:
    """1,000 times 3.3 in fp32 have a deviation of 4e-8 by rounding."""
    scores = torch.full((1000,), 3.3).double()
    totals = {
        "answers": 1000.0,
        "actions": 9000.0,
        "score": float(scores.sum()),
        "score_square": float(scores.square().sum()),
    }
    numbers = per_answer({**totals, "earned": 0.0, "kl": 0.0, "ended": 1000.0, "clipped": 0.0})
    assert 0 < numbers["reward/score_deviation"] < 1e-7
    health, said = checked()
    health.check({**numbers, "step": 1.0})
    assert len(said) == 1 and "all answers have the same score" in said[0]


def evaluation(step: int, score: float, gold_change: float | None) -> dict[str, float]:
    gold = {} if gold_change is None else {"heldout/gold_change": gold_change, "heldout/gold_change_error": 0.1}
    return {"step": float(step), "heldout/score": score, **gold}


START = evaluation(0, 1.0, None)


@pytest.mark.parametrize(
    ("history", "from_step"),
    [
        ([START, evaluation(10, 2.0, 0.5), evaluation(20, 3.0, 0.15), evaluation(30, 3.0, 0.1)], 10),
        ([START, evaluation(10, 2.0, -0.35), evaluation(20, 2.5, -0.4)], 0),  # never better than the start
        (
            [START, evaluation(10, 2.0, 0.5), evaluation(20, 3.0, 0.25), evaluation(30, 3.0, 0.1)],
            None,
        ),  # within 3 errors once
        ([START, evaluation(10, 2.0, 0.5), evaluation(20, 3.0, 0.1)], None),  # once only
        ([START, evaluation(10, 2.0, 0.5), evaluation(20, 1.9, 0.1), evaluation(30, 1.9, 0.1)], None),  # both fall
        ([START], None),
    ],
)
def test_a_reward_that_rises_while_the_gold_reward_falls_is_exploited(
    history: list[dict[str, float]], from_step: int | None
) -> None:
    health, said = checked()
    for _ in range(2):
        health.check_heldout(history)
    assert len(said) == (from_step is not None)
    if said:
        assert f"since step {from_step} " in said[0] and "exploits" in said[0]


def test_changes_are_paired_by_prompt_and_corrected_for_length() -> None:
    start = {"score": {0: 0.0, 1: 1.0, 2: 2.0}, "tokens": {0: 10.0, 1: 10.0, 2: 10.0}, "gold": {0: 1.0, 1: 1.0, 2: 1.0}}
    # Of the changes 0.5, 1.5, 2.5 of the score, 0.1 a token come from answers that are 0, 10, 20 tokens longer.
    now = {"score": {0: 0.5, 1: 2.5, 2: 4.5}, "tokens": {0: 10.0, 1: 20.0, 2: 30.0}, "gold": {0: 1.0, 1: 2.0, 2: 3.0}}
    found = against_start(now, start)
    assert found["win_rate"] == 1 and found["score_change_at_same_length"] == pytest.approx(0.5)
    assert found["gold_change"] == 1 and found["gold_change_error"] == pytest.approx(1 / 3**0.5)
    same = against_start(start, start)
    assert same["win_rate"] == 0.5 and same["score_change_at_same_length"] == 0


def test_a_change_of_length_that_all_prompts_share_says_nothing_of_its_price() -> None:
    """Means over three answers: all are 7/3 tokens longer, but not to the last bit."""
    start = {"score": dict.fromkeys(range(4), 0.0), "tokens": {prompt: (96 + prompt) / 3 for prompt in range(4)}}
    now = {
        "score": {prompt: float(prompt) for prompt in range(4)},
        "tokens": {prompt: (103 + prompt) / 3 for prompt in range(4)},
    }
    assert against_start(now, start)["score_change_at_same_length"] == pytest.approx(1.5)


def test_the_gold_change_is_of_prompts_that_gold_judged_both_times() -> None:
    start = {
        "score": dict.fromkeys(range(4), 0.0),
        "tokens": dict.fromkeys(range(4), 9.0),
        "gold": {0: 1.0, 1: 1.0, 3: 1.0},
    }
    found = against_start({**start, "gold": {0: 2.0, 2: 5.0, 3: 4.0}}, start)
    assert found["gold_change"] == 2 and found["gold_change_error"] == pytest.approx(1.0)
    assert "gold_change" not in against_start({**start, "gold": {2: 5.0, 3: 4.0}}, start)  # of one there is no error


def test_people_do_not_see_single_prompts() -> None:
    entry = {"step": 2.0, "reward/score": 1.0, "heldout/score": 0.5, "heldout/start_score_7": 0.1}
    assert for_people(entry) == {"heldout/score": 0.5}


def test_lengths_are_held_against_those_of_the_first_step_also_after_a_resume() -> None:
    health, said = checked([{"step": 0.0, "heldout/score": 1.0}, HEALTHY])
    health.check({**HEALTHY, "step": 5.0, "answers/tokens": 60.0})
    assert len(said) == 1 and "(20 -> 60 tokens)" in said[0], said

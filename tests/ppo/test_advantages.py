"""Advantages: by hand, against NumPy loops over one answer, and what must hold for all numbers."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jobs.ppo.advantages import gae, grpo, moments, rloo, whitened

NUMBERS = st.floats(-100, 100, allow_nan=False)


def test_gae_by_hand() -> None:
    """gamma 0.5, lambda 0.5; the second answer has one action: A = r - V.

    Backwards: delta_1 = 1 - 0.5 = 0.5; delta_0 = 0.2 + 0.5 x 0.5 - 1 = -0.55; A_0 = -0.55 + 0.25 x 0.5 = -0.425.
    """
    rewards_W, values_W = torch.tensor([0.2, 1.0, 3.0]), torch.tensor([1.0, 0.5, 2.5])
    done = gae(rewards_W, values_W, torch.tensor([0, 0, 1]), gamma=0.5, gae_lambda=0.5)
    torch.testing.assert_close(done.advantages_W, torch.tensor([-0.425, 0.5, 0.5]))
    torch.testing.assert_close(done.returns_W, torch.tensor([0.575, 1.0, 3.0]))


def numpy_gae(rewards: np.ndarray, values: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """TRL 1.12's loop (trl/experimental/ppo/ppo_trainer.py) for one answer without padding."""
    lastgaelam, advantages_reversed = 0.0, []
    for t in reversed(range(len(rewards))):
        nextvalues = values[t + 1] if t < len(rewards) - 1 else 0.0
        delta = rewards[t] + gamma * nextvalues - values[t]
        lastgaelam = delta + gamma * lam * lastgaelam
        advantages_reversed.append(lastgaelam)
    return np.array(advantages_reversed[::-1])


@settings(deadline=None)  # a busy machine is no error
@given(
    st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=9), min_size=1, max_size=5),
    st.floats(0.1, 1),
    st.floats(0, 1),
)
def test_gae_equals_a_loop_over_each_answer(answers: list, gamma: float, lam: float) -> None:
    segment_W = torch.tensor([number for number, answer in enumerate(answers) for _ in answer])
    rewards_W = torch.tensor([reward for answer in answers for reward, _ in answer], dtype=torch.float64)
    values_W = torch.tensor([value for answer in answers for _, value in answer], dtype=torch.float64)
    done = gae(rewards_W, values_W, segment_W, gamma, lam)
    expected = [numpy_gae(*np.array(answer).T, gamma, lam) for answer in answers]
    np.testing.assert_allclose(done.advantages_W.numpy(), np.concatenate(expected), rtol=0, atol=1e-9)
    np.testing.assert_allclose(done.returns_W.numpy(), np.concatenate(expected) + values_W.numpy(), rtol=0, atol=1e-9)


def test_with_lambda_1_returns_are_the_rewards_to_come() -> None:
    rewards_W, values_W = torch.tensor([0.0, -0.1, 2.0, 0.5]), torch.tensor([3.0, 1.0, -4.0, 7.0])
    done = gae(rewards_W, values_W, torch.tensor([0, 0, 0, 1]), gamma=1.0, gae_lambda=1.0)
    torch.testing.assert_close(done.returns_W, torch.tensor([1.9, 1.9, 2.0, 0.5]))


def test_no_action_has_no_advantage() -> None:
    done = gae(torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 1.0, 0.95)
    assert done.advantages_W.shape == done.returns_W.shape == (0,)


def test_groups_by_hand() -> None:
    """Prompt 4: rewards 1, 2, 6, mean 3, sample deviation sqrt(7); prompt 9: 5 and 5. Mixed up."""
    group_S, rewards_S = torch.tensor([4, 9, 4, 4, 9]), torch.tensor([1.0, 5.0, 2.0, 6.0, 5.0])
    centred = torch.tensor([-2.0, 0.0, -1.0, 3.0, 0.0])
    torch.testing.assert_close(grpo(rewards_S, group_S, "none"), centred)
    torch.testing.assert_close(grpo(rewards_S, group_S, "deviation"), centred / (math.sqrt(7) + 1e-4))
    # Against the others: 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2.
    torch.testing.assert_close(rloo(rewards_S, group_S), torch.tensor([-3.0, 0.0, -1.5, 4.5, 0.0]))


@pytest.mark.parametrize("estimate", [rloo, lambda rewards, groups: grpo(rewards, groups, "none")])
def test_a_group_of_one_is_refused(estimate) -> None:
    with pytest.raises(ValueError, match="prompt 8 has one answer only"):
        estimate(torch.zeros(3), torch.tensor([1, 1, 8]))


def test_the_rloo_gradient_is_unbiased_and_that_of_its_mean_baseline_is_not() -> None:
    """The expectation over *all* triples of samples of a softmax over three arms, exactly, against d E[r] / d logits."""
    logits = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64, requires_grad=True)
    reward_3 = torch.tensor([1.0, 4.0, -2.0], dtype=torch.float64)
    (exact,) = torch.autograd.grad((logits.softmax(0) * reward_3).sum(), logits)

    def expected_gradient(estimate) -> Tensor:
        total = torch.zeros(3, dtype=torch.float64)
        logprobs_3 = logits.detach().log_softmax(0)
        for arms in itertools.product(range(3), repeat=3):
            arms_S = torch.tensor(arms)
            advantages_S = estimate(reward_3[arms_S], torch.zeros(3, dtype=torch.int64))
            score_S3 = torch.eye(3, dtype=torch.float64)[arms_S] - logprobs_3.exp()
            total += logprobs_3[arms_S].sum().exp() * (advantages_S[:, None] * score_S3).mean(0)
        return total

    torch.testing.assert_close(expected_gradient(rloo), exact, rtol=0, atol=1e-12)
    shrunk = expected_gradient(lambda rewards, groups: grpo(rewards, groups, "none"))
    torch.testing.assert_close(shrunk, exact * 2 / 3, rtol=0, atol=1e-12)  # (n - 1) / n, as Dr. GRPO says


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(NUMBERS, min_size=2, max_size=40), st.integers(1, 39))
def test_whitening_sees_the_whole_batch_whoever_holds_it(numbers: list[float], cut: int) -> None:
    values_W = torch.tensor(numbers, dtype=torch.float64)
    first_W, second_W = values_W[:cut], values_W[cut:]
    sums = (moments(first_W) + moments(second_W)).tolist()
    together = torch.cat([whitened(first_W, *sums), whitened(second_W, *sums)])
    deviation = float(values_W.std(correction=0))
    expected = (values_W - values_W.mean()) / math.sqrt(deviation**2 + 1e-8)
    # Sums of squares up to 40 x 10^4 keep 11 digits after the point; a variance from 1e-8 up is divided by its root.
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4 if deviation < 1e-2 else 1e-7)
    if deviation > 1e-2:
        assert float(together.mean()) == pytest.approx(0, abs=1e-7)
        assert float(together.square().mean()) == pytest.approx(1, abs=2e-4)


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(NUMBERS, min_size=2, max_size=20, unique=True), st.floats(-50, 50), st.floats(0.5, 20))
def test_whitening_forgets_level_and_size(numbers: list[float], shift: float, size: float) -> None:
    values_W = torch.tensor(numbers, dtype=torch.float64)
    if float(values_W.std(correction=0)) < 0.1:
        return
    other_W = size * values_W + shift
    torch.testing.assert_close(
        whitened(other_W, *moments(other_W).tolist()),
        whitened(values_W, *moments(values_W).tolist()),
        rtol=0,
        atol=1e-5,
    )


def test_equal_advantages_whiten_to_zero() -> None:
    values_W = torch.full((7,), 0.1)
    assert float(whitened(values_W, *moments(values_W).tolist()).abs().max()) < 1e-3

import json
import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.schema.ppo import AdaptiveKl, KlEstimator
from jobs.ppo.kl import KlState, kl_in_unit, kl_per_action, next_coefficient

LOG_RATIOS = st.floats(-20, 20, allow_nan=False)


def test_estimators_by_hand() -> None:
    """The policy gives an action twice the reference's probability: d = log 2."""
    d = torch.tensor([math.log(2)], dtype=torch.float64)
    values = {
        name: float(kl_per_action(d, name))
        for name in ("k1", "k2", "k3", "k3_straight")
    }  # fmt: skip
    k3 = 0.5 - 1 + math.log(2)
    assert values == pytest.approx({"k1": math.log(2), "k2": math.log(2) ** 2 / 2, "k3": k3, "k3_straight": k3})


@settings(deadline=None)  # a busy machine is no error
@given(LOG_RATIOS)
def test_k3_is_never_negative_and_exact_near_zero(d: float) -> None:
    assert float(kl_per_action(torch.tensor([d], dtype=torch.float64), "k3")) >= 0
    small = 1e-6 * d
    k3 = float(kl_per_action(torch.tensor([small], dtype=torch.float64), "k3"))
    # exp - 1 + d itself would have an error of 1e-16 here, more than all of a value of 1e-17.
    assert k3 == pytest.approx(small**2 / 2 - small**3 / 6, rel=1e-3, abs=1e-15 * abs(small))


LOGITS = torch.tensor([0.4, -1.2, 0.9, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([-0.3, 0.5, 0.2, 0.8], dtype=torch.float64).log_softmax(0)


def expected_value_and_gradient(estimator: KlEstimator) -> tuple[Tensor, Tensor]:
    """Exact expectations over samples of the policy, of the estimate and of its derivative by the logits."""
    logits = LOGITS.clone().requires_grad_()
    logprobs_V = logits.log_softmax(0)
    estimates_V = kl_per_action(logprobs_V - REFERENCE, estimator)
    value = (logprobs_V.detach().exp() * estimates_V).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def exact(direction: str) -> tuple[Tensor, Tensor]:
    logits = LOGITS.clone().requires_grad_()
    logprobs_V = logits.log_softmax(0)
    if direction == "policy || reference":
        kl = (logprobs_V.exp() * (logprobs_V - REFERENCE)).sum()
    else:
        kl = (REFERENCE.exp() * (REFERENCE - logprobs_V)).sum()
    (gradient,) = torch.autograd.grad(kl, logits)
    return kl.detach(), gradient


@pytest.mark.parametrize("estimator", ["k1", "k3", "k3_straight"])
def test_as_numbers_all_but_k2_have_the_kl_as_mean(estimator: KlEstimator) -> None:
    torch.testing.assert_close(expected_value_and_gradient(estimator)[0], exact("policy || reference")[0])


def test_gradients_are_what_the_table_says() -> None:
    right, other = exact("policy || reference")[1], exact("reference || policy")[1]
    assert float((right - other).abs().max()) > 0.05
    torch.testing.assert_close(expected_value_and_gradient("k1")[1], torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(expected_value_and_gradient("k2")[1], right)
    torch.testing.assert_close(expected_value_and_gradient("k3_straight")[1], right)
    torch.testing.assert_close(expected_value_and_gradient("k3")[1], other)


@pytest.mark.parametrize(
    ("kl", "coefficient"),
    [
        (6.0, 0.15),  # on target
        (6.6, 0.15 * (1 + 0.1 * 512 / 10_000)),
        (60.0, 0.15 * (1 + 0.2 * 512 / 10_000)),  # clipped
        (5.7, 0.15 * (1 - 0.05 * 512 / 10_000)),
        (-1.0, 0.15 * (1 - 0.2 * 512 / 10_000)),
    ],
)
def test_the_controller_by_hand(kl: float, coefficient: float) -> None:
    """Ziegler's numbers: init 0.15, target 6 nats a sequence, horizon 10,000, batches of 512."""
    adaptive = AdaptiveKl(unit="nats_per_sequence", target=6)
    assert next_coefficient(KlState(0.15), adaptive, kl, 512).coefficient == pytest.approx(coefficient, rel=1e-12)


def test_the_unit_decides_what_is_compared() -> None:
    """12 nats over 2 answers of 30 tokens in all."""
    per_sequence = AdaptiveKl(unit="nats_per_sequence", target=6)
    per_token = AdaptiveKl(unit="nats_per_token", target=0.1)
    assert kl_in_unit(12.0, 2, 30, per_sequence) == 6.0
    assert kl_in_unit(12.0, 2, 30, per_token) == pytest.approx(0.4)


@settings(deadline=None)  # a busy machine is no error
@given(st.floats(1e-3, 10), st.floats(-5, 50), st.integers(1, 10_000))
def test_one_update_changes_the_coefficient_by_a_fifth_at_most(coefficient: float, kl: float, answers: int) -> None:
    adaptive = AdaptiveKl(unit="nats_per_sequence", target=6, horizon=10_000)
    after = next_coefficient(KlState(coefficient), adaptive, kl, answers).coefficient
    assert 0.8 * coefficient - 1e-12 <= after <= 1.2 * coefficient + 1e-12
    assert after >= coefficient if kl >= 6 else after <= coefficient


def test_the_state_survives_json() -> None:
    state = KlState(0.1234567890123)
    assert KlState(**json.loads(json.dumps(asdict(state)))) == state

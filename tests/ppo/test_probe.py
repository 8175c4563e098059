import math

import pytest
import torch
from torch import Tensor

from cluster.weights import WeightSyncFailed
from jobs.ppo.probe import LEAST_TOKENS, SURE, Probe, check_probe, check_tokens, read_probe


def probe(old_N: Tensor, new_N: Tensor) -> Probe:
    return Probe((), new_N, old_N)


def noise(seed: int, size: float, tokens: int = LEAST_TOKENS) -> Tensor:
    return size * torch.randn(tokens, generator=torch.Generator().manual_seed(seed))


def test_a_reading_by_hand() -> None:
    # d = (1, 1), s - old = (1, 0): position 1/2; what is left is (1/2, -1/2), so noise is 1/2 and |d| / noise = 2 sqrt 2.
    reading = read_probe(torch.tensor([-1.0, -3.0]), probe(torch.tensor([-2.0, -3.0]), torch.tensor([-1.0, -2.0])))
    assert reading.position == 0.5
    assert reading.standard_errors == pytest.approx(2 * math.sqrt(2))
    assert reading.mismatch == pytest.approx(math.sqrt(0.5))


def test_without_a_step_or_without_noise() -> None:
    old_N = torch.tensor([-2.0, -3.0])
    still = read_probe(old_N, probe(old_N, old_N))
    assert math.isnan(still.position) and still.standard_errors == 0 and not still.is_sure
    exact = read_probe(old_N + 1, probe(old_N, old_N + 1))
    assert exact.position == 1 and exact.standard_errors == math.inf


@pytest.mark.parametrize("seed", range(5))
def test_a_skipped_step_of_a_third_of_the_noise_is_found(seed: int) -> None:
    """Distances alone would hardly tell: 0.0300 from the old learner, 0.0316 from the new one."""
    old_N = -2 + noise(10 * seed, 1.0)
    step_N = noise(10 * seed + 1, 0.01)
    bf16_N = noise(10 * seed + 2, 0.03)
    skipped = read_probe(old_N + bf16_N, probe(old_N, old_N + step_N))
    taken = read_probe(old_N + step_N + bf16_N, probe(old_N, old_N + step_N))
    assert skipped.is_sure and taken.is_sure
    check_probe(taken, torch.bfloat16)
    with pytest.raises(WeightSyncFailed, match="still computes with the old weights"):
        check_probe(skipped, torch.bfloat16)


def test_a_step_far_below_the_noise_is_not_judged() -> None:
    old_N = -2 + noise(1, 1.0)
    reading = read_probe(old_N + noise(3, 0.03), probe(old_N, old_N + noise(2, 1e-4)))
    assert reading.standard_errors < SURE
    check_probe(reading, torch.bfloat16)


def test_noise_that_no_precision_explains_is_refused() -> None:
    old_N = -2 + noise(1, 1.0)
    new_N = old_N + noise(2, 0.01)
    with pytest.raises(WeightSyncFailed, match="nats"):
        check_probe(read_probe(new_N + noise(3, 0.5), probe(old_N, new_N)), torch.bfloat16)
    with pytest.raises(WeightSyncFailed, match="nats"):
        check_probe(read_probe(new_N + noise(3, 0.03), probe(old_N, new_N)), torch.float32)
    with pytest.raises(WeightSyncFailed, match="nan nats"):
        check_probe(read_probe(new_N * math.nan, probe(old_N, new_N)), torch.float32)


def test_a_short_probe_is_refused() -> None:
    with pytest.raises(WeightSyncFailed, match="2047 tokens"):
        check_tokens([[1] * LEAST_TOKENS], torch.zeros(LEAST_TOKENS - 1))
    with pytest.raises(WeightSyncFailed, match="2048 tokens and 2047 log-probabilities"):
        check_tokens([[1] * 1025, [1] * 1025], torch.zeros(LEAST_TOKENS - 1))
    check_tokens([[1] * 1025, [1] * 1025], torch.zeros(LEAST_TOKENS))

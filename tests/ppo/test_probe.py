import math

import pytest
import torch
from torch import Tensor

from cluster.weights import WeightSyncFailed
from configs.errors import RunFailed
from jobs.ppo.probe import LEAST_TOKENS, SURE, Probe, check_probe, check_tokens, first_seen, read_probe
from jobs.ppo.probing import probe_sequences
from jobs.records import PromptRow


def probe(old_N: Tensor, new_N: Tensor) -> Probe:
    """Of texts that have nothing in common."""
    return Probe(tuple((number, 0) for number in range(len(new_N))), new_N, old_N)


def noise(seed: int, size: float, tokens: int = LEAST_TOKENS) -> Tensor:
    return size * torch.randn(tokens, generator=torch.Generator().manual_seed(seed))


def test_a_reading_by_hand() -> None:
    # d = (1, 1), old + d / 2 = (-1.5, -2.5), s less that = (0.5, -0.5): u = (0.5, -0.5) sums to 0, half way.
    half_way = read_probe(torch.tensor([-1.0, -3.0]), probe(torch.tensor([-2.0, -3.0]), torch.tensor([-1.0, -2.0])))
    assert half_way.position == 0.5 and half_way.standard_errors == 0
    assert half_way.mismatch == pytest.approx(math.sqrt(0.5))
    # d = (1, 2), s = new: u = (0.5, 2) has mean 1.25 and deviation 0.75; 2.5 / (0.75 sqrt 2).
    arrived = read_probe(torch.tensor([-1.0, -1.0]), probe(torch.tensor([-2.0, -3.0]), torch.tensor([-1.0, -1.0])))
    assert arrived.position == 1 and arrived.mismatch == 0
    assert arrived.standard_errors == pytest.approx(2.5 / (0.75 * math.sqrt(2)))


def test_without_a_step_or_without_noise() -> None:
    old_N = torch.tensor([-2.0, -3.0])
    still = read_probe(old_N, probe(old_N, old_N))
    assert math.isnan(still.position) and still.standard_errors == 0 and not still.is_sure
    assert read_probe(old_N + 1, probe(old_N, old_N + 1)).standard_errors == math.inf
    assert read_probe(old_N, probe(old_N, old_N + 1)).standard_errors == -math.inf


@pytest.mark.parametrize("seed", range(5))
def test_a_skipped_step_of_a_third_of_the_noise_is_found(seed: int) -> None:
    """Distances alone would hardly tell: 0.0300 from the old learner, 0.0316 from the new one."""
    old_N = -2 + noise(10 * seed, 1.0)
    step_N = noise(10 * seed + 1, 0.01)
    bf16_N = noise(10 * seed + 2, 0.03)
    skipped = read_probe(old_N + bf16_N, probe(old_N, old_N + step_N))
    taken = read_probe(old_N + step_N + bf16_N, probe(old_N, old_N + step_N))
    assert taken.is_sure and not skipped.is_sure
    assert skipped.position < 0.25 and taken.position > 0.75
    check_probe(taken, torch.bfloat16)
    with pytest.raises(WeightSyncFailed, match="still computes with the old weights"):
        check_probe(skipped, torch.bfloat16)


@pytest.mark.parametrize("seed", range(5))
def test_a_step_below_the_rounding_of_the_learner_itself_is_not_judged(seed: int) -> None:
    """SmolLM2-135M in bf16 at a rate of 1e-6: the learner's difference is rounding, and every sampler lies half way."""
    exact_N = -2 + noise(10 * seed, 1.0)
    step_N = noise(10 * seed + 1, 1e-4)
    rounded = probe(exact_N + noise(10 * seed + 2, 0.02), exact_N + step_N + noise(10 * seed + 3, 0.02))
    for sampler_N in (exact_N, exact_N + step_N):
        reading = read_probe(sampler_N + noise(10 * seed + 4, 0.02), rounded)
        assert abs(reading.standard_errors) < SURE and reading.position == pytest.approx(0.5, abs=0.1)
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


@pytest.mark.timeout(60)  # seconds; it would never end
def test_text_is_repeated_until_it_is_enough() -> None:
    prompts = [PromptRow([5, 9, 2], 0, "[]", None), PromptRow([7], 1, "[]", None)]
    sequences = probe_sequences(prompts)
    assert sequences[:4] == ((5, 9, 2), (7,), (5, 9, 2), (7,))
    assert LEAST_TOKENS <= sum(len(sequence) - 1 for sequence in sequences) < LEAST_TOKENS + 2
    with pytest.raises(RunFailed, match="every prompt has one token only"):
        probe_sequences(prompts[1:])


def test_the_same_text_is_no_second_witness() -> None:
    sequences = ((1, 5, 9), (1, 5, 7, 9), (2, 5, 9), (1, 5, 9), (3,))
    assert first_seen(sequences).tolist() == [True, True, False, True, True, True, True, False, False]


def test_prompts_that_come_again_make_a_probe_no_surer() -> None:
    """32 texts of 2 tokens, and the same 32 times over: of a sampler that is as near to old as to new by chance."""
    texts = tuple((number, 0, 0) for number in range(32))
    old_N, new_N, sampled_N = (noise(seed, 1.0, 64) for seed in (1, 2, 3))
    once = read_probe(sampled_N, Probe(texts, new_N, old_N))
    again = read_probe(sampled_N.repeat(32), Probe(texts * 32, new_N.repeat(32), old_N.repeat(32)))
    assert again == once and abs(once.standard_errors) > 0.2

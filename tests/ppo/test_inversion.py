"""Seeded sampling by inversion: the numbers drawn, the words they choose, and a real engine whose prompts exceed one pass."""

import math
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from cluster.storage import open_store
from jobs.ppo.inversion import BLOCK, invert, uniform
from jobs.ppo.vllm_engine import EngineSpec
from jobs.records import PromptRequest
from tests.ppo.engine_process import engine_process
from tests.ppo.engine_side import generated
from tests.ppo.learner_side import VOCABULARY
from tests.serving.tiny_llama import write_tiny_llama

pytestmark = pytest.mark.vllm

PUBLISHED = [
    6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
]  # fmt: skip
"""SplitMix64 from seed 1234567, as Rosetta Code lists it."""


def test_numbers_are_those_of_splitmix64() -> None:
    drawn = uniform([1234567] * 5, list(range(5)))
    assert drawn.tolist() == [(number >> 11) / 2**53 for number in PUBLISHED]
    assert 0 <= float(uniform([2**63 - 1], [10**6])) < 1


def test_a_word_has_the_share_of_numbers_that_is_its_probability() -> None:
    probabilities = torch.tensor([0.2, 0.3, 0.0, 0.5])
    numbers = torch.tensor([0.0, 0.199999, 0.2, 0.499999, 0.5, 1 - 2**-53], dtype=torch.float64)
    words_B, logprobs_B = invert(probabilities.log().expand(6, 4), torch.ones(6), numbers)
    assert words_B.tolist() == [0, 0, 1, 1, 3, 3]
    assert logprobs_B == pytest.approx(probabilities.log()[words_B], abs=1e-6)


@pytest.mark.parametrize("words", [7, BLOCK, 3 * BLOCK + 5])
def test_the_last_word_is_drawn_by_the_highest_number_and_padding_never(words: int) -> None:
    logits_BV = torch.full((1, words), -30.0)
    logits_BV[0, 2] = 5.0
    words_B, _ = invert(logits_BV, torch.ones(1), torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert int(words_B) < words
    logits_BV[0] = 0.0
    words_B, logprobs_B = invert(logits_BV, torch.ones(1), torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert int(words_B) == words - 1
    assert float(logprobs_B) == pytest.approx(-math.log(words), abs=1e-6)


def test_log_probabilities_are_those_of_the_distribution_at_its_temperature() -> None:
    logits_BV = (3 * torch.randn(64, 1000, generator=torch.Generator().manual_seed(5))).bfloat16()
    temperature_B = torch.linspace(0.3, 1.7, 64)
    words_B, logprobs_B = invert(logits_BV, temperature_B, uniform(list(range(64)), [0] * 64))
    wanted_BV = (logits_BV.double() / temperature_B[:, None]).log_softmax(-1)
    assert logprobs_B == pytest.approx(wanted_BV.gather(1, words_B[:, None])[:, 0].float(), abs=1e-5)


def test_words_are_as_frequent_as_they_are_probable() -> None:
    draws, words = 40_000, 300  # two blocks
    logits_V = torch.randn(words, generator=torch.Generator().manual_seed(1))
    numbers_B = uniform([11] * draws, list(range(draws)))
    words_B, _ = invert(logits_V.expand(draws, words), torch.full((draws,), 0.8), numbers_B)
    expected_V = draws * (logits_V.double() / 0.8).softmax(0)
    assert chisquare(torch.bincount(words_B, minlength=words), expected_V).pvalue > 1e-3


def test_prompts_that_one_pass_cannot_take_are_answered_as_they_are_alone(tmp_path: Path) -> None:
    """vLLM 0.29's own seeds end the engine here: a CPU's generator cannot be turned back."""
    write_tiny_llama(tmp_path / "base")
    generator = torch.Generator().manual_seed(2)
    requests = [
        PromptRequest(number, torch.randint(4, VOCABULARY, (100,), generator=generator).tolist(), [7 * number])
        for number in range(60)
    ]
    assert sum(len(request.prompt_ids) for request in requests) > 4096, "vLLM's tokens in a pass on a CPU"
    spec = EngineSpec(
        open_store(str(tmp_path / "base")), "float32", max_model_len=128, kv_cache_gib=0.25, max_num_seqs=64, threads=1
    )
    with engine_process(spec) as engine:
        together = {group[0].prompt_id: group[0].answer_ids for group in engine.run(generated, requests)}
        for request in requests[::20]:
            [[alone]] = engine.run(generated, [request])
            assert alone.answer_ids == together[request.prompt_id]

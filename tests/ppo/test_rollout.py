"""What a real engine of a tiny Llama samples."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.ppo.rollout import EngineNotReady, RolloutEngine
from jobs.records import PromptRequest, Rollout, Sampling
from tests.ppo.engine_process import EngineProcess
from tests.ppo.engine_side import NATS, SAMPLING, generated, prompts, reference_logprobs, tiny_engine
from tests.ppo.learner_side import VOCABULARY
from tests.serving.tiny_llama import write_tiny_llama

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "base"
    write_tiny_llama(path)
    return path


@pytest.fixture(scope="module")
def engine(base: Path) -> Iterator[EngineProcess]:
    with tiny_engine(base) as engine:
        yield engine


def test_answers_come_prompt_by_prompt_with_the_log_probabilities_of_the_policy(
    base: Path, engine: EngineProcess
) -> None:
    groups = engine.run(generated, prompts())
    assert sorted(group[0].prompt_id for group in groups) == [100, 101, 102, 103, 104, 105]
    rollouts = [rollout for group in groups for rollout in group]
    by_id = {request.prompt_id: request for request in prompts()}
    assert {rollout.finished for rollout in rollouts} == {True, False}, "the test must see both kinds of end"
    for group in groups:
        assert [rollout.sample for rollout in group] == [0, 1, 2]
    for rollout in rollouts:
        assert rollout.prompt_ids == by_id[rollout.prompt_id].prompt_ids and rollout.version == 0
        ends = [token in SAMPLING.end_ids for token in rollout.answer_ids]
        assert not any(ends[:-1]) and ends[-1] == rollout.finished
        assert rollout.finished or len(rollout.answer_ids) == SAMPLING.max_new_tokens
        expected = reference_logprobs(base, rollout, SAMPLING.temperature)
        assert torch.tensor(rollout.sampler_logprobs) == pytest.approx(expected, abs=NATS)


def test_the_same_requests_give_the_same_answers_and_other_seeds_others(engine: EngineProcess) -> None:
    first = engine.run(generated, prompts())
    engine.run(generated, prompts(number=2))
    assert engine.run(generated, prompts()) == first
    other = [replace(request, seeds=[seed + 1 for seed in request.seeds]) for request in prompts()]
    assert engine.run(generated, other) != first


def passes_until_each_group(engine: RolloutEngine, requests: list[PromptRequest]) -> list[tuple[int, int, int]]:
    """(prompt, forward passes before it was handed out, tokens of its longest answer), in the order they came."""
    passes = 0
    step = engine._engine.step

    def counted() -> list:
        nonlocal passes
        passes += 1
        return step()

    engine._engine.step = counted
    try:
        return [
            (group[0].prompt_id, passes, max(len(rollout.answer_ids) for rollout in group))
            for group in engine.generate(requests, SAMPLING)
        ]
    finally:
        del engine._engine.step


def test_a_prompt_is_handed_out_as_soon_as_its_last_answer_is_there(engine: EngineProcess) -> None:
    came = engine.run(passes_until_each_group, prompts(number=8, answers=1))
    assert [longest for _, _, longest in came] == sorted(longest for _, _, longest in came)
    assert came[0][1] < came[-1][1], "the first prompt must not wait for the last"
    for _, passes, longest in came:
        # All prompts fit in one pass, and vLLM may hand the tokens of a pass out one pass later.
        assert passes <= longest + 1


def stop_after_first(engine: RolloutEngine, requests: list[PromptRequest]) -> tuple[int, list[list[Rollout]]]:
    answers = engine.generate(requests, SAMPLING)
    next(answers)
    assert engine._engine.waiting, "nothing is left to be dropped"
    try:
        engine.generate(prompts(number=1), SAMPLING).__next__()
    except EngineNotReady:
        refused = 1
    else:
        refused = 0
    answers.close()
    return refused, list(engine.generate(requests, SAMPLING))


def reload_in_the_middle(engine: RolloutEngine, requests: list[PromptRequest]) -> list[list[Rollout]]:
    answers = engine.generate(requests, SAMPLING)
    next(answers)
    assert engine._engine.waiting, "nothing is left to be dropped"
    engine.reload()
    return list(answers)


def test_after_a_stop_in_the_middle_the_engine_answers_as_before(engine: EngineProcess) -> None:
    undisturbed = engine.run(generated, prompts(8, answers=1))
    refused, again = engine.run(stop_after_first, prompts(8, answers=1))
    assert refused == 1, "two generations at once would change each other's bits"
    assert again == undisturbed


def test_answers_that_a_reload_drops_are_not_lost_in_silence(engine: EngineProcess) -> None:
    with pytest.raises(EngineNotReady, match="dropped"):
        engine.run(reload_in_the_middle, prompts(8, answers=1))
    assert len(engine.run(generated, prompts(8))) == 8


@pytest.mark.parametrize(
    ("requests", "sampling", "says"),
    [
        ([PromptRequest(1, [5] * 110, [0])], SAMPLING, "max_model_len = 128"),
        ([PromptRequest(1, [], [0])], SAMPLING, "has 0 tokens"),
        ([PromptRequest(1, [5, VOCABULARY], [0])], SAMPLING, "has token 310, the model has 310"),
        ([PromptRequest(1, [5], [0]), PromptRequest(1, [6], [0])], SAMPLING, "its own"),
        ([PromptRequest(1, [5], [0])], replace(SAMPLING, temperature=0.0), "greedy"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    engine: EngineProcess, requests: list[PromptRequest], sampling: Sampling, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        engine.run(listed_generate, requests, sampling)


def listed_generate(engine: RolloutEngine, requests: list[PromptRequest], sampling: Sampling) -> list:
    return list(engine.generate(requests, sampling))

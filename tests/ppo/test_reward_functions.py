"""Python functions as rewards: what they are given, and what is said where they go wrong."""

import asyncio
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RunFailed
from configs.schema.ppo_stage import PpoStage
from jobs.ppo import reward_functions
from jobs.ppo.example_rewards import brevity, few_commas, reading_ease, short_and_easy
from jobs.ppo.experience import combined
from jobs.ppo.reward_functions import RewardFunctionError, TrainerState, call_reward, import_function, module_identity
from jobs.records import PromptRow, Rollout
from jobs.stages import identity
from tests.world.toy_ppo import toy_ppo_stage

ROLLOUTS = [Rollout(0, sample, [1], [5, 2], [-1.0, -0.1], bool(sample), 0) for sample in range(2)]
PROMPTS = [PromptRow([1], 44, '[{"role": "user", "content": "Why?"}]', "Because.")] * 2


def call(function: Any) -> list[float]:
    return call_reward("here:function", function, ROLLOUTS, ["So.", "Thus."], PROMPTS, TrainerState(3, 8))


def test_a_function_gets_what_trl_gives_and_the_datas_answer() -> None:
    def all_of_it(prompts: Any, completions: Any, completion_ids: Any, answer: Any, **others: Any) -> list[Any]:
        assert prompts == [[{"role": "user", "content": "Why?"}]] * 2
        assert completions == [[{"role": "assistant", "content": text}] for text in ("So.", "Thus.")]
        assert (completion_ids, answer, others.pop("finished")) == ([[5, 2]] * 2, ["Because."] * 2, [False, True])
        assert (others["trainer_state"].global_step, others["trainer_state"].max_steps) == (3, 8) and len(others) == 1
        return [1, None]

    first, second = call(all_of_it)
    assert first == 1 and math.isnan(second)
    assert call(lambda answer: [len(text) for text in answer]) == [8, 8]  # takes what it names


def test_an_asynchronous_function_is_waited_for() -> None:
    async def slow(completions: Any, **others: Any) -> list[Any]:
        await asyncio.sleep(0)
        return [2, None]

    first, second = call(slow)
    assert first == 2 and math.isnan(second)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda completions: [1.0], "returned 1 numbers for 2 answers"),
        (lambda completions: ["good", "bad"], "'good' is a string"),
        (lambda completions: ["1", "2"], "'1' is a string"),
        (lambda completions: "12", "'1' is a string"),
        (lambda completions: 1 / 0, "ZeroDivisionError"),
        (lambda texts: [1.0, 2.0], "missing 1 required positional argument: 'texts'"),
    ],
)
def test_what_a_function_does_wrong_is_said_by_its_name(function: Any, said: str) -> None:
    with pytest.raises(RewardFunctionError, match=f"here:function.*{said}"):
        call(function)


@pytest.mark.parametrize(("number", "said"), [(math.inf, "infinity"), (math.nan, "NaN")])
def test_what_is_no_number_ends_a_run_and_not_a_policy(number: float, said: str) -> None:
    with pytest.raises(RunFailed, match=f"returned {said}; return None where"):
        call(lambda completions: [1.0, number])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jobs.no_such_module:f", "No module named"),
        ("jobs.ppo.example_rewards:no_such", "has no attribute"),
        ("jobs.ppo.example_rewards:WANTED_WORDS", "is a int, not a function"),
        ("jobs.records:PromptRow", "is a class, not a function"),
        ("builtins:max", "does not say what it takes"),
        (
            "trl.rewards:accuracy_reward",
            "asks for solution; .* given prompts, completions, .*answer.* of your own that calls",
        ),
        ("trl.rewards:get_soft_overlong_punishment", "asks for max_completion_len, soft_punish_cache"),
        ("trl.rewards:get_repetition_penalty_reward", "takes none of what there is to judge by"),
    ],
)
def test_a_function_that_cannot_judge_is_found_before_anything_starts(name: str, said: str) -> None:
    with pytest.raises(RewardFunctionError, match=said):
        import_function(name)


@pytest.mark.parametrize("source", ["def reward(:", "raise ValueError('set API_KEY')"])
def test_a_module_that_cannot_be_run_is_said_by_the_name_of_its_function(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_reward.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        RewardFunctionError, match=r"broken_reward:reward cannot be imported \((SyntaxError|ValueError)"
    ):
        import_function("broken_reward:reward")


def test_a_module_beside_the_packages_of_the_checkout_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `acclimate` command has neither the working directory nor the checkout on its path."""
    (tmp_path / "reward_of_mine.py").write_text("def reward(completions): return [1.0 for _ in completions]")
    monkeypatch.setattr(reward_functions, "CHECKOUT", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert module_identity("reward_of_mine:reward").keys() == {"module_sha256"}
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path)])
    assert call(import_function("reward_of_mine:reward")) == [1.0, 1.0]


@pytest.mark.parametrize("place", ["rewards", "gold"])
def test_another_function_under_the_same_name_is_another_stage(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run would take the model that the function of before has made."""
    changed = {"function": "changed_reward:reward"}
    judged = {"rewards": [changed]} if place == "rewards" else {"heldout": {"gold": changed}}
    stage = PpoStage.model_validate(toy_ppo_stage(**judged))
    monkeypatch.syspath_prepend(tmp_path)
    identities = []
    for value in (1, 2, 1):
        (tmp_path / "changed_reward.py").write_text(f"def reward(completions): return [{value}.0 for _ in completions]")
        identities.append(identity(stage, seed=0))
    assert identities[0] == identities[2] != identities[1]
    (tmp_path / "changed_reward.py").unlink()
    with pytest.raises(RewardFunctionError, match="changed_reward:reward cannot be imported"):
        identity(stage, seed=0)


def test_functions_of_trl_can_judge() -> None:
    assert call(import_function("trl.rewards:think_format_reward")) == [0, 0]


def test_sources_are_added_by_weight_and_one_without_opinion_adds_nothing() -> None:
    assert combined([(2.0, {0: 1.0, 1: math.nan}), (-1.0, {0: 0.5, 1: 3.0})]) == {0: 1.5, 1: -3.0}
    with pytest.raises(RunFailed, match="answer 1 has no reward"):
        combined([(1.0, {0: 1.0, 1: math.nan})])


def test_the_example_pays_for_two_short_finished_sentences() -> None:
    said = [[{"role": "assistant", "content": "word " * count}] for count in (20, 10, 40, 20)]
    assert brevity(said, [True, True, True, False]) == [1.0, 0.5, 0.0, 0.0]


def test_reading_ease_by_hand() -> None:
    def ease(text: str) -> float:
        return reading_ease([[{"role": "assistant", "content": text}]])[0]

    # 6 words, 6 syllables, 1 sentence; 8 words, 13 syllables as they are counted, 2 sentences.
    assert ease("The cat sat on the mat.") == pytest.approx(1.16145)
    assert ease("The little dog made a noise. Nobody listened.") == pytest.approx(
        (206.835 - 1.015 * 8 / 2 - 84.6 * 13 / 8) / 100
    )
    assert ease("Pharmacological heterogeneity demonstrates immunomodulatory characteristics.") == 0
    assert ease("Yes.") == 0


def test_short_and_easy_is_both() -> None:
    said = [[{"role": "assistant", "content": "The cat sat on the mat. The dog saw it."}]] * 2  # 10 words, 2 sentences
    ease = (206.835 - 1.015 * 10 / 2 - 84.6 * 10 / 10) / 100
    assert short_and_easy(said, [True, False]) == pytest.approx([ease * 0.5, 0.0])


def test_few_commas_takes_a_third_for_every_comma() -> None:
    said = [[{"role": "assistant", "content": text}] for text in ("It is.", "It, is.", "a, b, c", "a, b, c, d, e")]
    assert few_commas(said) == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])

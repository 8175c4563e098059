"""What the data of a stage decide: how many steps there are."""

import pytest

from configs.schema.ppo_stage import PpoStage
from jobs.corpus.schema import DataError
from jobs.ppo.inputs import steps_of
from tests.world.toy_ppo import toy_ppo_stage


def stage_of(epochs: float, warmup: int) -> PpoStage:
    return PpoStage.model_validate(toy_ppo_stage(steps=None, epochs=epochs, algorithm={"critic_warmup_steps": warmup}))


def test_epochs_are_steps_of_six_prompts_each() -> None:
    assert [steps_of("ppo", stage_of(epochs, 0), 13) for epochs in (0.1, 1.0, 2.0)] == [1, 3, 5]
    assert steps_of("ppo", stage_of(1.0, 2), 13) == 3


def test_a_policy_that_would_never_learn_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"critic_warmup_steps \(3\): 1 epochs over 13 prompts are 3 steps, none is left"
    ):
        steps_of("ppo", stage_of(1.0, 3), 13)

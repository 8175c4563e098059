"""Settings of PPO that do not fit together are answered with what is wrong and what to set."""

import pytest
from pydantic import ValidationError

from configs.schema.ppo import PpoAlgorithm
from configs.schema.ppo_resources import RoleResources
from configs.schema.ppo_stage import PpoStage

STAGE = {"stage": "ppo", "model": "base", "shards": "prompts", "rewards": [{"model": "rm"}], "steps": 3}


def test_defaults_fit_together() -> None:
    settings = PpoAlgorithm()
    assert settings.whitens and settings.answers_per_step == 64 and settings.kl.estimator == "k1"
    assert PpoAlgorithm.model_validate(settings.model_dump()) == settings


def test_groups_are_not_whitened_unless_asked() -> None:
    assert not PpoAlgorithm(estimator="grpo", answers_per_prompt=4, grpo_scale="none").whitens
    assert PpoAlgorithm(estimator="rloo", answers_per_prompt=4, whiten=True).whitens
    assert not PpoAlgorithm(whiten=False).whitens


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"estimator": "grpo"}, r"grpo compares the answers to a prompt, and answers_per_prompt is 1; set 2 or more"),
        ({"estimator": "rloo", "answers_per_prompt": 4, "critic_warmup_steps": 5}, r"estimator rloo has no critic; set it to 0"),
        ({"prompts_per_step": 10, "minibatches": 4}, r"minibatches \(4\) must divide the answers of a step: .* = 10"),
        ({"kl": {"where": "loss"}}, r"k1 in the loss has a gradient of mean 0, .*; set k2 or k3_straight"),
        ({"kl": {"estimator": "k3"}}, r"kl.estimator k3 in the reward pulls to something else .*; set estimator: k1"),
        ({"kl": {"where": "none", "adaptive": {"unit": "nats_per_token", "target": 0.1}}}, r"nothing to adapt with where: none"),
        ({"kl": {"adaptive": {"target": 6}}}, r"unit\n  Field required"),
        ({"estimator": "grpo", "answers_per_prompt": 4}, r"noise of the KL, at full size; set kl.where: loss"),
        ({"kl": {"adaptive": {"unit": "nats_per_token", "target": 0.1, "horizon": 50}}}, r"horizon \(50\) .* a step has 64"),
        ({"estimator": "rloo", "answers_per_prompt": 4, "gae_lambda": 0.9}, r"gae_lambda has no effect on estimator: rloo; it is for gae"),
        ({"estimator": "rloo", "answers_per_prompt": 4, "grpo_scale": "none"}, r"grpo_scale has no effect on .* it is for grpo"),
        ({"clip": 1.0}, "less than 1"),
        ({"importance_cap": 0.5}, "greater than or equal to 1"),
        ({"temperature": 0.009}, "greater than or equal to 0.01"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PpoAlgorithm.model_validate(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": None}, "exactly one of `steps` and `epochs`"),
        ({"critic": "rm", "algorithm": {"estimator": "rloo", "answers_per_prompt": 2}}, "estimator rloo has no critic"),
        (
            {"algorithm": {"prompts_per_step": 3, "answers_per_prompt": 2, "minibatches": 2}},
            "the answers to a prompt stay together",
        ),
        (
            {"reference": "other", "algorithm": {"kl": {"where": "none"}}},
            "reference: with kl.where: none there is none",
        ),
        ({"lora": {"dropout": 0.1}}, "lora.dropout"),
        (
            {"algorithm": {"kl": {"where": "none"}}, "health": {"kl_ceiling": 5.0}},
            "there is no reference and no KL to hold it against",
        ),
        ({"heldout": {"gold": {"model": "rm", "weight": 2.0}}}, r"gold.weight \(2\): gold is added to nothing"),
        ({"checkpoints": {"keep": 1}}, "checkpoints.keep must be 2 or more"),
        ({"reference_is_base": True}, "reference_is_base: below the policy there must be the model it starts from"),
        ({"lora": {"start": "continue"}}, "start: merge begins new adapters on the model with the old ones in it"),
        ({"lora": {"base": "nf4"}}, "lora.base: nf4: samplers start with the weights as they are stored"),
        ({"algorithm": {"critic_warmup_steps": 3}, "steps": 3}, r"critic_warmup_steps \(3\): of 3 steps none is left"),
        (
            {"algorithm": {"prompts_per_step": 8, "minibatches": 8}, "resources": {"policy": {"ranks": 2}}},
            r"resources.policy.ranks \(2\): a minibatch has 1 prompts",
        ),
        (
            {"staleness": 1, "resources": {"placement": "colocated", "rollout": {"gpus_per_rank": 1}}},
            "on shared GPUs they take turns; set placement: separate",
        ),
        ({"reference_is_base": True, "lora": {}, "reference": "base"}, "remove `reference`"),
        ({"rewards": [{"model": "rm", "function": "a:b"}]}, "exactly one of `model` and `function`"),
        (
            {"resources": {"transfer": "nccl"}},
            "transfer: nccl goes from GPU to GPU with placement: separate; give policy",
        ),
        (
            {"resources": {"transfer": "ipc", "policy": {"gpus_per_rank": 0.5}, "rollout": {"gpus_per_rank": 1}}},
            "ipc goes from GPU to GPU with placement: colocated",
        ),
        ({"rewards": [{"function": "a.b"}]}, "not of the form module:function"),
        (
            {"resources": {"placement": "colocated", "policy": {"gpus_per_rank": 1}, "rollout": {"gpus_per_rank": 2}}},
            r"rollout.gpus_per_rank \(2\): with placement: colocated an engine shares the one GPU",
        ),
        (
            {"checkpoints": {"every_minutes": 5.0}},
            "every_minutes: a ppo stage saves between steps only; set every_steps",
        ),
    ],
)
def test_a_stage_that_does_not_fit_is_refused(values: dict, message: str) -> None:
    assert PpoStage.model_validate(STAGE).loads_reference
    with pytest.raises(ValidationError, match=message):
        PpoStage.model_validate({**STAGE, **values})


def test_custom_resources_have_names_of_their_own() -> None:
    assert RoleResources(custom_resources={"L4": 0.5}).custom_resources == {"L4": 0.5}
    with pytest.raises(ValidationError, match=r"GPU: 1: give names that nodes offer .*gpus_per_rank"):
        RoleResources(custom_resources={"GPU": 1})
    with pytest.raises(ValidationError, match=r"L4: 0: give names .* amounts above 0"):
        RoleResources(custom_resources={"L4": 0})


def test_what_is_left_out_of_an_optimizer_keeps_the_values_of_rlhf() -> None:
    own = {"optimizer": {"learning_rate": 1e-6}, "critic_optimizer": {"weight_decay": 0.1}, "checkpoints": {"keep": 3}}
    stage = PpoStage.model_validate({**STAGE, **own})
    assert (stage.optimizer.learning_rate, stage.optimizer.epsilon) == (1e-6, 1e-5)
    assert (stage.critic_optimizer.learning_rate, stage.critic_optimizer.epsilon) == (1e-5, 1e-5)
    assert stage.checkpoints.every_steps == 5

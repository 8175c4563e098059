"""Settings of training that would be computed wrong, or have no effect, are refused with what to do instead."""

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from configs.schema.corpus import ShardsStage
from configs.schema.ppo_stage import PpoStage
from configs.schema.training import AnyTrainStage

STAGES = {"model": "base", "shards": "rows", "steps": 4}
GENERAL = {"general": "other", "max_general_increase": 0.03}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stage": "dpo", "loss": {"kind": "hinge", "label_smoothing": 0.1}}, "no effect on kind: hinge; choose sigmoid"),
        ({"stage": "dpo", "loss": {"kind": "ipo", "label_smoothing": 0.1}}, "no effect on kind: ipo"),
        ({"stage": "cpt", "heldout": {"over_budget": "stop"}}, "over_budget: stop needs a budget: set max_general_increase"),
        ({"stage": "reward", "heldout": GENERAL}, "heldout.general: a reward model scores answers"),
        ({"stage": "cpt", "optimizer": {"learning_rate": math.inf}}, "should be a finite number"),
        ({"stage": "cpt", "optimizer": {"weight_decay": math.nan}}, "should be a finite number"),
        ({"stage": "cpt", "compile": True}, "compile: true needs a GPU for every rank"),
    ],
)  # fmt: skip
def test_what_has_no_effect_or_a_wrong_one_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AnyTrainStage).validate_python(STAGES | values)


@pytest.mark.parametrize(
    ("rows", "setting", "message"),
    [
        ("text", {"train_on": "last"}, "train_on has no effect on `rows: text`; it is for messages"),
        ("text", {"too_long": "quarantine"}, "too_long has no effect on `rows: text`"),
        ("messages", {"document_end": "<eos>"}, "document_end has no effect on `rows: messages`; it is for text"),
        ("preferences", {"train_on": "all"}, "train_on has no effect on `rows: preferences`"),
    ],
)
def test_settings_of_shards_without_effect_are_refused(rows: str, setting: dict, message: str) -> None:
    values = {"stage": "shards", "corpus": "papers", "model": "base", "rows": rows}
    with pytest.raises(ValidationError, match=message):
        ShardsStage.model_validate(values | setting)
    ShardsStage.model_validate(values)
    ShardsStage.model_validate(ShardsStage.model_validate(values).model_dump())


def test_the_same_settings_are_taken_where_they_mean_something() -> None:
    for values in (
        {"stage": "dpo", "loss": {"kind": "robust", "label_smoothing": 0.1}, "heldout": GENERAL},
        {"stage": "cpt", "heldout": GENERAL | {"over_budget": "stop"}},
        {"stage": "cpt", "compile": True, "resources": {"gpus_per_rank": 1}},
    ):
        TypeAdapter(AnyTrainStage).validate_python(STAGES | values)


def test_a_policy_without_dropout_is_the_one_that_sampled() -> None:
    values = STAGES | {"stage": "ppo", "rewards": [{"model": "judge"}], "lora": {"dropout": 0.1}}
    with pytest.raises(ValidationError, match="lora.dropout: a policy with dropout is not the one that sampled"):
        PpoStage.model_validate(values)

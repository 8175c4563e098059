"""Sentences about curves: each made by a history that shows the thing, none by one that does not."""

import pytest

from configs.schema.objectives import KtoLoss
from configs.schema.training import (
    AnyTrainStage,
    DpoStage,
    HeldoutEvaluation,
    KtoStage,
    LanguageModelStage,
    RewardStage,
)
from jobs.train.readings import Readings, readings

HELDOUT = HeldoutEvaluation(general="general", max_general_increase=0.03)
CPT = LanguageModelStage(stage="cpt", model="base", shards="rows", steps=20, heldout=HELDOUT)
DPO = DpoStage(stage="dpo", model="base", shards="pairs", steps=20, heldout=HeldoutEvaluation())
KTO = KtoStage(stage="kto", model="base", shards="thumbs", steps=20)
REWARD = RewardStage(stage="reward", model="base", shards="pairs", steps=20, heldout=HeldoutEvaluation())


def falling(steps: int = 20, **slopes: tuple[float, float]) -> list[dict[str, float]]:
    """A healthy run; `slopes` gives (first, last) of further metrics, in a straight line with a little scatter."""
    history = []
    for step in range(1, steps + 1):
        part = (step - 1) / (steps - 1)
        entry = {"step": float(step), "loss": 2 - part, "grad_norm": 1.0, "entropy": 2.0}
        scatter = 0.01 if step % 2 else -0.01
        history.append(
            entry | {name: first + part * (last - first) + scatter for name, (first, last) in slopes.items()}
        )
    return history


PAIRS = {"rewards/chosen": (0.0, 1.0), "rewards/rejected": (0.0, -1.0)}


@pytest.mark.parametrize(
    ("stage", "history", "name", "says"),
    [
        (DPO, falling(**PAIRS, **{"logps/chosen": (-50.0, -70.0)}), "chosen_falls", "loss.sft_weight"),
        (DPO, falling(**PAIRS, **{"lengths/chosen": (60.0, 60.0), "lengths/rejected": (30.0, 30.0)}), "lengths", "2.00 times longer"),
        (KTO, falling(**PAIRS, share_desirable=(0.8, 0.8)), "imbalance", "undesirable_weight: 4"),
        (KTO, falling(**PAIRS, share_desirable=(0.2, 0.2)), "imbalance", "loss.desirable_weight: 4"),
        (CPT, falling(entropy=(2.0, 0.3)), "entropy", "fell from"),
        (CPT, falling(grad_norm=(50.0, 50.0)), "clipped", "clipped to 1"),
        (CPT, falling(idle_share=(0.3, 0.3)), "idle", "30%"),
        (CPT, falling(step_s=(2.0, 2.0), data_wait_s=(0.5, 0.5)), "data_wait", "25%"),
        (CPT, falling(step_s=(3.0, 3.0), save_wait_s=(1.0, 1.0)), "save_wait", "25% of the time goes into checkpoints"),
        (REWARD, falling(margin=(0.5, 0.5), **{"rewards/mean": (0.0, 30.0)}), "drift", "centring"),
    ],
)  # fmt: skip
def test_a_curve_that_means_something_is_said(
    stage: AnyTrainStage, history: list[dict[str, float]], name: str, says: str
) -> None:
    assert says in readings(stage, history)[name]
    assert name not in readings(stage, history[:5])  # too few steps to say anything


@pytest.mark.parametrize("stage", [CPT, DPO, KTO, REWARD])
def test_a_healthy_run_gives_no_reading(stage: AnyTrainStage) -> None:
    healthy = {
        "logps/chosen": (-50.0, -49.0),
        "share_desirable": (0.55, 0.55),
        "idle_share": (0.02, 0.02),
        "margin": (0.1, 2.0),
        "step_s": (2.0, 2.0),
        "data_wait_s": (0.05, 0.05),
        "save_wait_s": (0.1, 0.1),
    }
    assert readings(stage, falling(**PAIRS, **healthy)) == {}


def test_the_sft_term_is_named_only_where_there_is_one() -> None:
    """KTO's loss has none."""
    fallen = falling(**PAIRS, **{"logps/chosen": (-50.0, -70.0)}, share_desirable=(0.55, 0.55))
    said = readings(KTO, fallen)["chosen_falls"]
    assert "sft_weight" not in said and "lower beta" in said


def test_weights_that_balance_the_thumbs_are_not_spoken_of() -> None:
    weighted = KTO.model_copy(update={"loss": KtoLoss(undesirable_weight=4.0)})
    assert "imbalance" not in readings(weighted, falling(share_desirable=(0.8, 0.8)))


def test_evaluations_are_read_too() -> None:
    measured = [{"step": 0.0, "heldout/loss": 2.0, "general/perplexity": 20.0}, *falling()]
    measured[10] |= {"heldout/loss": 1.5, "general/perplexity": 20.2}
    assert readings(CPT, measured) == {}
    measured[20] |= {"heldout/loss": 1.8, "general/perplexity": 21.0}
    found = readings(CPT, measured)
    assert "rose by 5.0%" in found["forgetting"]
    assert "lowest after step 10" in found["overfitting"] and "20.0%" in found["overfitting"]


def test_accuracy_is_compared_with_chance_and_with_held_out_pairs() -> None:
    measured = [{"step": 0.0, "heldout/loss": 0.7}, *falling(accuracy=(0.5, 0.99), margin=(0.0, 2.0))]
    measured[20] |= {
        "heldout/loss": 0.7,
        "heldout/accuracy": 0.55,
        "heldout/accuracy_low": 0.45,
        "heldout/accuracy_high": 0.65,
    }
    found = readings(REWARD, measured)
    assert "learnt by heart" in found["by_heart"] and "chance" in found["chance"]
    measured[20] |= {"heldout/accuracy": 0.9, "heldout/accuracy_low": 0.8, "heldout/accuracy_high": 0.95}
    assert readings(REWARD, measured) == {}


def test_each_reading_is_said_once() -> None:
    said: list[str] = []
    watched = Readings(CPT, said.append, [])
    for entry in falling(idle_share=(0.3, 0.3)):
        watched.add(entry)
    assert len(said) == 1

"""Every objective: its numbers by hand, and the same gradient for every split over micro-batches and ranks."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from cluster.storage import open_store
from configs.schema.objectives import DpoLoss, KtoLoss, OrpoLoss, RewardLoss
from configs.schema.training import Optimizer
from jobs.records import ExampleRow
from jobs.train.examples import pack_examples, pack_mismatched
from jobs.train.fsdp import build_mesh
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.objectives.dpo import Dpo, dpo_loss
from jobs.train.objectives.kto import Kto, kto_loss
from jobs.train.objectives.objective import Contribution, Objective, with_margin
from jobs.train.objectives.orpo import Orpo, orpo_loss
from jobs.train.objectives.reward import Reward, reward_loss
from jobs.train.reader import StepBatch
from tests.train.judged import make_example, make_preferences, make_thumbs
from tests.train.ranks import run_ranks
from tests.train.tiny_models import save_tiny_model
from tests.train.whole import whole_gradients

OBJECTIVES: dict[str, Objective] = {
    **{f"dpo_{kind}": Dpo(DpoLoss(kind=kind)) for kind in ("sigmoid", "sigmoid_norm", "hinge", "ipo")},
    "dpo_robust": Dpo(DpoLoss(kind="robust", label_smoothing=0.2)),
    "dpo_smoothed_sft": Dpo(DpoLoss(label_smoothing=0.1, sft_weight=0.5)),
    "kto": Kto(KtoLoss(desirable_weight=1.3)),
    "orpo": Orpo(OrpoLoss()),
    "orpo_answer": Orpo(OrpoLoss(sft_on="answer")),
    "reward": Reward(RewardLoss(centring=0.01)),
}


def step_batch(objective: Objective, rows: list[ExampleRow], split: list[list[int]]) -> StepBatch:
    """What a rank gets whose micro-batches are these row numbers; references are made up, one a segment."""
    best_prompt = isinstance(objective, Orpo) and objective.settings.sft_on == "prompt_and_answer"
    own, other = [], []
    for numbers in split:
        chosen = [rows[number] for number in numbers]
        references = [[-0.3 * length for length in row.segment_lengths] for row in chosen]
        kept = [
            [value for value, level in zip(given, row.levels, strict=True) if level >= 0]
            for given, row in zip(references, chosen, strict=True)
        ]
        own.append(pack_examples(chosen, kept, best_prompt))
        if isinstance(objective, Kto):
            other.append(pack_mismatched(chosen, [given[-1:] for given in references]))
    return StepBatch(tuple(own), tuple(other), 0.0, len(rows), 0, 0.0, tuple(map(tuple, split)))


def rows_for(objective: Objective) -> list[ExampleRow]:
    return make_thumbs() if isinstance(objective, Kto) else make_preferences()


def rank_step(
    directory: Path, name: str, splits: list[list[list[int]]]
) -> tuple[dict[str, Tensor], float, dict[str, float]]:
    """Gradients, loss and metrics of one step in fp64; `splits[rank]` are micro-batches of row numbers."""
    objective = OBJECTIVES[name]
    spec = LearnerSpec(open_store(str(directory)), "fp64", Optimizer(clip_norm=1e9), head=objective.head, seed=3)
    learner = Learner(spec, build_mesh(torch.distributed.get_world_size()))
    learner.load()
    batch = step_batch(objective, rows_for(objective), splits[torch.distributed.get_rank()])
    sums = learner.forward_backward(batch.micro_batches, objective.loss_of_step(learner, batch))
    gradients = whole_gradients(learner)
    done = learner.step(1e-3, sums)
    return gradients, done.loss, done.metrics


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_change_nothing(directory: Path, one_rank: DeviceMesh, name: str) -> None:
    whole = rank_step(directory, name, [[[0, 1, 2, 3]]])
    for split in ([[0], [1, 2], [3]], [[3, 2], [], [1, 0]]):
        assert_same(rank_step(directory, name, [split]), whole)


@pytest.mark.cluster
@pytest.mark.parametrize("name", OBJECTIVES)
def test_ranks_change_nothing(directory: Path, one_rank: DeviceMesh, name: str) -> None:
    whole = rank_step(directory, name, [[[0, 1, 2, 3]]])
    for splits in ([[[0, 3]], [[1, 2]]], [[[0]], [[3]], [[1, 2]], [[]]]):
        for part in run_ranks(len(splits), rank_step, directory, name, splits):
            assert_same(part, whole)


def assert_same(got: tuple, wanted: tuple) -> None:
    assert wanted[0] and max(float(gradient.abs().max()) for gradient in wanted[0].values()) > 1e-3
    for name, gradient in wanted[0].items():
        torch.testing.assert_close(got[0][name], gradient, rtol=0, atol=1e-10)
    assert got[1] == pytest.approx(wanted[1], rel=1e-10)
    # Entropy is a sample of each micro-batch, so it follows the split.
    without = [{key: value for key, value in metrics.items() if key != "entropy"} for metrics in (got[2], wanted[2])]
    assert without[0] == pytest.approx(without[1], rel=1e-9)


def pair(chosen: float, rejected: float, references: tuple[float, float] = (-1.0, -1.0)) -> tuple[Tensor, object]:
    """Log-probabilities of a pair with two-token answers, and its batch."""
    batch = pack_examples([make_example([0, 1], 3, [2, 2], seed=0)], [list(references)])
    return torch.tensor([chosen / 2, chosen / 2, rejected / 2, rejected / 2]), batch


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # log-ratios: chosen -2 + 1 = -1, rejected -5 + 1 = -4; delta = 3
        (DpoLoss(beta=0.5), -math.log(sigmoid(1.5))),
        (DpoLoss(beta=0.5, label_smoothing=0.1), -0.9 * math.log(sigmoid(1.5)) - 0.1 * math.log(sigmoid(-1.5))),
        (
            DpoLoss(kind="robust", beta=0.5, label_smoothing=0.1),
            (-0.9 * math.log(sigmoid(1.5)) + 0.1 * math.log(sigmoid(-1.5))) / 0.8,
        ),
        (DpoLoss(kind="hinge", beta=0.1), 1 - 0.3),
        (DpoLoss(kind="ipo", beta=0.5), (1.5 - 1) ** 2),
        (DpoLoss(kind="sigmoid_norm", beta=0.5), -math.log(sigmoid(0.75))),
        (DpoLoss(beta=0.5, sft_weight=0.3), -math.log(sigmoid(1.5)) + 0.3 * 2 / 2),
    ],
)
def test_dpo_by_hand(settings: DpoLoss, expected: float) -> None:
    logprobs_W, batch = pair(-2.0, -5.0)
    done = dpo_loss(logprobs_W, batch, settings, examples=1, best_tokens=2)
    assert float(done.loss) == pytest.approx(expected, rel=1e-6)
    watched = {name: float(mean.total / mean.count) for name, mean in done.metrics.items()}
    assert watched["rewards/margins"] == pytest.approx(3 * settings.beta)
    assert (watched["rewards/accuracies"], watched["logps/chosen"], watched["lengths/rejected"]) == (1, -2, 2)


def test_a_model_that_is_its_own_reference_prefers_by_chance() -> None:
    logprobs_W, batch = pair(-1.0, -1.0)  # the references of both are -1
    watched = dpo_loss(logprobs_W, batch, DpoLoss(), examples=1, best_tokens=2).metrics
    assert float(watched["rewards/margins"].total) == 0 and float(watched["rewards/accuracies"].total) == 0.5


def test_kto_by_hand() -> None:
    rows = [make_example([0, -1], 2, [2, 3], seed=1), make_example([1, -1], 2, [2, 3], seed=2)]
    batch = pack_examples(rows, [[-3.0], [-1.0]])
    settings = KtoLoss(beta=0.5, desirable_weight=2.0)
    # log-ratios: up -1 + 3 = 2, down -4 + 1 = -3; reference point 1
    done = kto_loss(torch.tensor([-0.5, -0.5, -2.0, -2.0]), batch, settings, examples=2, reference_point=1.0)
    assert float(done.loss) == pytest.approx((2 * (1 - sigmoid(0.5)) + (1 - sigmoid(2.0))) / 2, rel=1e-6)


def watched(done: Contribution) -> dict[str, float]:
    """As a step gives them."""
    return with_margin({name: float(mean.total / mean.count) for name, mean in done.metrics.items()})


def test_every_objective_watches_rewards_and_lengths_by_hand() -> None:
    """Answers of 2 and 3 tokens: a longer rejected one shows, whatever the objective."""
    batch = pack_examples([make_example([0, 1], 3, [2, 3], seed=0)], [[-1.0, -1.0]])
    logprobs_W = torch.tensor([-1.0, -1.0, -2.0, -2.0, -2.0])
    thumbs = pack_examples([make_example([up, -1], 2, [2 + up, 3], seed=up) for up in (0, 1)], [[-1.0], [-1.0]])
    seen = {
        "dpo": watched(dpo_loss(logprobs_W, batch, DpoLoss(beta=0.5), examples=1, best_tokens=2)),
        "kto": watched(kto_loss(logprobs_W, thumbs, KtoLoss(beta=0.5), examples=2, reference_point=0.0)),
        "orpo": watched(orpo_loss(logprobs_W, batch, OrpoLoss(beta=0.5), examples=1, learnt_tokens=2)),
        "reward": watched(reward_loss(torch.tensor([1.0, -1.0]), batch, RewardLoss(), examples=1)),
    }
    for name, metrics in seen.items():
        assert (metrics["lengths/chosen"], metrics["lengths/rejected"]) == (2, 3), name
    # Log-ratios -2 + 1 and -6 + 1, half of them; ORPO: half of the means per token.
    for name, chosen, rejected in (("dpo", -0.5, -2.5), ("kto", -0.5, -2.5), ("orpo", -0.5, -1.0)):
        rewards = [seen[name][f"rewards/{key}"] for key in ("chosen", "rejected", "margins")]
        assert rewards == pytest.approx([chosen, rejected, chosen - rejected]), name
    assert seen["reward"]["margin"] == 2 and "rewards/margins" not in seen["reward"]


def test_orpo_by_hand() -> None:
    logprobs_W, batch = pair(-2.0, -5.0)
    log_odds = lambda mean: mean - math.log(1 - math.exp(mean))  # noqa: E731
    expected = 2 / 2 - 0.1 * math.log(sigmoid(log_odds(-1.0) - log_odds(-2.5)))
    done = orpo_loss(logprobs_W, batch, OrpoLoss(), examples=1, learnt_tokens=2)
    assert float(done.loss) == pytest.approx(expected, rel=1e-6)


def test_reward_by_hand() -> None:
    """A ranking a > b = c: two pairs, each half; the tie is no pair."""
    batch = pack_examples([make_example([0, 1, 1], 3, [2, 2, 2], seed=0, margin=0.5)])
    done = reward_loss(torch.tensor([2.0, 1.0, -1.0]), batch, RewardLoss(centring=0.1), examples=1)
    losses = [-math.log(sigmoid(1 - 0.5)) + 0.1 * 3**2, -math.log(sigmoid(3 - 0.5)) + 0.1 * 1**2]
    assert float(done.loss) == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_the_reference_point_is_the_clamped_mean_over_the_batch(directory: Path, one_rank: DeviceMesh) -> None:
    learner = Learner(LearnerSpec(open_store(str(directory)), "fp32", None), one_rank)
    learner.load()
    rows = make_thumbs(2)
    policy = [
        float(pack_mismatched([row]).answers.answer_logprobs(learner.forward(pack_mismatched([row])))) for row in rows
    ]
    for offsets, expected in (((4.0, 1.0), 2.5), ((-4.0, 1.0), 0.0)):
        references = [[value - offset] for value, offset in zip(policy, offsets, strict=True)]
        batch = StepBatch(
            (pack_examples(rows, [[0.0], [0.0]]),), (pack_mismatched(rows, references),), 0.0, 2, 0, 0.0, ((0, 1),)
        )
        loss = Kto(KtoLoss()).loss_of_step(learner, batch)
        assert loss.keywords["reference_point"] == pytest.approx(expected, abs=1e-4)  # pyright: ignore[reportFunctionMemberAccess] - a partial

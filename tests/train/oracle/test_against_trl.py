"""Every objective against TRL's own trainers: the loss and the full gradient, on the same tokens and weights.

Ours goes through the Learner: packed rows, in two micro-batches where TRL has one padded batch. Where an objective of ours is
more general than TRL's, the test builds it from what TRL computes and says why.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForSequenceClassification

from cluster.storage import open_store
from configs.schema.objectives import DpoLoss, KtoLoss, OrpoLoss, RewardLoss
from configs.schema.training import Optimizer
from jobs.records import ExampleRow, PackedRow
from jobs.train.batch import PackedBatch, pack_rows
from jobs.train.examples import pack_examples, pack_mismatched
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.objectives.dpo import Dpo
from jobs.train.objectives.kto import Kto
from jobs.train.objectives.lm import LanguageModel
from jobs.train.objectives.objective import Objective
from jobs.train.objectives.orpo import Orpo
from jobs.train.objectives.reward import Reward
from jobs.train.reader import StepBatch
from tests.train.judged import make_example
from tests.train.oracle import trl_side
from tests.train.oracle.trl_side import BOS, EOS, LossAndGradient
from tests.train.tiny_models import save_tiny_model
from tests.train.whole import whole_gradients

TOLERANCE = 1e-5
"""Relative, in fp32: of the loss, and of the norm of every parameter's gradient."""


@pytest.fixture(scope="module", params=["llama", "llama_untied"])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("policy"), request.param)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("reference"), seed=1)


def as_text(row: ExampleRow) -> ExampleRow:
    """The row with BOS in front and EOS behind every answer, which TRL puts there where it tokenizes."""
    ids = list(row.input_ids)
    for start, length in zip([0, *accumulate(row.segment_lengths)], row.segment_lengths, strict=False):
        ids[start], ids[start + length - 1] = BOS, EOS
    return replace(row, input_ids=ids)


def pairs() -> list[ExampleRow]:
    """Of unequal lengths; one has the worse answer first."""
    rows = [
        make_example([0, 1], 3 + index, [5 + index, 9 - index], seed=index, margin=0.3 * index) for index in range(3)
    ]
    return [as_text(row) for row in [*rows, make_example([1, 0], 5, [4, 7], seed=12)]]


def thumbs(seed: int) -> list[ExampleRow]:
    """Three up and one down; the mismatched completion is the one of the row before, as TRL pairs them."""
    alone = [as_text(make_example([int(index == 2)], 3 + index, [5 + index], seed=seed + index)) for index in range(4)]
    rows = []
    for row, before in zip(alone, alone[-1:] + alone[:-1], strict=True):
        prompt, other = row.input_ids[: row.prompt_lengths[0]], before.input_ids[before.prompt_lengths[0] :]
        rows.append(
            ExampleRow(
                [*row.input_ids, *prompt, *other],
                [*row.weights, *[0.0] * len(prompt), *[1.0] * len(other)],
                [*row.segment_lengths, len(prompt) + len(other)],
                row.document_ids * 2, [*row.levels, -1], row.prompt_lengths * 2, 0.0,
            )
        )  # fmt: skip
    return rows


def swapped(rows: Sequence[ExampleRow]) -> list[ExampleRow]:
    """The same pairs with the opposite judgement."""
    return [replace(row, levels=[1 - level for level in row.levels]) for row in rows]


def learner_of(directory: Path, mesh: DeviceMesh, objective: Objective, trained: bool) -> Learner:
    optimizer = Optimizer() if trained else None
    learner = Learner(LearnerSpec(open_store(str(directory)), "fp32", optimizer, head=objective.head), mesh)
    learner.load()
    return learner


def ours(
    objective: Objective, rows: Sequence[ExampleRow], policy: Path, mesh: DeviceMesh, reference: Path | None = None
) -> LossAndGradient:
    """What the Learner computes for the rows in two micro-batches, the references by a Learner of the reference model."""
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]] if len(rows) > 1 else [rows]
    best_prompt = isinstance(objective, Orpo) and objective.settings.sft_on == "prompt_and_answer"
    own = [pack_examples(part, learn_best_prompt=best_prompt) for part in halves]
    other = [pack_mismatched(part) for part in halves] if isinstance(objective, Kto) else []
    if reference is not None:
        scorer = learner_of(reference, mesh, objective, trained=False)
        own, other = ([with_references(batch, scorer) for batch in batches] for batches in (own, other))
    batch = StepBatch(tuple(own), tuple(other), 0.0, len(rows), 0, 0.0, ())
    return of_batch(objective, batch, policy, mesh)


def with_references(batch: PackedBatch, scorer: Learner) -> PackedBatch:
    answers = replace(batch.answers, reference_S=batch.answers.answer_logprobs(scorer.forward(batch)))
    return replace(batch, judged=answers)


def of_batch(objective: Objective, batch: StepBatch, policy: Path, mesh: DeviceMesh) -> LossAndGradient:
    learner = learner_of(policy, mesh, objective, trained=True)
    sums = learner.forward_backward(batch.micro_batches, objective.loss_of_step(learner, batch))
    return LossAndGradient(float(sums.loss), whole_gradients(learner))


def assert_equal(got: LossAndGradient, wanted: LossAndGradient) -> None:
    assert got.loss == pytest.approx(wanted.loss, rel=TOLERANCE)
    assert got.gradient.keys() == wanted.gradient.keys()
    for name, gradient in wanted.gradient.items():
        size = float(gradient.norm())
        assert size > 1e-4, f"{name}: a gradient of {size} shows nothing"
        assert float((got.gradient[name] - gradient).norm()) <= TOLERANCE * size, name


@pytest.mark.parametrize("learnt", ["completion", "all"])
def test_sft(policy: Path, one_rank: DeviceMesh, tmp_path: Path, learnt: str) -> None:
    rows = [as_text(make_example([0], 3 + index, [5 + 2 * index], seed=index)) for index in range(4)]
    packed = [
        PackedRow(
            [*first.input_ids, *second.input_ids],
            [*first.weights, *second.weights] if learnt == "completion" else [*all_but_first(first), *all_but_first(second)],
            [*first.segment_lengths, *second.segment_lengths], [0, 1],
        )
        for first, second in zip(rows[::2], rows[1::2], strict=True)
    ]  # fmt: skip
    weight = sum(sum(row.weights) for row in packed)
    batch = StepBatch(tuple(pack_rows([row]) for row in packed), (), weight, 2, 0, 0.0, ())
    wanted = trl_side.of_sft(policy, rows, tmp_path, completion_only_loss=learnt == "completion")
    assert_equal(of_batch(LanguageModel(), batch, policy, one_rank), wanted)


def all_but_first(row: ExampleRow) -> list[float]:
    """Nothing predicts the first token of a segment."""
    return [0.0] + [1.0] * (len(row.input_ids) - 1)


@pytest.fixture(scope="module")
def scorer(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy with a head of one row, as transformers stores it."""
    torch.manual_seed(2)
    directory = tmp_path_factory.mktemp("scorer")
    model = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1)
    model.score.weight.data.normal_(0, 0.2)
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("centring", [0.0, 0.01])
def test_reward_with_margins(scorer: Path, one_rank: DeviceMesh, tmp_path: Path, centring: float) -> None:
    wanted = trl_side.of_reward(scorer, pairs(), tmp_path, center_rewards_coefficient=centring or None)
    assert_equal(ours(Reward(RewardLoss(centring=centring)), pairs(), scorer, one_rank), wanted)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (DpoLoss(beta=0.2), {"loss_type": "sigmoid", "beta": 0.2}),
        (DpoLoss(kind="ipo"), {"loss_type": "ipo"}),
        (DpoLoss(kind="hinge"), {"loss_type": "hinge"}),
        (DpoLoss(kind="robust", label_smoothing=0.2), {"loss_type": "robust", "label_smoothing": 0.2}),
        (DpoLoss(kind="sigmoid_norm", beta=2.0), {"loss_type": "sigmoid_norm", "beta": 2.0}),
        (DpoLoss(sft_weight=0.5), {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        (DpoLoss(kind="ipo", sft_weight=2.0), {"loss_type": ["ipo", "sft"], "loss_weights": [1.0, 2.0]}),
    ],
    ids=lambda value: f"{value.kind}-{value.sft_weight}" if isinstance(value, DpoLoss) else "",
)
def test_dpo(
    policy: Path, reference: Path, one_rank: DeviceMesh, tmp_path: Path, settings: DpoLoss, options: dict
) -> None:
    wanted = trl_side.of_dpo(policy, reference, pairs(), tmp_path, **options)
    assert_equal(ours(Dpo(settings), pairs(), policy, one_rank, reference), wanted)


@pytest.mark.parametrize("kind", ["sigmoid", "sigmoid_norm"])
def test_label_smoothing_is_a_share_of_swapped_pairs(
    policy: Path, reference: Path, one_rank: DeviceMesh, tmp_path: Path, kind: str
) -> None:
    """TRL 1.16 reads `label_smoothing` for other losses only; what it means is (1 - s) x these pairs + s x the swapped."""
    right, wrong = (
        trl_side.of_dpo(policy, reference, rows, tmp_path, loss_type=kind) for rows in (pairs(), swapped(pairs()))
    )
    settings = DpoLoss.model_validate({"kind": kind, "label_smoothing": 0.2})
    assert_equal(ours(Dpo(settings), pairs(), policy, one_rank, reference), right * 0.8 + wrong * 0.2)


def test_a_ranking_is_the_mean_of_its_pairs(
    policy: Path, scorer: Path, reference: Path, one_rank: DeviceMesh, tmp_path: Path
) -> None:
    """TRL knows pairs only: a ranking of three answers is one example to us and a batch of three to it."""
    lengths = [4, 7, 5]
    ranking = as_text(make_example([1, 0, 2], 4, lengths, seed=3, margin=0.2))
    two = [as_pair(ranking, better, worse) for better, worse in ((1, 0), (1, 2), (0, 2))]
    assert_equal(ours(Reward(RewardLoss()), [ranking], scorer, one_rank), trl_side.of_reward(scorer, two, tmp_path))
    wanted = trl_side.of_dpo(policy, reference, two, tmp_path)
    assert_equal(ours(Dpo(DpoLoss()), [ranking], policy, one_rank, reference), wanted)


def as_pair(row: ExampleRow, better: int, worse: int) -> ExampleRow:
    """Two of the answers of a ranking."""
    starts = [0, *accumulate(row.segment_lengths)]
    spans = [slice(starts[segment], starts[segment + 1]) for segment in (better, worse)]
    return ExampleRow(
        [token for span in spans for token in row.input_ids[span]],
        [weight for span in spans for weight in row.weights[span]],
        [row.segment_lengths[segment] for segment in (better, worse)],
        [0, 0], [0, 1], [row.prompt_lengths[0]] * 2, row.margin,
    )  # fmt: skip


@pytest.mark.parametrize(("seed", "clamped"), [(28, False), (56, True)])
def test_kto_with_unequal_weights(
    policy: Path, reference: Path, one_rank: DeviceMesh, tmp_path: Path, seed: int, clamped: bool
) -> None:
    """z_ref is the mean over our global batch and over TRL's micro-batch, so all rows are one micro-batch there."""
    wanted, divergence = trl_side.of_kto(
        policy, reference, thumbs(seed), tmp_path, desirable_weight=0.7, undesirable_weight=1.6
    )
    assert divergence == 0 if clamped else divergence > 1, f"these rows make another case: z_ref {divergence}"
    settings = KtoLoss(desirable_weight=0.7, undesirable_weight=1.6)
    assert_equal(ours(Kto(settings), thumbs(seed), policy, one_rank, reference), wanted)


def test_orpo(policy: Path, one_rank: DeviceMesh, tmp_path: Path) -> None:
    wanted = trl_side.of_orpo(policy, pairs(), tmp_path, beta=0.4)
    assert_equal(ours(Orpo(OrpoLoss(beta=0.4)), pairs(), policy, one_rank), wanted)


def test_orpo_learning_the_answer_only(policy: Path, reference: Path, one_rank: DeviceMesh, tmp_path: Path) -> None:
    """TRL has no such option; it is the odds-ratio term of its ORPO beside the SFT term of its DPO."""
    with_odds, without = (trl_side.of_orpo(policy, pairs(), tmp_path, beta=beta) for beta in (0.4, 0.0))
    answers = trl_side.of_dpo(policy, reference, pairs(), tmp_path, loss_type="sft")
    settings = OrpoLoss(beta=0.4, sft_on="answer")
    assert_equal(ours(Orpo(settings), pairs(), policy, one_rank), with_odds + without * -1 + answers)

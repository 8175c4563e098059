"""PPO's losses on real Learners: the ratio of the first minibatch, the same update everywhere, values, temperature."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM

from cluster.storage import open_store
from configs.schema.ppo import KlPenalty, PpoAlgorithm
from configs.schema.training import Optimizer
from jobs.ppo.batches import pack_rollouts
from jobs.ppo.losses import Totals, policy_loss_of_step, value_loss
from jobs.ppo.ranks import scores_of_answers
from jobs.records import PackedRow
from jobs.train.batch import PackedBatch, pack_rows
from jobs.train.fsdp import Precision, build_mesh
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.model import Head
from jobs.train.objectives.objective import Contribution, EntropyLoss
from jobs.train.reward_scale import RewardScale, write_scale
from jobs.train.step import StepSums
from tests.ppo.rollouts import made_up, make_rollouts
from tests.train.ranks import run_ranks
from tests.train.tiny_models import save_tiny_model
from tests.train.whole import whole_gradients

ROLLOUTS = make_rollouts([(3, 9), (4, 1), (2, 6), (7, 12)])
TOTALS = Totals(answers=4, actions=28)
TEMPERATURE = 0.7
OPTIMIZER = Optimizer(learning_rate=1e-2, clip_norm=1e9)
EVERYTHING = PpoAlgorithm(
    aggregation="sequence", clip=0.1, clip_high=0.15, dual_clip=1.3, entropy_weight=0.05, importance_cap=1.2,
    kl=KlPenalty(where="loss", estimator="k3_straight"),
)  # fmt: skip
SETTINGS = {"default": PpoAlgorithm(), "everything": EVERYTHING}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("llama"))


def start(directory: Path, precision: Precision, head: Head = "logprobs", optimizer: Optimizer | None = OPTIMIZER):
    spec = LearnerSpec(open_store(str(directory)), precision, optimizer, head=head, seed=3)
    learner = Learner(spec, build_mesh(dist.get_world_size()))
    learner.load()
    return learner


def ratios(directory: Path, precision: Precision) -> list[bool]:
    """Whether forward and the forward pass of the update agree to the bit: before and after a step, with and without entropy."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    micro_batches = [pack_rollouts(ROLLOUTS[rank::ranks][:1]), pack_rollouts(ROLLOUTS[rank::ranks][1:])]
    same: list[bool] = []
    for head in ("logprobs", "values"):
        learner = start(directory, precision, head)
        for round_ in range(3):
            old = [learner.forward(batch, TEMPERATURE) for batch in micro_batches]
            seen: list[Tensor] = []

            def loss(values_W: Tensor, batch: PackedBatch, seen: list[Tensor] = seen) -> Contribution:
                seen.append(values_W.detach().clone())
                return Contribution((values_W - 1).square().sum(), {})

            def entropy_loss(values_W: Tensor, entropy_W: Tensor, batch: PackedBatch, loss=loss) -> Contribution:
                return Contribution(loss(values_W, batch).loss - entropy_W.sum(), {})

            learns_entropy = head == "logprobs" and round_ == 1
            sums = learner.forward_backward(
                micro_batches, EntropyLoss(entropy_loss) if learns_entropy else loss, TEMPERATURE
            )
            same += [torch.equal(before, now) for before, now in zip(old, seen, strict=True)]
            learner.step(1e-2, sums)
        assert float(seen[0].abs().max()) > 0
    return same


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_ratio_is_exactly_one(directory: Path, one_rank: DeviceMesh, precision: Precision) -> None:
    assert ratios(directory, precision) == [True] * 12


@pytest.mark.cluster
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_ratio_is_exactly_one_on_two_ranks(directory: Path, precision: Precision) -> None:
    assert run_ranks(2, ratios, directory, precision) == [[True] * 12] * 2


def update(directory: Path, head: Head, name: str, splits: list[list[list[int]]]) -> tuple:
    """Gradients, loss, metrics and log-probabilities after a step, in fp64; `splits[rank]` are micro-batches of rollouts."""
    settings = SETTINGS[name]
    sampler = [torch.tensor(rollout.sampler_logprobs) for rollout in ROLLOUTS]
    columns = {
        "old_logprobs": made_up(ROLLOUTS, 1, sampler, 0.3), "reference_logprobs": made_up(ROLLOUTS, 2, sampler),
        "advantages": made_up(ROLLOUTS, 3), "returns": made_up(ROLLOUTS, 4), "old_values": made_up(ROLLOUTS, 5),
    }  # fmt: skip
    micro_batches = [
        pack_rollouts(
            [ROLLOUTS[number] for number in numbers],
            **{key: [values[number] for number in numbers] for key, values in columns.items()},
        )
        for numbers in splits[dist.get_rank()]
    ]
    learner = start(directory, "fp64", head)

    def critic_loss(values_W: Tensor, batch: PackedBatch) -> Contribution:
        return value_loss(values_W, batch, settings, TOTALS)

    loss = critic_loss if head == "values" else policy_loss_of_step(settings, 0.3, TOTALS)
    sums: StepSums = learner.forward_backward(micro_batches, loss, TEMPERATURE)
    gradients = whole_gradients(learner)
    done = learner.step(1e-2, sums)
    return gradients, done.loss, done.metrics, learner.forward(pack_rollouts(ROLLOUTS), TEMPERATURE)


def assert_same(got: tuple, wanted: tuple) -> None:
    assert max(float(gradient.abs().max()) for gradient in wanted[0].values()) > 1e-3
    for name, gradient in wanted[0].items():
        torch.testing.assert_close(got[0][name], gradient, rtol=0, atol=1e-10)
    assert got[1] == pytest.approx(wanted[1], rel=1e-10)
    # Entropy that is only watched is a sample of each micro-batch, so it follows the split.
    without = [{key: value for key, value in metrics.items() if key != "entropy"} for metrics in (got[2], wanted[2])]
    assert without[0] == pytest.approx(without[1], rel=1e-9)
    torch.testing.assert_close(got[3], wanted[3], rtol=0, atol=1e-7)  # AdamW divides by gradients near 0


CASES = [("logprobs", "default"), ("logprobs", "everything"), ("values", "default"), ("values", "everything")]


@pytest.mark.parametrize(("head", "name"), CASES)
def test_micro_batches_change_nothing(directory: Path, one_rank: DeviceMesh, head: Head, name: str) -> None:
    whole = update(directory, head, name, [[[0, 1, 2, 3]]])
    for split in ([[0], [1, 2], [3]], [[3, 2], [], [1, 0]]):
        assert_same(update(directory, head, name, [split]), whole)


@pytest.mark.cluster
@pytest.mark.parametrize(("head", "name"), CASES[1:3])
def test_ranks_change_nothing(directory: Path, one_rank: DeviceMesh, head: Head, name: str) -> None:
    whole = update(directory, head, name, [[[0, 1, 2, 3]]])
    for part in run_ranks(2, update, directory, head, name, [[[0, 3], []], [[1], [2]]]):
        assert_same(part, whole)


def test_the_temperature_divides_logits_in_forward_and_update(directory: Path, one_rank: DeviceMesh) -> None:
    learner, batch, rollout = start(directory, "fp64"), pack_rollouts(ROLLOUTS[:1]), ROLLOUTS[0]
    reference = AutoModelForCausalLM.from_pretrained(directory).double()
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.answer_ids]])
    logprobs_TV = (reference(ids).logits[0, len(rollout.prompt_ids) - 1 : -1] / TEMPERATURE).log_softmax(-1)
    wanted_W = logprobs_TV.gather(1, torch.tensor(rollout.answer_ids)[:, None])[:, 0]
    torch.testing.assert_close(
        learner.forward(batch, TEMPERATURE), wanted_W.detach(), rtol=0, atol=1e-5
    )  # fp32 rotary angles
    learner.forward_backward([batch], lambda logprobs_W, _: Contribution(logprobs_W.sum(), {}), TEMPERATURE)
    wanted_W.sum().backward()
    for name, gradient in whole_gradients(learner).items():
        wanted = reference.get_parameter(name).grad
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_a_new_critic_values_everything_at_zero_and_learns(directory: Path, one_rank: DeviceMesh) -> None:
    learner, batch = start(directory, "fp32", "values"), pack_rollouts(ROLLOUTS)
    assert torch.equal(learner.forward(batch), torch.zeros(28))
    learner.step(
        1e-2, learner.forward_backward([batch], lambda values_W, _: Contribution((values_W - 1).square().sum(), {}))
    )
    assert float((learner.forward(batch)).mean()) > 0.01


def test_a_critic_takes_its_head_from_a_reward_model_and_not_its_scale(
    directory: Path, one_rank: DeviceMesh, tmp_path: Path
) -> None:
    """A value before an action is what the reward model's head says of the text up to there, before it is scaled."""
    start(directory, "fp64", "scores").export(open_store(str(tmp_path)))
    raw = start(tmp_path, "fp64", "scores")  # trained, so without a scale
    write_scale(RewardScale(5.0, 0.1, 9), open_store(str(tmp_path)))
    prefixes = [
        [*rollout.prompt_ids, *rollout.answer_ids[:taken]]
        for rollout in ROLLOUTS
        for taken in range(len(rollout.answer_ids))
    ]
    rows = [PackedRow(ids, [0.0] * len(ids), [len(ids)], [0]) for ids in prefixes]
    wanted_W = raw.forward(pack_rows(rows))
    assert float(wanted_W.std()) > 0.1
    for optimizer in (OPTIMIZER, None):
        critic = start(tmp_path, "fp64", "values", optimizer)
        got_W = critic.forward(pack_rollouts(ROLLOUTS), temperature=TEMPERATURE)
        torch.testing.assert_close(got_W, wanted_W, rtol=0, atol=1e-10)


def test_an_answer_that_was_cut_off_is_scored_at_an_end_token(directory: Path, one_rank: DeviceMesh) -> None:
    learner, end = start(directory, "fp32", "scores", None), 2
    closed = [
        rollout if rollout.finished
        else replace(rollout, answer_ids=[*rollout.answer_ids, end], sampler_logprobs=[*rollout.sampler_logprobs, 0.0])
        for rollout in ROLLOUTS
    ]  # fmt: skip
    assert sum(not rollout.finished for rollout in ROLLOUTS) == 1
    scores = scores_of_answers(learner, [ROLLOUTS], 2, end)
    assert list(scores.values()) == learner.forward(pack_rollouts(closed)).tolist()
    assert list(scores.values()) != learner.forward(pack_rollouts(ROLLOUTS)).tolist()

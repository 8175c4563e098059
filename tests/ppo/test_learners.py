"""PPO's losses on real Learners: the ratio of the first minibatch, the same update everywhere, values, temperature."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

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
from jobs.ppo.experience import Experience, estimate
from jobs.ppo.losses import Totals, policy_loss_of_step, value_loss
from jobs.ppo.ranks import scores_of_answers
from jobs.ppo.rewards import RunningScale
from jobs.train.batch import PackedBatch
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


def test_a_critic_that_starts_from_a_reward_model_has_its_body_and_values_of_zero(
    directory: Path, one_rank: DeviceMesh, tmp_path: Path
) -> None:
    """Its head and its scale are of an answer's end; what is valued is the text up to each action."""
    scorer = start(directory, "fp64", "scores")
    scorer.export(open_store(str(tmp_path)))
    write_scale(RewardScale(5.0, 0.1, 9), open_store(str(tmp_path)))
    critic, batch = start(tmp_path, "fp64", "values"), pack_rollouts(ROLLOUTS)
    assert torch.equal(critic.forward(batch, temperature=TEMPERATURE), torch.zeros(28, dtype=torch.float64))
    body = {name: values for name, values in scorer.state().items() if name.startswith("param/")}
    head = next(name for name in body if "score" in name)
    assert body.pop(head).abs().max() > 0
    assert all(torch.equal(critic.state()[name], values) for name, values in body.items())


def test_every_answer_is_scored_at_the_end_token_of_the_template(directory: Path, one_rank: DeviceMesh) -> None:
    """Cut off, ended by that token, or ended by another one."""
    learner, end = start(directory, "fp32", "scores", None), 2
    one, two, cut_off, other = ROLLOUTS
    assert not cut_off.finished and other.finished and other.answer_ids[-1] != end
    ended = [replace(rollout, answer_ids=[*rollout.answer_ids[:-1], end]) for rollout in (one, two)]
    closed = [
        *ended,
        replace(cut_off, answer_ids=[*cut_off.answer_ids, end], sampler_logprobs=[*cut_off.sampler_logprobs, 0.0]),
        replace(other, answer_ids=[*other.answer_ids[:-1], end]),
    ]
    scores = list(scores_of_answers(learner, [[*ended, cut_off, other]], 2, end).values())
    assert scores == learner.forward(pack_rollouts(closed)).tolist()
    as_sampled = learner.forward(pack_rollouts([*ended, cut_off, other])).tolist()
    assert scores[:2] == as_sampled[:2] and scores[2] != as_sampled[2] and scores[3] != as_sampled[3]


@pytest.mark.parametrize("estimator", ["gae", "rloo"])
def test_a_rank_without_answers_estimates_nothing(estimator: Literal["gae", "rloo"]) -> None:
    settings = PpoAlgorithm(estimator=estimator, answers_per_prompt=2)
    learnt = estimate(Experience({}, {}, {}, {}, {}, 2), [], settings, RunningScale(), 0.05)
    assert learnt.advantages == learnt.returns == [] and learnt.earned_S.shape == learnt.kl_S.shape == (0,)

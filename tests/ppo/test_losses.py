"""Losses of policy and critic: by hand, against plain loops over actions, and where gradients must be zero."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from configs.schema.ppo import KlPenalty, PpoAlgorithm
from jobs.ppo.batches import pack_rollouts
from jobs.ppo.losses import Totals, explained_variance, policy_loss, policy_loss_of_step, shares, value_loss
from jobs.records import Rollout
from jobs.train.batch import Actions, PackedBatch
from jobs.train.objectives.objective import Contribution, EntropyLoss

NO_KL = KlPenalty(where="none")
PLAIN = PpoAlgorithm(kl=NO_KL, importance_cap=None)


def batch_of(lengths: list[int], **columns: list[float]) -> PackedBatch:
    """Answers of these lengths; columns of all their actions, zeros where left out."""
    rollouts = [Rollout(index, 0, [3], [4] * length, [0.0] * length, True, 0) for index, length in enumerate(lengths)]
    batch = pack_rollouts(rollouts)
    names = [name for name in Actions.__slots__ if name != "segment_W"]
    values = {name: torch.tensor(columns.get(name, [0.0] * sum(lengths)), dtype=torch.float64) for name in names}
    return replace(batch, actions=replace(batch.actions, **values))


def watched(done: Contribution) -> dict[str, float]:
    means = {name: float(mean.total / mean.count) for name, mean in done.metrics.items()}
    return means | {name: float(value) for name, value in done.highest.items()}


@pytest.mark.parametrize(
    ("settings", "ratio", "advantage", "loss", "slope"),
    [
        # slope: d loss / d logprob; -ratio x advantage where nothing is clipped
        (PLAIN, 1.1, 2.0, -2.2, -2.2),
        (PLAIN, 1.5, 2.0, -1.2 * 2, 0.0),
        (PLAIN, 0.5, 2.0, -0.5 * 2, -1.0),
        (PLAIN, 1.5, -2.0, 3.0, 3.0),
        (PLAIN, 0.5, -2.0, 0.8 * 2, 0.0),
        (PLAIN.model_copy(update={"clip_high": 0.28}), 1.5, 2.0, -1.28 * 2, 0.0),
        (PLAIN.model_copy(update={"clip_high": 0.28}), 0.5, -2.0, 1.6, 0.0),
        (PLAIN.model_copy(update={"dual_clip": 3.0}), 5.0, -2.0, 6.0, 0.0),
        (PLAIN.model_copy(update={"dual_clip": 3.0}), 2.0, -2.0, 4.0, 4.0),
        (PLAIN.model_copy(update={"dual_clip": 3.0}), 5.0, 2.0, -2.4, 0.0),
    ],
)
def test_one_action_by_hand(settings: PpoAlgorithm, ratio: float, advantage: float, loss: float, slope: float) -> None:
    batch = batch_of([1], old_logprobs_W=[-2.0], sampler_logprobs_W=[-2.0], advantages_W=[advantage])
    new_W = torch.tensor([-2.0 + math.log(ratio)], dtype=torch.float64, requires_grad=True)
    done = policy_loss(new_W, None, batch, settings, 0.0, Totals(1, 1))
    done.loss.backward()
    assert done.loss.item() == pytest.approx(loss) and new_W.grad.item() == pytest.approx(slope, abs=1e-12)


def test_tokens_or_answers_count_the_same() -> None:
    """Answers of 1 and 3 actions with ratio 1, losses 4 and (1 + 2 + 3): by token 10 / 4, by answer (4 + 2) / 2."""
    batch = batch_of([1, 3], advantages_W=[-4.0, -1.0, -2.0, -3.0])
    for aggregation, expected in (("token", 2.5), ("sequence", 3.0)):
        settings = PLAIN.model_copy(update={"aggregation": aggregation})
        done = policy_loss(torch.zeros(4), None, batch, settings, 0.0, Totals(2, 4))
        assert float(done.loss) == pytest.approx(expected)


@hypothesis_settings(deadline=None)  # a busy machine is no error
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.sampled_from(["token", "sequence"]))
def test_shares_sum_to_one_however_the_answers_are_cut_up(lengths: list[int], aggregation) -> None:
    totals = Totals(len(lengths), sum(lengths))
    whole_W = shares(batch_of(lengths).actions, aggregation, totals)
    parts = torch.cat([shares(batch_of([length]).actions, aggregation, totals) for length in lengths])
    torch.testing.assert_close(whole_W, parts)
    assert float(whole_W.sum()) == pytest.approx(1)


def loop_loss(new: Tensor, entropy: Tensor, batch: PackedBatch, settings: PpoAlgorithm, coefficient: float) -> float:
    """The formulas, an action at a time, in plain Python."""
    actions, total = batch.actions, 0.0
    segments = actions.segment_W.tolist()
    for t, answer in enumerate(segments):
        at = SimpleNamespace(**{name: float(getattr(actions, name)[t]) for name in Actions.__slots__})
        ratio = math.exp(float(new[t]) - at.old_logprobs_W)
        high = settings.clip if settings.clip_high is None else settings.clip_high
        clipped = min(max(ratio, 1 - settings.clip), 1 + high)
        objective = min(ratio * at.advantages_W, clipped * at.advantages_W)
        if settings.dual_clip is not None and at.advantages_W < 0:
            objective = max(objective, settings.dual_clip * at.advantages_W)
        cap = settings.importance_cap
        importance = min(math.exp(at.old_logprobs_W - at.sampler_logprobs_W), cap) if cap else 1.0
        d = float(new[t]) - at.reference_logprobs_W
        kl = {"k2": d**2 / 2, "k3": math.exp(-d) - 1 + d, "k3_straight": math.exp(-d) - 1 + d, "k1": 0.0}
        loss = -importance * objective - settings.entropy_weight * float(entropy[t])
        if settings.kl.where == "loss":
            loss += coefficient * importance * (min(ratio, cap) if cap else 1.0) * kl[settings.kl.estimator]
        count = len(segments) if settings.aggregation == "token" else segments.count(answer) * (max(segments) + 1)
        total += loss / count
    return total


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip_high": 0.3, "dual_clip": 1.5, "importance_cap": 1.2},
        {"kl": KlPenalty(where="loss", estimator="k2"), "entropy_weight": 0.02},
        {"kl": KlPenalty(where="loss", estimator="k3_straight"), "importance_cap": 1.5},
        {"kl": KlPenalty(where="loss", estimator="k3"), "importance_cap": None},
        {"kl": KlPenalty()},
    ],
)
def test_the_policy_loss_equals_a_loop_over_actions(changes: dict, aggregation: str) -> None:
    settings = PpoAlgorithm(**{"aggregation": aggregation, **changes})
    generator = torch.Generator().manual_seed(len(str(changes)))

    def draw() -> Tensor:
        return (0.5 * torch.randn(9, generator=generator)).double()

    old = -2 + draw()
    columns = {
        "old_logprobs_W": old, "sampler_logprobs_W": old + draw(), "reference_logprobs_W": old + draw(), "advantages_W": 4 * draw(),
    }  # fmt: skip
    batch = batch_of([2, 1, 6], **{name: values.tolist() for name, values in columns.items()})
    new_W, entropy_W = old + draw(), draw().abs()
    loss = policy_loss_of_step(settings, 0.3, Totals(3, 9))
    done = loss.function(new_W, entropy_W, batch) if isinstance(loss, EntropyLoss) else loss(new_W, batch)
    assert float(done.loss) == pytest.approx(loop_loss(new_W, entropy_W, batch, settings, 0.3), rel=1e-6)
    assert isinstance(loss, EntropyLoss) == (settings.entropy_weight > 0)


def test_importance_weights_carry_no_gradient_and_are_capped() -> None:
    """The sampler was at half and at a tenth of the old probability: weights 2 -> cap 1.5, and 0.5 for the other way round."""
    batch = batch_of(
        [2], sampler_logprobs_W=[math.log(0.1), math.log(0.4)], old_logprobs_W=[math.log(0.2)] * 2, advantages_W=[1.0, 1.0]
    )  # fmt: skip
    new_W = batch.actions.old_logprobs_W.clone().requires_grad_()
    settings = PpoAlgorithm(kl=NO_KL, importance_cap=1.5)
    policy_loss(new_W, None, batch, settings, 0.0, Totals(1, 2)).loss.backward()
    torch.testing.assert_close(new_W.grad, torch.tensor([-0.75, -0.25], dtype=torch.float64))


def test_what_is_watched_by_hand() -> None:
    """Ratios 2 (clipped), 0.5 (counts in full for A > 0) and 1; the sampler was off by 0.3 once."""
    batch = batch_of([3], advantages_W=[1.0, 1.0, -1.0], sampler_logprobs_W=[0.0, 0.0, -0.3])
    new_W = torch.tensor([math.log(2), math.log(0.5), 0.0], dtype=torch.float64)
    seen = watched(policy_loss(new_W, None, batch, PLAIN, 0.0, Totals(1, 3)))
    k3 = (2 - 1 - math.log(2) + 0.5 - 1 + math.log(2)) / 3
    mismatch = (math.exp(0.3) - 1 - 0.3) / 3
    assert seen == pytest.approx(
        {
            "clip_fraction": 1 / 3, "kl/old_k1": 0.0, "kl/old_k3": k3, "mismatch/kl": mismatch, "mismatch/max_delta": 0.3,
            "ratio/max_log": math.log(2),
        }, abs=1e-12
    )  # fmt: skip
    with_reference = watched(policy_loss(new_W, None, batch, PpoAlgorithm(importance_cap=None), 0.0, Totals(1, 3)))
    assert with_reference["kl/reference_k1"] == pytest.approx(0, abs=1e-12)


def test_a_batch_without_actions_adds_nothing_and_watches_the_same() -> None:
    empty, full = pack_rollouts([]), batch_of([2])
    new_W = torch.zeros(0, requires_grad=True)
    done = policy_loss(new_W, None, empty, PpoAlgorithm(), 0.1, Totals(2, 9))
    done.loss.backward()
    other = policy_loss(torch.zeros(2), None, full, PpoAlgorithm(), 0.1, Totals(2, 9))
    assert (
        done.loss.item() == 0
        and list(done.metrics) == list(other.metrics)
        and list(done.highest) == list(other.highest)
    )
    assert value_loss(torch.zeros(0, requires_grad=True), empty, PpoAlgorithm(), Totals(2, 9)).loss.item() == 0


@pytest.mark.parametrize(
    ("value", "loss", "slope"),
    [
        # old value 1, return 2, clip 0.2: the worse of the two counts
        (1.1, 0.5 * 0.9**2, -0.9),
        (1.5, 0.5 * 0.8**2, 0.0),  # the clipped value 1.2 is further away: no reason to go on
        (0.5, 0.5 * 1.5**2, -1.5),  # the wrong way: the value itself is further away
        (3.5, 0.5 * 1.5**2, 1.5),
    ],
)
def test_one_value_by_hand(value: float, loss: float, slope: float) -> None:
    batch = batch_of([1], old_values_W=[1.0], returns_W=[2.0])
    values_W = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    done = value_loss(values_W, batch, PpoAlgorithm(), Totals(1, 1))
    done.loss.backward()
    assert done.loss.item() == pytest.approx(loss) and values_W.grad.item() == pytest.approx(slope)
    free = value_loss(values_W.detach(), batch, PpoAlgorithm(value_clip=None), Totals(1, 1))
    assert float(free.loss) == pytest.approx(0.5 * (value - 2) ** 2)


def test_explained_variance_adds_up_over_micro_batches() -> None:
    """Returns 1, 2, 3, 6 and values 1, 1, 4, 5 before the update, cut in two: errors 0, 1, -1, 1."""
    sums: dict[str, list[float]] = {}
    for returns, values in (([1.0, 2.0], [1.0, 1.0]), ([3.0, 6.0], [4.0, 5.0])):
        batch = batch_of([2], returns_W=returns, old_values_W=values)
        done = value_loss(torch.tensor(returns), batch, PpoAlgorithm(), Totals(2, 4))  # it has learnt them by heart
        for name, mean in done.metrics.items():
            total = sums.setdefault(name, [0.0, 0.0])
            total[0], total[1] = total[0] + float(mean.total), total[1] + float(mean.count)
    metrics = {name: total / count for name, (total, count) in sums.items()}
    assert explained_variance(metrics) == pytest.approx(1 - (3 / 4 - 1 / 16) / (50 / 4 - 9))
    assert explained_variance({**metrics, "value/returns_square": 9.0}) == 0.0


def test_returns_that_are_all_equal_have_no_variance_to_explain() -> None:
    """5,000 times 0.7 in fp32: the mean of their squares is not the square of their mean."""
    returns = torch.full((5000,), 0.7).double()
    mean, square = float(returns.sum() / 5000), float(returns.square().sum() / 5000)
    assert square != mean * mean
    means = {"value/returns": mean, "value/returns_square": square, "value/errors": 0.1, "value/errors_square": 0.5}
    assert explained_variance(means) == 0.0

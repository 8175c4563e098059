from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM

from cluster.storage import open_store
from configs.schema.training import Optimizer
from jobs.records import PackedRow
from jobs.train.batch import empty_batch, pack_rows
from jobs.train.fsdp import Precision, build_mesh
from jobs.train.learner import Learner, LearnerSpec, NonFiniteLoss, StepMetrics
from jobs.train.objectives.lm import next_token_loss
from jobs.train.objectives.objective import LossFunction
from tests.train.ranks import run_ranks
from tests.train.tiny_models import VOCABULARY, save_tiny_model
from tests.train.whole import whole_gradients

OPTIMIZER = Optimizer(weight_decay=0.1, clip_norm=1000.0)
RATE = 1e-2
"""Large, so that a forgotten step or moment is far outside every tolerance."""


def make_rows(number: int, seed: int = 0) -> list[PackedRow]:
    """Rows of different lengths, each of two segments, with whole and half weights."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(number):
        lengths = [7 + 3 * index, 12]
        ids = torch.randint(3, VOCABULARY, (sum(lengths),), generator=generator).tolist()
        weights = [0.0 if place == 0 else 1.0 - 0.5 * (place % 3 == 0) for length in lengths for place in range(length)]
        rows.append(PackedRow(ids, weights, lengths, [0, 1]))
    return rows


def next_token(denominator: float) -> LossFunction:
    return partial(next_token_loss, denominator=denominator)


def total_weight(rows: Sequence[PackedRow]) -> float:
    return sum(sum(row.weights) for row in rows)


def start(
    directory: Path, mesh: DeviceMesh, precision: Precision = "fp32", optimizer: Optimizer = OPTIMIZER
) -> Learner:
    learner = Learner(LearnerSpec(open_store(str(directory)), precision, optimizer), mesh)
    learner.load()
    return learner


def reader(state: dict[str, Tensor]) -> Callable[[str, int, int], Tensor]:
    return lambda name, first, rows: state[name][first : first + rows]


def rank_gradients(directory: Path, splits: list[list[list[int]]], replicate: int = 1) -> tuple:
    """`splits[rank]` are micro-batches of row numbers. Gradients, then metrics of the step and the state after it."""
    rows = make_rows(4)
    rank = torch.distributed.get_rank()
    learner = start(directory, build_mesh(torch.distributed.get_world_size(), replicate))
    batches = [pack_rows([rows[index] for index in numbers]) for numbers in splits[rank]]
    sums = learner.forward_backward(batches, next_token(total_weight(rows)))
    gradients = whole_gradients(learner)
    metrics = learner.step(RATE, sums, stop=rank == 1)
    state = {name: values.clone() for name, values in learner.state().items()}
    return gradients, metrics, state, learner.state_rows()


def join(parts: list[tuple]) -> dict[str, Tensor]:
    """The whole training state from what the ranks returned, by their own spans."""
    whole = {}
    for name, span in parts[0][3].items():
        tensor = torch.full(span.full_shape, torch.nan)
        for _, _, state, spans in parts:
            tensor[spans[name].first_row : spans[name].first_row + spans[name].rows] = state[name]
        assert not tensor.isnan().any(), name
        whole[name] = tensor
    return whole


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("llama"))


def test_gradient_equals_autograd_through_transformers(directory: Path, one_rank: DeviceMesh) -> None:
    rows = make_rows(3)
    learner = start(directory, one_rank)
    learner.forward_backward([pack_rows(rows)], next_token(total_weight(rows)))
    reference = AutoModelForCausalLM.from_pretrained(directory)
    loss = torch.zeros(())
    for row in rows:
        place = 0
        for length in row.segment_lengths:
            ids = torch.tensor(row.input_ids[place : place + length])
            weights = torch.tensor(row.weights[place + 1 : place + length])
            logprobs = reference(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
            loss = loss - (weights * logprobs).sum() / total_weight(rows)
            place += length
    loss.backward()
    for name, gradient in whole_gradients(learner).items():
        torch.testing.assert_close(gradient, reference.get_parameter(name).grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_splitting_into_micro_batches_changes_rounding_only(directory: Path, one_rank: DeviceMesh, precision) -> None:
    rows = make_rows(4)
    gradients = []
    for split in ([rows], [rows[:1], rows[1:3], rows[3:]], [rows, []]):
        learner = start(directory, one_rank, precision)
        learner.forward_backward([pack_rows(part) for part in split], next_token(total_weight(rows)))
        gradients.append(whole_gradients(learner))
    tolerance = 1e-5 if precision == "fp32" else 3e-2
    for name, gradient in gradients[0].items():
        assert gradient.dtype == torch.float32
        for other in gradients[1:]:
            torch.testing.assert_close(other[name], gradient, rtol=0, atol=tolerance * float(gradient.abs().max() + 1))


def test_sums_over_ranks_keep_every_digit(directory: Path, one_rank: DeviceMesh) -> None:
    assert start(directory, one_rank).sum_over_ranks(1 / 3) == 1 / 3


def test_two_runs_give_the_same_bits(directory: Path, one_rank: DeviceMesh) -> None:
    rows = make_rows(4)
    states = []
    for _ in range(2):
        learner = start(directory, one_rank, "bf16")
        for step in range(3):
            batches = [pack_rows(rows[:2]), pack_rows(rows[2:])]
            learner.step(RATE / (step + 1), learner.forward_backward(batches, next_token(total_weight(rows))))
        states.append({name: values.clone() for name, values in learner.state().items()})
    assert all(torch.equal(values, states[1][name]) for name, values in states[0].items())


def test_scoring_between_steps_sees_the_new_weights(directory: Path, one_rank: DeviceMesh, tmp_path: Path) -> None:
    rows = make_rows(2)
    batch = pack_rows(rows)
    learner = start(directory, one_rank)
    before = learner.forward(batch)
    learner.step(RATE, learner.forward_backward([batch], next_token(total_weight(rows))))
    after = learner.forward(batch)
    assert float((after - before).mean()) > 0.05
    learner.export(open_store(str(tmp_path)))
    assert torch.equal(start(tmp_path, one_rank).forward(batch), after)


def test_resuming_from_the_state_gives_the_same_bits(directory: Path, one_rank: DeviceMesh) -> None:
    rows = make_rows(3)
    first = start(directory, one_rank)

    def run_step(learner: Learner) -> StepMetrics:
        return learner.step(RATE, learner.forward_backward([pack_rows(rows)], next_token(total_weight(rows))))

    run_step(first)
    saved = {name: values.clone() for name, values in first.state().items()}
    run_step(first)
    second = start(directory, one_rank)
    second.forward(pack_rows(rows))  # leaves gathered weights behind, which must not survive
    second.load_state(reader(saved))
    run_step(second)
    resumed = second.state()
    assert all(torch.equal(values, resumed[name]) for name, values in first.state().items())
    assert float(resumed["steps_done"]) == 2


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(directory: Path, one_rank: DeviceMesh) -> None:
    rows = make_rows(2)
    learner = start(directory, one_rank)
    before = {name: values.clone() for name, values in learner.state().items()}
    sums = learner.forward_backward([pack_rows(rows)], next_token(total_weight(rows)))
    with pytest.raises(NonFiniteLoss, match="1 of 1 ranks"):
        learner.step(RATE, replace(sums, loss=torch.tensor(torch.nan, dtype=torch.float64)))
    assert all(torch.equal(values, before[name]) for name, values in learner.state().items())


def test_clipping_scales_the_whole_gradient(directory: Path, one_rank: DeviceMesh) -> None:
    """AdamW's first exp_avg is (1 - beta1) x gradient, so it shows the gradient that arrived."""
    rows = make_rows(2)
    learner = start(directory, one_rank, optimizer=Optimizer(clip_norm=0.25))
    sums = learner.forward_backward([pack_rows(rows)], next_token(total_weight(rows)))
    norm = torch.cat([gradient.flatten() for gradient in whole_gradients(learner).values()]).norm()
    metrics = learner.step(RATE, sums)
    assert metrics.gradient_norm == pytest.approx(float(norm), rel=1e-5) and metrics.gradient_norm > 0.25
    moments = [values.flatten() for name, values in learner.state().items() if name.startswith("exp_avg/")]
    assert float(torch.cat(moments).norm()) == pytest.approx(0.25 * (1 - 0.9), rel=1e-4)
    assert metrics.loss == pytest.approx(float(sums.loss)) and not metrics.stop


def test_activation_checkpointing_changes_no_bit(directory: Path, one_rank: DeviceMesh) -> None:
    gradients = []
    for checkpointing in (False, True):
        learner = Learner(
            LearnerSpec(open_store(str(directory)), "bf16", OPTIMIZER, activation_checkpointing=checkpointing), one_rank
        )
        learner.load()
        learner.forward_backward([pack_rows(make_rows(2)), pack_rows(make_rows(2, seed=1))], next_token(1.0))
        gradients.append(whole_gradients(learner))
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


@pytest.mark.cluster
def test_more_ranks_give_the_same_gradient_step_and_state(directory: Path) -> None:
    [(one, one_metrics, _, _), *_] = alone = run_ranks(1, rank_gradients, directory, [[[0, 1, 2, 3]]])
    layouts = [
        ([[[0], [3]], [[1, 2], []]], 1),
        ([[[0]], [[1]], [[2, 3]], [[]]], 1),
        ([[[0]], [[1]], [[2]], [[3]]], 2),
    ]
    for splits, replicate in layouts:
        parts = run_ranks(len(splits), rank_gradients, directory, splits, replicate)
        for gradients, metrics, _, _ in parts:
            assert metrics.loss == pytest.approx(one_metrics.loss, rel=1e-6)
            assert metrics.gradient_norm == pytest.approx(one_metrics.gradient_norm, rel=1e-5)
            assert metrics.stop
            for name, gradient in one.items():
                torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=1e-5)
        whole, expected = join(parts), join(alone)
        for name in (name for name in expected if name.startswith("exp_avg/") or name == "steps_done"):
            torch.testing.assert_close(whole[name], expected[name], rtol=0, atol=1e-5)


def scores_after_taking_over(directory: Path, state: dict[str, Tensor], exported: Path) -> Tensor:
    learner = start(directory, build_mesh(torch.distributed.get_world_size()))
    learner.load_state(reader(state))
    learner.export(open_store(str(exported)))
    return learner.forward(pack_rows(make_rows(2)))


@pytest.mark.cluster
def test_a_state_moves_to_any_number_of_ranks(directory: Path, one_rank: DeviceMesh, tmp_path: Path) -> None:
    rows = make_rows(2)
    learner = start(directory, one_rank)
    learner.step(RATE, learner.forward_backward([pack_rows(rows)], next_token(total_weight(rows))))
    state = {name: values.clone() for name, values in learner.state().items()}
    expected = learner.forward(pack_rows(rows))
    for world_size in (2, 3):
        exported = tmp_path / str(world_size)
        for scores in run_ranks(world_size, scores_after_taking_over, directory, state, exported):
            torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
        reference = AutoModelForCausalLM.from_pretrained(exported)
        for name, values in state.items():
            if name.startswith("param/"):
                assert torch.equal(reference.get_parameter(name.removeprefix("param/")), values)


def broken_step(directory: Path) -> tuple[str, bool]:
    learner = start(directory, build_mesh(2))
    before = {name: values.clone() for name, values in learner.state().items()}
    batches = [pack_rows(make_rows(1)) if torch.distributed.get_rank() == 0 else empty_batch()]
    sums = learner.forward_backward(batches, next_token(1.0))
    if torch.distributed.get_rank() == 0:
        sums = replace(sums, loss=sums.loss * torch.inf)
    try:
        learner.step(RATE, sums)
    except NonFiniteLoss as error:
        return str(error), all(torch.equal(values, before[name]) for name, values in learner.state().items())
    return "no error", False


@pytest.mark.cluster
def test_every_rank_learns_that_one_of_them_is_not_finite(directory: Path) -> None:
    for message, unchanged in run_ranks(2, broken_step, directory):
        assert "not finite on 1 of 2 ranks" in message and unchanged


def step_after_taking_memory(directory: Path, mib_of_rank: list[int]) -> StepMetrics:
    rank = torch.distributed.get_rank()
    learner = start(directory, build_mesh(torch.distributed.get_world_size()))
    torch.ones(mib_of_rank[rank] * 2**18)  # and gives it back: the peak remains
    sums = learner.forward_backward([pack_rows(make_rows(1))], next_token(1.0))
    return learner.step(RATE, sums)


@pytest.mark.cluster
def test_every_rank_learns_the_peak_memory_of_each(directory: Path) -> None:
    first, second = run_ranks(2, step_after_taking_memory, directory, [0, 300])
    assert first.peak_rss_bytes == second.peak_rss_bytes and len(first.peak_rss_bytes) == 2
    assert first.peak_rss_bytes[1] - first.peak_rss_bytes[0] == pytest.approx(300 * 2**20, rel=0.3)

"""Moments in 8 bits: the levels and the error are bitsandbytes', training is fp32's, and a state moves and resumes exactly."""

import hashlib
from pathlib import Path

import pytest
import torch

from cluster.storage import Store
from configs.schema.training import Optimizer
from jobs.train.checkpoint import find_checkpoints
from jobs.train.eight_bit import EightBit, dynamic_levels
from jobs.train.loop import TrainJob
from jobs.train.optimizer import AdamW
from jobs.train.weights import list_tensors
from tests.world.ranks import run_ranks
from tests.world.toy_training import model_digest, toy_job, toy_stage, train_toy

BITSANDBYTES_LEVELS = {True: "e732639a65f497b4", False: "305f002cc11278fb"}
"""sha256 of bitsandbytes 0.50.2, functional.create_dynamic_map(signed), as fp32."""
BITSANDBYTES_ERROR = {True: 0.010665, False: 0.006742}
"""Mean error over mean magnitude of its quantize_blockwise and back on the numbers below, in blocks of 256."""


def drawn(signed: bool) -> torch.Tensor:
    values = torch.randn(64, 1024, generator=torch.Generator().manual_seed(3)) * 0.01
    return values if signed else values * values


@pytest.mark.parametrize("signed", [True, False])
def test_levels_and_error_are_those_of_bitsandbytes(signed: bool) -> None:
    digest = hashlib.sha256(dynamic_levels(signed).numpy().tobytes()).hexdigest()[:16]
    assert digest == BITSANDBYTES_LEVELS[signed]
    values = drawn(signed)
    moment = EightBit(values, signed)
    moment.write(0, 64, values)
    error = (moment.read(0, 64) - values).abs().mean() / values.abs().mean()
    assert float(error) == pytest.approx(BITSANDBYTES_ERROR[signed], rel=1e-3)


@pytest.mark.parametrize("width", [1, 131, 256, 300, 1025])
def test_a_row_does_not_depend_on_its_neighbours(width: int) -> None:
    """So a state can be cut between any two rows; widths that are no multiple of a block too."""
    values = torch.randn(7, width, generator=torch.Generator().manual_seed(width))
    values[3] = 0
    values[4] *= 1e-30
    whole, parts = EightBit(values, signed=True), EightBit(values, signed=True)
    assert not whole.read(0, 7).any()
    whole.write(0, 7, values)
    for first, last in ((5, 7), (0, 2), (2, 5)):
        parts.write(first, last, values[first:last])
    assert torch.equal(whole.codes, parts.codes) and torch.equal(whole.scales, parts.scales)
    assert torch.equal(whole.read(2, 5), parts.read(0, 7)[2:5])
    assert not whole.read(3, 4).any()
    levels_apart = (whole.read(0, 7) - values).abs().amax(1) / values.abs().amax(1).clamp_min(1e-38)
    assert float(levels_apart.max()) < 0.0075  # half the distance of the two highest levels


def test_two_bytes_a_number_and_small_tensors_in_full() -> None:
    rows = {"matrix": torch.zeros(49152, 576), "norm": torch.zeros(8192), "small": torch.zeros(63, 65)}
    shapes = {name: tuple(values.shape) for name, values in rows.items()}
    moments = AdamW(rows, shapes, Optimizer(state="8bit")).moments()
    size = {name: sum(moments[key].nbytes for key in moments if key.endswith(f"/{name}")) for name in rows}
    assert size["matrix"] / rows["matrix"].numel() == pytest.approx(2 * (1 + 4 / 192))
    assert size["norm"] == 8 * 8192 and size["small"] == 8 * 63 * 65
    # A rank that owns few rows of a large matrix has them in 8 bits like the others.
    few = AdamW({"matrix": torch.zeros(2, 576)}, {"matrix": (49152, 576)}, Optimizer(state="8bit"))
    assert set(few.eight_bit) == {"matrix"}


def test_no_update_is_much_larger_than_with_fp32_moments() -> None:
    """Rows of an embedding get gradients now and then, of sizes that differ by powers of ten: a second moment that is
    rounded to nothing while the first is not would be divided by."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"embedding": (256, 512)}
    largest = {}
    for state in ("fp32", "8bit"):
        rows = {"embedding": torch.zeros(256, 512)}
        optimizer, largest[state] = AdamW(rows, shapes, Optimizer(state=state, weight_decay=0)), 0.0
        for _ in range(40):
            sizes = 10 ** (-3 * torch.rand(256, 512, generator=generator))
            seen = torch.rand(256, 1, generator=generator) < 0.3
            before = rows["embedding"].clone()
            optimizer.step(rows, {"embedding": torch.randn(256, 512, generator=generator) * sizes * seen}, 1.0)
            largest[state] = max(largest[state], float((rows["embedding"] - before).abs().max()))
    assert largest["8bit"] < 2 * largest["fp32"]


def eight_bit_job(place: Path, model: Path, attempt: int = 1, ranks: int = 2, state: str = "8bit") -> TrainJob:
    stage = toy_stage(steps=12, ranks=ranks)
    optimizer = stage.optimizer.model_copy(update={"state": state})
    return toy_job(Store(str(place)), model, stage.model_copy(update={"optimizer": optimizer}), attempt)


def losses(job: TrainJob) -> list[float]:
    return [entry["loss"] for entry in job.output.read_json("history.json")]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> TrainJob:
    job = eight_bit_job(tmp_path_factory.mktemp("unbroken"), tiny_model)
    assert run_ranks(2, train_toy, job) == [0, 0]
    return job


@pytest.mark.cluster
def test_the_loss_falls_as_with_fp32_moments(unbroken: TrainJob, tiny_model: Path, tmp_path: Path) -> None:
    in_full = eight_bit_job(tmp_path, tiny_model, state="fp32")
    assert run_ranks(2, train_toy, in_full) == [0, 0]
    assert losses(unbroken)[0] == losses(in_full)[0] > losses(in_full)[-1] + 0.3
    assert losses(unbroken)[-1] == pytest.approx(losses(in_full)[-1], rel=0.01)
    assert losses(unbroken) != losses(in_full)
    kept = list_tensors(find_checkpoints(unbroken.artifact)[-1].directory, {"F32": torch.float32, "U8": torch.uint8})
    assert {str(tensor.dtype) for name, tensor in kept.items() if "exp_avg" in name} == {"torch.uint8", "torch.float32"}


@pytest.mark.cluster
def test_killed_and_resumed_is_bit_equal(unbroken: TrainJob, tiny_model: Path, tmp_path: Path) -> None:
    kill = {"ACCLIMATE_KILL_AT": "after_optimizer_step_before_checkpoint:7"}
    assert -9 in run_ranks(2, train_toy, eight_bit_job(tmp_path, tiny_model), environment=kill)
    job = eight_bit_job(tmp_path, tiny_model, attempt=2)
    assert run_ranks(2, train_toy, job) == [0, 0]
    assert model_digest(job) == model_digest(unbroken)
    assert losses(job) == losses(unbroken)


@pytest.mark.cluster
@pytest.mark.parametrize("ranks", [1, 3])
def test_other_ranks_go_on_from_the_same_state(
    unbroken: TrainJob, tiny_model: Path, tmp_path: Path, ranks: int
) -> None:
    kill = {"ACCLIMATE_KILL_AT": "after_optimizer_step_before_checkpoint:7"}
    killed = eight_bit_job(tmp_path, tiny_model)
    assert -9 in run_ranks(2, train_toy, killed, environment=kill)
    saved = find_checkpoints(killed.artifact)[-1].step
    assert saved in (4, 6)  # step 7 does not wait for the save of step 6
    job = eight_bit_job(tmp_path, tiny_model, attempt=2, ranks=ranks)
    assert run_ranks(ranks, train_toy, job) == [0] * ranks
    assert losses(job)[:saved] == losses(unbroken)[:saved]
    assert losses(job)[saved:] == pytest.approx(losses(unbroken)[saved:], rel=1e-4)

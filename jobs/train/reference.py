"""Log-probabilities of all answers under the reference model, once, before the first step.

    Learner (of the reference) --forward, in the order of the steps--> {row: one number a segment} --> reference.parquet

DPO and KTO need one number per answer, so the reference model is in memory only while they are computed. Where it is the
model that is trained, the same Learner does it with the same micro-batches: the first log-ratios are exactly 0.
"""

import io
import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist
from torch import Tensor

from cluster.storage import Store
from configs.errors import RunFailed
from jobs.train.batch import PackedBatch
from jobs.train.learner import Learner
from jobs.train.reader import References, RowReader, StepBatch

FILE = "reference.parquet"

TOLERANCE = {"fp64": 1e-9, "fp32": 1e-5, "bf16": 3e-2}
"""Of a log-probability: by what the same answer may differ in micro-batches of another size."""


class ReferenceMismatch(RunFailed):
    """The stored reference log-probabilities are not those of the rows that are trained on."""


def find_references(artifact: Store) -> References | None:
    """What an earlier attempt has computed; the key of the artifact covers rows and reference."""
    for attempt in artifact.names("attempts"):
        directory = artifact.below("attempts", attempt)
        if directory.exists(FILE):
            table = pq.read_table(io.BytesIO(directory.read(FILE)))
            rows, logprobs = table["row"].to_pylist(), table["logprobs"].to_pylist()
            return dict(zip(rows, logprobs, strict=True))
    return None


def compute_references(learner: Learner, reader: RowReader, steps: int, output: Store) -> References:
    """Every row of the first `steps` steps through the model; written below `output`. All ranks call it together.

    Args:
        learner: loaded, with the weights of the reference.
        reader: without references.
        steps: as many as it takes to meet every row of the run.
    """
    rows: list[int] = []
    values: list[list[float]] = []
    for step in range(steps):
        for numbers, logprobs in _score(learner, reader.read(step)):
            rows += numbers
            values += logprobs
    everyone: list[tuple[list[int], list[list[float]]]] = [([], [])] * dist.get_world_size()
    dist.all_gather_object(everyone, (rows, values))
    known = {row: logprobs for part in everyone for row, logprobs in zip(*part, strict=True)}
    if dist.get_rank() == 0:
        numbers = sorted(known)
        lists = pa.array([known[row] for row in numbers], pa.list_(pa.float32()))
        sink = io.BytesIO()
        pq.write_table(pa.table({"row": pa.array(numbers, pa.int64()), "logprobs": lists}), sink)
        output.write(FILE, sink.getvalue())
    dist.barrier()
    return known


def steps_until_all_rows(total_steps: int, row_count: int, rows_per_step: int) -> int:
    """Steps after which every row of the run has been met once."""
    return min(total_steps, math.ceil(row_count / rows_per_step))


def check_references(learner: Learner, batch: StepBatch) -> None:
    """Raises ReferenceMismatch where a model that *is* the reference gives other numbers. All ranks call it together."""
    worst = 0.0
    for part in batch.micro_batches[:1]:
        policy_S, reference_S = _answers(learner, part), part.answers.reference_S
        known_S = part.answers.answer_lengths() > 0
        off_S = (policy_S - reference_S).abs() / reference_S.abs().clamp(min=1)
        worst = float(off_S[known_S].max()) if known_S.any() else 0.0
    worst = learner.sum_over_ranks(worst)
    if not worst <= TOLERANCE[learner.spec.precision]:
        raise ReferenceMismatch(
            f"before the first step the model and its own reference differ by {worst:.2g} of a log-probability. The shards or "
            "the model changed behind the artifacts' back; remove the artifact of this stage and run again."
        )


def _score(learner: Learner, batch: StepBatch) -> Iterator[tuple[list[int], list[list[float]]]]:
    mismatched = batch.mismatched or (None,) * len(batch.micro_batches)
    for numbers, own, other in zip(batch.rows, batch.micro_batches, mismatched, strict=True):
        per_row = _by_row(own, _answers(learner, own), len(numbers))
        if other is not None:
            extra = _by_row(other, _answers(learner, other), len(numbers))
            per_row = [[*mine, *more] for mine, more in zip(per_row, extra, strict=True)]
        yield list(numbers), per_row


def _answers(learner: Learner, batch: PackedBatch) -> Tensor:
    return batch.answers.answer_logprobs(learner.forward(batch).cpu())


def _by_row(batch: PackedBatch, logprobs_S: Tensor, rows: int) -> list[list[float]]:
    values = logprobs_S.tolist()
    bounds = np.searchsorted(batch.answers.example_S.numpy(), np.arange(rows + 1)).tolist()
    return [values[start:stop] for start, stop in pairwise(bounds)]
